"""The job client in memory keeps to its protocol, and says so when an engine does not."""

import os
import select
import signal

import pytest
from drawbar.engine import Lookup, Ticket
from drawbar.model import Input, JobSpec, Reason
from drawbar.testing.memory import MemoryJobs, ProtocolViolation


@pytest.fixture
def workspace(tmp_path):
    path = tmp_path / "workspace"
    path.mkdir()
    return path


def spec(workspace, identity="a", command="true", **changes):
    arguments = {"canonical": command, "directory": str(workspace), **changes}
    return JobSpec(identity=identity, name=identity, step="s", argv=("sh", "-c", command), **arguments)


def run(jobs, *specs):
    """Submit, accept all that succeed, and give what ended, by identity."""
    jobs.submit(specs)
    results = {}
    while (ended := jobs.wait()) is not None:
        results[ended.ticket.identity] = ended.result
        if ended.result.ok:
            jobs.accept(ended.ticket)
    return results


def test_an_accepted_job_is_a_hit_with_its_value(workspace):
    jobs = MemoryJobs(workspace)
    jobs.submit([spec(workspace)])
    jobs.accept(jobs.wait().ticket, value={"n": (1, 2)})
    (ticket,) = jobs.restarted().submit([spec(workspace)])
    assert (ticket.found, ticket.value, ticket.result.exit_code) == (Lookup.HIT, {"n": [1, 2]}, 0)


def test_a_job_that_was_not_accepted_comes_again_without_being_run(workspace):
    jobs = MemoryJobs(workspace)
    jobs.submit([spec(workspace)])
    jobs.wait()
    again = jobs.restarted()
    assert [ticket.found for ticket in again.lookup([spec(workspace)])] == [Lookup.RUNNING]
    assert run(again, spec(workspace))["a"].ok
    assert again.executed == []


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ({}, {"identity": "b"}, "it has not ended before"),
        ({}, {"canonical": "other"}, "the job changed from 'true' to 'other'"),
        ({}, {"image": "python"}, "image changed from none to 'python'"),
        ({"command": "exit 1"}, {"command": "exit 1"}, "it failed before"),
    ],
)
def test_a_miss_says_why(workspace, before, after, why):
    jobs = MemoryJobs(workspace)
    run(jobs, spec(workspace, **before))
    (ticket,) = jobs.restarted().lookup([spec(workspace, **{**before, **after})])
    assert (ticket.found, ticket.why) == (Lookup.MISS, why)


def test_a_hit_needs_its_outputs_as_they_were_left(workspace):
    made = spec(workspace, command="echo 1 > out", outputs=(str(workspace / "out"),))
    jobs = MemoryJobs(workspace)
    run(jobs, made)
    assert jobs.restarted().lookup([made])[0].found is Lookup.HIT
    (workspace / "out").write_text("2\n")
    (ticket,) = jobs.restarted().lookup([made])
    assert (ticket.found, ticket.why) == (
        Lookup.MISS,
        f"its output {workspace / 'out'} is no longer as it was left",
    )


def test_what_an_engine_consumed_may_be_gone(workspace):
    made = spec(workspace, command="echo 1 > out", outputs=(str(workspace / "out"),))
    jobs = MemoryJobs(workspace)
    run(jobs, made)
    jobs.consumed([workspace / "out"])
    (workspace / "out").unlink()
    assert jobs.restarted().lookup([made])[0].found is Lookup.HIT


def test_a_failed_try_is_a_hit_once_the_next_exists(workspace):
    first, second = (spec(workspace, command="test -e ok", try_number=number) for number in (1, 2))
    jobs = MemoryJobs(workspace)
    assert not run(jobs, first)["a"].ok
    (workspace / "ok").touch()
    assert run(jobs, second)["a"].ok
    tickets = jobs.restarted().submit([first, second])
    assert [(ticket.found, ticket.result.exit_code) for ticket in tickets] == [
        (Lookup.HIT, 1),
        (Lookup.HIT, 0),
    ]


def test_a_job_without_declared_outputs_is_remembered_by_what_it_changed(workspace):
    (workspace / "kept").write_text("1\n")
    changing = spec(
        workspace,
        command="echo 2 >> kept; touch new",
        undeclared_outputs=True,
        inputs=(Input(path=str(workspace / "kept"), name="kept"),),
    )
    jobs = MemoryJobs(workspace)
    run(jobs, changing)
    assert jobs.restarted().lookup([changing])[0].found is Lookup.HIT
    (workspace / "new").unlink()
    assert jobs.restarted().lookup([changing])[0].found is Lookup.MISS


def test_misses_are_cleared_and_prepared_and_hits_are_not(workspace):
    out = workspace / "out"
    made = spec(workspace, command="cat in > out", outputs=(str(out),))
    out.write_text("left by somebody")
    seen = []

    def prepare(job):
        seen.append((job.identity, out.exists()))
        (workspace / "in").write_text("1\n")

    jobs = MemoryJobs(workspace)
    jobs.submit([made], prepare)
    jobs.accept(jobs.wait().ticket)
    jobs.restarted().submit([made], prepare)
    assert seen == [("a", False)]


@pytest.mark.parametrize(
    ("command", "reason", "exit_code"),
    [
        ("exit 3", Reason.EXIT_CODE, 3),
        ("exit 75", Reason.TEMPORARY, 75),
        ("kill -9 $$", Reason.KILLED, 128 + signal.SIGKILL),
        ("exit 4", None, 4),
    ],
)
def test_results_have_reasons(workspace, command, reason, exit_code):
    made = spec(workspace, command=command, success_codes=(0, 4), temporary_codes=(75,))
    result = run(MemoryJobs(workspace), made)["a"]
    assert (result.reason, result.exit_code) == (reason, exit_code)


def test_a_command_that_cannot_start_fails(workspace):
    result = run(MemoryJobs(workspace), spec(workspace, directory=str(workspace / "missing")))["a"]
    assert result.exit_code == 127
    assert "missing" in result.message


def test_a_job_that_takes_too_long_is_ended_with_all_its_processes(workspace):
    os.mkfifo(workspace / "alive")
    reader = os.open(workspace / "alive", os.O_RDONLY | os.O_NONBLOCK)
    try:
        jobs = MemoryJobs(workspace, job_limit_s=0.5)
        result = run(jobs, spec(workspace, command="exec 3> alive; sh -c 'exec sleep 600'; true"))["a"]
        assert result.reason is Reason.TIMEOUT
        assert select.select([reader], [], [], 60)[0], "a process of the job is still alive"
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


def test_streams_go_to_the_files_that_the_spec_names(workspace):
    (workspace / "in").write_text("text")
    paths = {name: str(workspace / name) for name in ("stdout", "stderr")}
    run(
        MemoryJobs(workspace),
        spec(workspace, command="cat; echo e >&2", stdin=str(workspace / "in"), **paths),
    )
    assert (workspace / "stdout").read_text() == "text"
    assert (workspace / "stderr").read_text() == "e\n"


def test_a_job_gets_its_own_environment_and_no_other(workspace, monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    run(MemoryJobs(workspace), spec(workspace, command='echo "$A$SECRET" > out', environment={"A": "1"}))
    assert (workspace / "out").read_text() == "1\n"


def test_cancelled_jobs_end_cancelled(workspace):
    jobs = MemoryJobs(workspace)
    tickets = jobs.submit([spec(workspace, "a", "touch a"), spec(workspace, "b", "touch b")])
    jobs.cancel(tickets[:1])
    ends = {ended.ticket.identity: ended.result.reason for ended in (jobs.wait(), jobs.wait())}
    assert ends == {"a": Reason.CANCELLED, "b": None}
    assert [path.name for path in workspace.iterdir()] == ["b"]


def test_the_seed_decides_what_ends_next(workspace):
    def order(seed):
        jobs = MemoryJobs(workspace, seed=seed)
        return list(run(jobs, *(spec(workspace, name) for name in "abcde")))

    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(5)}) > 1


def violate(jobs, breach, words):
    with pytest.raises(ProtocolViolation, match=words):
        breach()
    assert len(jobs.violations) == 1


def test_two_jobs_with_one_identity(workspace):
    jobs = MemoryJobs(workspace)
    violate(jobs, lambda: jobs.submit([spec(workspace), spec(workspace, command="false")]), "two jobs with")


@pytest.mark.parametrize("verb", ["accept", "reject"])
def test_settling_what_is_not_to_be_settled(workspace, verb):
    def settle(jobs, ticket):
        arguments = ("a reason",) if verb == "reject" else ()
        violate(jobs, lambda: getattr(jobs, verb)(ticket, *arguments), settle.words)

    jobs = MemoryJobs(workspace)
    settle.words = "never submitted"
    settle(jobs, Ticket(identity="x", found=Lookup.MISS))

    jobs = MemoryJobs(workspace)
    (ticket,) = jobs.submit([spec(workspace)])
    settle.words = "wait has not returned it"
    settle(jobs, ticket)

    jobs = MemoryJobs(workspace)
    jobs.submit([spec(workspace, command="false")])
    settle.words = "did not succeed"
    settle(jobs, jobs.wait().ticket)

    jobs = MemoryJobs(workspace)
    run(jobs, spec(workspace))
    settle.words = "already"
    settle(jobs, ticket)

    jobs = jobs.restarted()
    settle.words = "it is a hit"
    settle(jobs, jobs.submit([spec(workspace)])[0])


@pytest.mark.parametrize(
    ("changes", "outputs", "value", "words"),
    [
        ({}, ["other"], None, "neither among the outputs"),
        ({"outputs": ("out",)}, None, None, "there is no"),
        ({}, ["../outside"], None, "outside the workspace"),
        ({"undeclared_outputs": True}, ["other"], None, "names outputs"),
        ({}, None, object(), "not JSON"),
    ],
)
def test_accepting_what_is_wrong(workspace, changes, outputs, value, words):
    (workspace / "other").touch()
    jobs = MemoryJobs(workspace)
    if "outputs" in changes:
        changes = {"outputs": tuple(str(workspace / name) for name in changes["outputs"])}
    jobs.submit([spec(workspace, **changes)])
    ticket = jobs.wait().ticket
    paths = None if outputs is None else [workspace / name for name in outputs]
    violate(jobs, lambda: jobs.accept(ticket, paths, value), words)


def test_an_output_outside_of_the_workspace_is_never_cleared(workspace, tmp_path):
    outside = tmp_path / "precious"
    outside.touch()
    jobs = MemoryJobs(workspace)
    made = spec(workspace, outputs=(str(workspace / ".." / "precious"),))
    violate(jobs, lambda: jobs.submit([made]), "outside the workspace")
    assert outside.exists()


def test_cancelling_what_was_never_submitted(workspace):
    jobs = MemoryJobs(workspace)
    violate(jobs, lambda: jobs.cancel([Ticket(identity="x", found=Lookup.MISS)]), "never submitted")


def test_returning_with_jobs_left(workspace):
    jobs = MemoryJobs(workspace)
    jobs.submit([spec(workspace)])
    violate(jobs, jobs.finish, "in flight: a")
    jobs = MemoryJobs(workspace)
    jobs.submit([spec(workspace)])
    jobs.wait()
    violate(jobs, jobs.finish, "neither accepted nor rejected: a")


def test_touching_a_private_directory_before_the_lookup(workspace):
    jobs = MemoryJobs(workspace)
    jobs.directory("a").mkdir(parents=True)
    violate(jobs, lambda: jobs.lookup([spec(workspace)]), "prepared before it was looked up")
    jobs = MemoryJobs(workspace)
    jobs.directory("b")
    jobs.lookup([spec(workspace, "b")])
    jobs.directory("b").mkdir(parents=True)
    jobs.submit([spec(workspace, "b")])
    assert jobs.violations == []
