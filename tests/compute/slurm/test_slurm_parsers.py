"""What squeue, sacct and sbatch say, as recorded, and what steps may say to sbatch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from drawbar.batch import Batch
from drawbar.batchcalls import Busy, Rejected
from drawbar.errors import BackendError, SettingsError
from drawbar.model import JobSpec, JobState, Reason, Resources
from drawbar_slurm.backend import SlurmBackend
from drawbar_slurm.options import seconds
from drawbar_slurm.states import accounted, exit_code, queued, together

NAME = "db-0123456789abcdef0123456789abcdef"
SQUEUE_22_05 = f"""\
4|12|20|FAILED|NonZeroExitCode|0|768|n1|{NAME}|
4|1|9|COMPLETED|None|0|0|n1|{NAME}|
5|N/A|5|FAILED|JobLaunchFailure|0|9|n1|{NAME}|
8|N/A|8|OUT_OF_MEMORY|OutOfMemory|0|253|n1|{NAME}|
4|13-15,20-24:2%3|4|PENDING|JobArrayTaskLimit|0|0||{NAME}|
6|N/A|6|PENDING|PartitionConfig|0|0||{NAME}|
7|N/A|7|RUNNING|None|0|0|n[1-4]|{NAME}|
77|N/A|77|RUNNING|None|0|0|n1|somebody's|job|
9|N/A|9|PENDING|BeginTime|1|0||{NAME}|
10|N/A|10|SOMETHING_NEW|None|0|0|n2|{NAME}|
"""
SACCT_22_05 = f"""\
4_1|FAILED|3:0|n1|{NAME}
4_2|COMPLETED|0:0|n1|{NAME}
4_[13-40%3]|PENDING|0:0|None assigned|{NAME}
8|OUT_OF_MEMORY|0:125|n1|{NAME}
9|CANCELLED by 1000|0:0|None assigned|{NAME}
10|RUNNING|0:0|n1|{NAME}
11|TIMEOUT|0:0|n1|{NAME}
12|NODE_FAIL|1:0|n3|{NAME}
13|FAILED|0:9|n1|{NAME}
14|COMPLETED|0:0|n1|somebody's
"""


def test_squeue():
    seen = {(each.native_id): each for each in queued(SQUEUE_22_05)}
    assert "77" not in seen
    assert [(each.index, each.state) for each in seen.values() if each.native_id.startswith("4_1")][:2] == [
        (12, JobState.FAILED),
        (1, JobState.FINISHED),
    ]
    assert {index for index in (13, 14, 15, 20, 22, 24) if f"4_{index}" in seen} == {13, 14, 15, 20, 22, 24}
    assert "4_21" not in seen
    assert (seen["4_12"].exit_code, seen["4_12"].reason) == (3, None)
    assert (seen["5"].reason, seen["5"].index) == (Reason.KILLED, 0)
    assert seen["8"].reason is Reason.OUT_OF_MEMORY
    assert seen["6"].message == "PartitionConfig"
    assert (seen["7"].state, seen["7"].host) == (JobState.RUNNING, "n[1-4]")
    assert seen["9"].stuck
    assert seen["9"].reason is Reason.EVICTED
    assert (seen["10"].state, seen["10"].native_state) == (JobState.RUNNING, "SOMETHING_NEW")


def test_sacct():
    seen = {each.native_id: each for each in accounted(SACCT_22_05)}
    assert seen.keys() == {"4_1", "4_2", "8", "9", "11", "12", "13"}
    assert (seen["4_1"].index, seen["4_1"].exit_code, seen["4_1"].reason) == (1, 3, None)
    assert (seen["9"].state, seen["9"].message) == (JobState.CANCELLED, "it was cancelled by 1000")
    assert [seen[each].reason for each in ("8", "11", "12", "13")] == [
        Reason.OUT_OF_MEMORY,
        Reason.TIMEOUT,
        Reason.NODE_LOST,
        Reason.KILLED,
    ]


RECORDED = Path(__file__).parent / "recorded"
"""What squeue and sacct of each version said of jobs in the same states, and what all commands of each
answered (`answers`); made on real clusters. Of the configuration, only some lines are kept."""

VERSIONS = sorted(path.stem.partition("-")[2] for path in RECORDED.glob("squeue-*"))
FINISHED, FAILED, CANCELLED = JobState.FINISHED, JobState.FAILED, JobState.CANCELLED
SUBMITTED, RUNNING = JobState.SUBMITTED, JobState.RUNNING


def test_there_are_recordings_of_old_and_new_versions():
    assert VERSIONS == ["22.05", "24.11", "26.05"]


@pytest.mark.parametrize("version", VERSIONS)
def test_recorded_squeue(version):
    seen = list(queued((RECORDED / f"squeue-{version}.txt").read_text()))
    ended = [each for each in seen if each.state.terminal]
    alive = [each for each in seen if not each.state.terminal]
    # A submission that 24.11 refuses leaves a job, too.
    refused = {(FAILED, Reason.UNSCHEDULABLE, None)} if version == "24.11" else set()
    by_nodes_or_people = (Reason.NODE_LOST, Reason.CANCELLED)
    assert {
        (each.state, each.reason, each.exit_code) for each in ended if each.reason not in by_nodes_or_people
    } == {
        (FINISHED, None, 0),
        (FAILED, None, 3),
        (FAILED, Reason.KILLED, None),
        (FAILED, Reason.TIMEOUT, None),
        *refused,
    }
    assert [each.native_state for each in ended if each.reason is Reason.NODE_LOST] == ["NODE_FAIL"] * 2
    # The one that ran may never have been launched; its own record tells.
    assert [each.unless_begun for each in ended if each.reason is Reason.CANCELLED] == [
        Reason.NODE_LOST,
        None,
    ]
    assert sorted(each.index for each in seen if each.index) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    messages = {each.message for each in alive}
    assert {"BeginTime", "JobArrayTaskLimit", "JobHeldUser", "job requeued in held state"} <= messages
    assert {each.native_state for each in alive} == {"PENDING", "RUNNING", "SUSPENDED"}
    assert all(each.state is (SUBMITTED if each.native_state == "PENDING" else RUNNING) for each in alive)
    again = [each for each in alive if each.stuck]
    assert again
    assert {each.reason for each in again} == {Reason.EVICTED}


@pytest.mark.parametrize("version", VERSIONS)
def test_recorded_sacct(version):
    seen = list(accounted((RECORDED / f"sacct-{version}.txt").read_text()))
    assert all(each.state.terminal for each in seen)
    found = {
        (each.state, each.reason, each.exit_code) for each in seen if each.reason is not Reason.NODE_LOST
    }
    refused = {(FAILED, None, 1)} if version == "24.11" else set()
    assert found == {
        (FINISHED, None, 0),
        (FAILED, None, 3),
        (FAILED, Reason.KILLED, None),
        (FAILED, Reason.TIMEOUT, 0),
        (CANCELLED, Reason.CANCELLED, 0),
        *refused,
    }
    assert sum(each.reason is Reason.NODE_LOST for each in seen) == 2
    assert [each.message for each in seen if each.state is CANCELLED] == ["it was cancelled by 0"]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("OUT_OF_MEMORY", (FAILED, Reason.OUT_OF_MEMORY)),
        ("PREEMPTED", (FAILED, Reason.EVICTED)),
        ("BOOT_FAIL", (FAILED, Reason.NODE_LOST)),
        ("LAUNCH_FAILED", (FAILED, Reason.NODE_LOST)),
        ("DEADLINE", (FAILED, Reason.TIMEOUT)),
        ("REVOKED", (FAILED, Reason.LOST)),
        ("REQUEUED", (SUBMITTED, Reason.EVICTED)),
        ("REQUEUE_HOLD", (SUBMITTED, Reason.EVICTED)),
        ("SPECIAL_EXIT", (SUBMITTED, Reason.EVICTED)),
        ("CONFIGURING", (SUBMITTED, None)),
        ("POWER_UP_NODE", (SUBMITTED, None)),
        ("RESV_DEL_HOLD", (SUBMITTED, None)),
        ("COMPLETING", (RUNNING, None)),
        ("SIGNALING", (RUNNING, None)),
        ("STAGE_OUT", (RUNNING, None)),
        ("STOPPED", (RUNNING, None)),
        ("RESIZING", (RUNNING, None)),
        ("RECONFIG_FAIL", (RUNNING, None)),
        ("EXPEDITING", (RUNNING, None)),
    ],
)
def test_each_state(state, expected):
    (seen,) = queued(f"7|N/A|7|{state}|None|0|0|n1|{NAME}|")
    assert (seen.state, seen.reason) == expected
    assert seen.native_state == state


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        ("PartitionTimeLimit", Reason.UNSCHEDULABLE),
        ("PartitionNodeLimit", Reason.UNSCHEDULABLE),
        ("QOSMaxWallDurationPerJobLimit", Reason.UNSCHEDULABLE),
        ("AssocMaxCpuPerJobLimit", Reason.UNSCHEDULABLE),
        ("QOSMaxMemoryPerJob", Reason.UNSCHEDULABLE),
        ("QOSMaxJobsPerUserLimit", None),
        ("QOSGrpJobsLimit", None),
        ("PartitionConfig", None),
        ("PartitionDown", None),
        ("Resources", None),
    ],
)
def test_what_waiting_does_not_help(why, reason):
    (seen,) = queued(f"7|N/A|7|PENDING|{why}|0|0||{NAME}|")
    assert (seen.state, seen.reason, seen.message) == (SUBMITTED, reason, why)
    assert (why in seen.stuck) is (reason is not None)


def test_tasks_of_one_array_are_named_in_one_word():
    assert together(["4_1", "4_3", "7", "4_2", "4_9", "12_5"]) == ["4_[1-3,9]", "7", "12_[5]"]
    assert together([]) == []


@pytest.mark.parametrize("text", ["", "\n", "slurm_load_jobs error: x\n", "a|b\n", "|" * 12])
def test_what_is_not_about_our_jobs_is_passed_over(text):
    assert list(queued(text)) == list(accounted(text)) == []


@pytest.mark.parametrize(
    ("text", "code"), [("0", 0), ("768", 3), ("9", None), ("0:0", 0), ("3:0", 3), ("0:15", None), ("", None)]
)
def test_exit_codes(text, code):
    assert exit_code(text) == code


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (60, 3600),
        ("60", 3600),
        ("1:30", 90),
        ("2:00:00", 7200),
        ("1-2", 93600),
        ("1-0:30", 88200),
        ("0-0:0:5", 5),
    ],
)
def test_times(text, expected):
    assert seconds(text, "slurm_time") == expected


@pytest.mark.parametrize("text", ["", "x", "1h", "-5", "1:2:3:4", 0, "0:00"])
def test_what_is_no_time(text):
    with pytest.raises(ValueError, match="slurm_time"):
        seconds(text, "slurm_time")


def arguments(hints=None, resources=None, **options):
    backend = SlurmBackend(SlurmBackend.Options.parse({"grace_s": 10.0, **options}, where="test"))
    spec = JobSpec(
        identity="i",
        name="n",
        step="s",
        argv=("true",),
        directory="/",
        canonical=None,
        resources=resources or Resources(),
        hints={"cern": hints} if hints else {},
    )
    return backend.directives(spec)


def test_resources_become_options_of_sbatch():
    resources = Resources(cpus=1.5, memory_mib=100, memory_limit_mib=200, gpus=2, walltime_s=100)
    assert arguments(resources=resources) == (
        "--time=3",
        "--cpus-per-task=2",
        "--mem=200M",
        "--gres=gpu:2",
    )
    assert "--gpus=2" in arguments(resources=resources, gpus="gpus")


def test_a_step_wins_over_the_site():
    assert "--partition=short" in arguments({"slurm_partition": "short"}, partition="long")
    assert "--partition=long" in arguments(partition="long")
    assert "--time=90" in arguments(time="1:30:00")


def test_reanas_time_is_a_wall_time():
    backend = SlurmBackend(SlurmBackend.Options())
    hints = SlurmBackend.Hints.parse({"slurm_time": "60"}, where="s")
    assert backend.resources(hints, Resources(cpus=2)) == Resources(cpus=2, walltime_s=3600)


def test_mpi_and_whole_nodes():
    found = arguments({"slurm_nodes": 2, "slurm_ntasks": 8, "slurm_ntasks_per_node": 4, "exclusive": True})
    assert {"--nodes=2", "--ntasks=8", "--ntasks-per-node=4", "--exclusive"} <= set(found)


def test_more_arguments_are_those_that_the_site_allows():
    allowed = ["--licenses", "--nice"]
    assert "--licenses=a:1" in arguments({"slurm_extra": "--licenses=a:1"}, allow_arguments=allowed)
    with pytest.raises(ValueError, match=r"'--uid=0' is not allowed here \(allowed: --licenses, --nice"):
        arguments({"slurm_extra": "--nice=5 --uid=0"}, allow_arguments=allowed)
    with pytest.raises(ValueError, match="--nice"):
        arguments({"slurm_extra": "'--nice=5 --uid=0'"}, allow_arguments=allowed)


@pytest.mark.parametrize("value", ["a b", "--uid=0", "$(id)", "x\n#SBATCH --uid=0"])
@pytest.mark.parametrize("name", ["partition", "account", "qos", "constraint", "reservation", "gres"])
def test_no_hint_smuggles_an_option(name, value):
    with pytest.raises(ValueError, match=f"slurm_{name}"):
        arguments({f"slurm_{name}": value})


def test_an_unknown_hint_is_an_error():
    with pytest.raises(ValueError, match="slurm_partitoin"):
        arguments({"slurm_partitoin": "x"})
    with pytest.raises(SettingsError, match="partitoin"):
        SlurmBackend.Options.parse({"partitoin": "x"}, where="backends.slurm")


@pytest.fixture
def client(tmp_path):
    """A directory of commands that say what they are told to."""

    def make(**words):
        for name in ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "sacct"):
            command = tmp_path / name
            command.write_text(f"#!/bin/sh\n{words.get(name, 'exit 0')}\n")
            command.chmod(0o755)
        options = {"bin_directory": str(tmp_path), "calls_per_minute": 6000.0}
        return SlurmBackend(SlurmBackend.Options.parse(options, where="test"))

    return make


@pytest.mark.parametrize(
    ("says", "largest"),
    [
        ("echo 'MaxArraySize            = 5'", 4),
        ("echo 'MaxArraySize            = 1001'", 1000),
        ("echo 'MaxArraySize            = 4000001'", 1000),  # batch_size
        ("echo 'MaxArraySize            = 0'", 1),
        ("echo 'MaxJobCount = 5'", 1),
        ("exit 1", 100),  # not known now, and asked again
    ],
)
def test_arrays_are_smaller_than_max_array_size(client, says, largest):
    assert client(scontrol=says).largest_batch() == largest


@pytest.mark.parametrize(
    "says",
    ["echo 12", "echo 'sbatch: warning: x 7' >&2; echo 12", "echo Welcome to 3; echo; echo '12;cern'"],
)
def test_warnings_of_sbatch_are_no_answers(client, says, tmp_path):
    batch = Batch(name=NAME, directives=(), attempts=(), array=False, directory=str(tmp_path))
    assert client(sbatch=says).hand_over(batch) == "12"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("Batch job submission failed: Invalid partition name specified", Rejected),
        ("Batch job submission failed: Requested node configuration is not available", Rejected),
        ("Batch job submission failed: Invalid qos specification", Rejected),
        ("Batch job submission failed: Invalid account or account/partition combination specified", Rejected),
        ("Batch job submission failed: Invalid feature specification", Rejected),
        ("Batch job submission failed: Requested reservation is invalid", Rejected),
        ("QOSMaxWallDurationPerJobLimit\nsbatch: error: Batch job submission failed: Job violates", Rejected),
        ("Batch job submission failed: Unable to contact slurm controller (connect failure)", Busy),
        ("QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates", Busy),
        ("Batch job submission failed: Socket timed out on send/recv operation", BackendError),
    ],
)
def test_what_sbatch_says_when_it_fails(client, tmp_path, words, error):
    """As sbatch 22.05 says it: refused for good, to be tried again, or in doubt."""
    (tmp_path / "words").write_text(f"sbatch: error: {words}\n")
    batch = Batch(name=NAME, directives=(), attempts=(), array=False, directory=str(tmp_path))
    with pytest.raises(error) as raised:
        client(sbatch=f"cat {tmp_path}/words >&2; exit 1").hand_over(batch)
    assert type(raised.value) is error


def test_a_refusal_says_what_was_asked_for(client, tmp_path):
    batch = Batch(name=NAME, directives=("--qos=x",), attempts=(), array=False, directory=str(tmp_path))
    with pytest.raises(Rejected, match=r"Invalid qos \(it was asked for --qos=x\)"):
        client(sbatch="echo 'sbatch: error: Invalid qos' >&2; exit 1").hand_over(batch)


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def replay(client, version, tmp_path):
    """A backend whose commands answer as recorded in the cases given: `replay(sbatch="one job")`."""
    recorded = json.loads((RECORDED / f"answers-{version}.json").read_text())

    def make(**cases):
        words = {}
        for name, case in cases.items():
            answer = recorded[case]
            assert answer["argv"][0] == name
            for stream in ("out", "err"):
                (tmp_path / f"{name}.{stream}").write_text(answer[stream])
            words[name] = f"cd {tmp_path}; cat {name}.out; cat {name}.err >&2; exit {answer['code']}"
        return client(**words)

    return make


@pytest.fixture
def batch(tmp_path):
    return Batch(name=NAME, directives=(), attempts=(), array=False, directory=str(tmp_path))


@pytest.mark.parametrize("case", ["one job", "an array", "time above the partition", "the last job of a qos"])
def test_recorded_submissions(replay, batch, case):
    assert replay(sbatch=case).hand_over(batch).isdigit()


@pytest.mark.parametrize(
    ("case", "word"),
    [
        ("no such partition", "Invalid partition"),
        ("no such qos", "Invalid qos"),
        ("a qos of others", "Invalid qos"),
        ("time above the qos", "QOSMaxWallDurationPerJobLimit"),
        ("no such account", "Invalid account"),
        ("no such feature", "Invalid feature"),
        ("no such reservation", "reservation is invalid"),
        ("more gpus than a node has", "configuration is not available"),
        ("no such gres", "Invalid generic resource"),
        ("more memory than a node has", "Memory specification can not be satisfied"),
        ("a partition that is inactive", "inactive or drain"),
        ("no such licence", "Invalid license"),
        ("no such option", "unrecognized option '--nonsense=1'"),
        ("an array above MaxArraySize", "Invalid job array"),
    ],
)
def test_recorded_refusals(replay, batch, case, word):
    with pytest.raises(Rejected, match=word):
        replay(sbatch=case).hand_over(batch)


@pytest.mark.parametrize("case", ["more cpus than a node has", "more nodes than there are"])
def test_recorded_wishes_that_only_some_versions_refuse(replay, batch, version, case):
    if version == "24.11":
        with pytest.raises(Rejected, match="configuration is not available"):
            replay(sbatch=case).hand_over(batch)
    else:  # such jobs stay pending, with a word of Slurm's
        assert replay(sbatch=case).hand_over(batch).isdigit()


@pytest.mark.parametrize("case", ["the controller is away: sbatch", "more jobs than a qos lets one have"])
def test_recorded_words_of_a_slurm_that_takes_no_job_now(replay, batch, case):
    with pytest.raises(Busy):
        replay(sbatch=case).hand_over(batch)


@pytest.mark.parametrize("case", ["the controller does not answer: sbatch", "munged is away: sbatch"])
def test_recorded_words_that_leave_a_job_in_doubt(replay, batch, case):
    with pytest.raises(BackendError) as raised:
        replay(sbatch=case).hand_over(batch)
    assert type(raised.value) is BackendError


def test_recorded_questions_to_a_slurm_that_is_away(replay):
    away = "Unable to contact slurm controller"
    with pytest.raises(BackendError, match=away):
        replay(squeue="the controller is away: queue").queue()
    with pytest.raises(BackendError, match="timed out"):
        replay(squeue="the controller does not answer: queue").queue()
    with pytest.raises(BackendError, match=away):
        replay(scancel="the controller is away: stop").stop(["1"])
    for cases in (
        {"sinfo": "the controller is away: partitions", "scontrol": "config"},
        {"scontrol": "the controller is away: config"},
    ):
        (problem,) = problems(replay(**cases))
        assert away in problem
    assert replay(scontrol="the controller is away: config").largest_batch() == 100  # and is asked again


def test_recorded_check(replay):
    healthy = {"sbatch": "version", "scontrol": "config", "sinfo": "partitions", "squeue": "queue"}
    assert problems(replay(**healthy)) == []
    assert replay(**healthy).largest_batch() == 1000  # batch_size; MaxArraySize is 20001
    (problem,) = problems(replay(**healthy, sacct="accounting away: sacct"))
    assert "accounting does not answer" in problem
    (problem,) = problems(replay(**healthy, sacct="no accounting: sacct"))
    assert "sacct says that accounting is disabled" in problem


def test_recorded_partitions_are_those_that_the_settings_may_name(replay):
    backend = replay(sbatch="version", scontrol="config", sinfo="partitions")
    backend.options = replace(backend.options, partition="debug,lang")
    (problem,) = problems(backend)
    assert problem == "error: slurm: there is no partition lang"


def problems(backend):
    return [f"{problem.severity}: {problem.message}" for problem in backend.check_client()]


def test_the_check_of_commands_versions_and_accounting(client, tmp_path):
    accounting = "echo 'AccountingStorageType   = accounting_storage/slurmdbd'"
    assert problems(client(scontrol=accounting)) == []
    (old,) = problems(client(scontrol=accounting, sbatch="echo slurm 20.11.9"))
    assert old == "warning: slurm: slurm 20.11.9 is older than what drawbar is tested with (22.05)"
    (none,) = problems(client(scontrol="echo 'AccountingStorageType   = (null)'"))
    assert none.startswith("warning: slurm: there is no accounting, so")
    (away,) = problems(client(scontrol=accounting, sacct="echo 'sacct: error: refused' >&2; exit 1"))
    assert "accounting does not answer (sacct: sacct: error: refused), so" in away
    disabled = "echo 'Slurm accounting storage is disabled' >&2; exit 1"
    (off,) = problems(client(scontrol=accounting, sacct=disabled))
    assert off.startswith("warning: slurm: sacct says that accounting is disabled, so")
    (down,) = problems(client(sinfo="echo 'sinfo: Unable to contact slurm controller' >&2; exit 1"))
    assert down == "error: slurm: sinfo: sinfo: Unable to contact slurm controller"
    backend = client()
    (tmp_path / "scancel").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backend.commands.environment, "PATH", str(tmp_path))
        (missing,) = problems(backend)
    assert missing == "error: slurm: there is no scancel here"
