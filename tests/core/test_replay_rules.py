"""One test for each rule that makes "engines are replayed, jobs are remembered" come true."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from bench import attempts, said
from drawbar.model import JobState

ONE = 'finish(job("a", "write", "x", "1", outputs=["x"]))'
CHAIN = """
finish(job("a", "write", "x", "1", outputs=["x"]))
finish(job("b", "join", "y", "x", inputs=["x"], outputs=["y"]))
"""


def found(directory):
    """What each job was found to be when it was last asked for, by identity."""
    return {each.identity: each.found for each in said(directory) if hasattr(each, "found")}


def ran(bench) -> Counter[str]:
    """How often each job's command was run."""
    return Counter(bench.world.ledger)


def ok(result):
    assert result.exit_status == 0, result
    return result


# identity and key


def test_jobs_with_one_key_are_told_apart_by_their_identities(bench):
    """Identity names the directory, the tag and what is shown; the key names the content."""
    directory, result = bench.run(
        """
specs = [job(f"a/{n}", "exit", "0") for n in range(3)]
say(keys=[jobs.key(each) for each in specs])
say(directories=[str(jobs.directory(each.identity)) for each in specs])
finish(*specs)
"""
    )
    ok(result)
    keys, directories = said(directory)[:2]
    assert len(set(keys.keys)) == 1
    assert len(set(directories.directories)) == 3
    rows = attempts(directory)
    assert len({row.tag for row in rows}) == len({row.record for row in rows}) == 3
    ok(bench.drive(directory))
    assert ran(bench) == Counter(["a/0", "a/1", "a/2"])


def test_a_job_keeps_its_directory_over_replays_and_changes(bench):
    """A job's directory derives from its identity alone."""
    directory, _ = bench.run('say(place=str(jobs.directory("a/1")))\n' + ONE)
    bench.edit("main.script", 'say(place=str(jobs.directory("a/1")))\n' + ONE.replace('"1"', '"2"'))
    ok(bench.drive(directory))
    first, second = (each.place for each in said(directory) if hasattr(each, "place"))
    assert first == second


def test_what_the_canonical_form_leaves_out_changes_no_key(bench):
    """Paths that differ between runs are placeholders, so the key of another run's job is the same."""
    code = 'say(key=jobs.key(job("a", "sh", str(workspace), canonical={"argv": ["sh", "<workspace>"]})))'
    keys = {said(bench.run(code)[0])[0].key for _ in range(2)}
    assert len(keys) == 1


def test_the_canonical_form_is_stored_and_explains_a_miss(bench):
    """A job that is repeated is repeated because of a part of its canonical form, and that is told."""
    directory, _ = bench.run(ONE)
    bench.edit("main.script", ONE.replace('"1"', '"2"'))
    ok(bench.drive(directory))
    again = said(directory)[-1]
    assert again.found == "miss"
    assert "argv" in again.why
    assert attempts(directory)[-1].message or again.why


@pytest.mark.parametrize(
    ("change", "hits"),
    [
        ("resources=Resources(memory_mib=7)", True),
        ("retry=RetryPolicy(temporary=3)", True),
        ('environment={"HOME": "/elsewhere"}', True),
        ('image="img:2"', False),
        ('canonical={"argv": ["other"]}', False),
    ],
)
def test_the_key_has_in_it_what_determines_the_result_and_nothing_else(bench, change, hits):
    """What the job inherits, resources and retries are no part of the key; image and canonical form are."""
    code = "from drawbar.model import Resources\nfields = dict(canonical=1)\n{}\n"
    code += "finish(job('a', 'exit', '0', **fields))"
    directory, _ = bench.run(code.format(""))
    bench.edit("main.script", code.format(f"fields |= dict({change})"))
    ok(bench.drive(directory))
    assert found(directory) == {"a": "hit" if hits else "miss"}


def test_an_inputs_content_is_in_the_key_and_its_time_is_not(bench):
    """Contents of inputs count by digest, wherever and whenever they were written."""
    code = 'finish(job("a", "join", "y", "data", inputs=["data"], outputs=["y"]))'
    directory, _ = bench.run(code, inputs={"data": "1"})
    (directory.path / "workspace" / "data").touch()
    ok(bench.drive(directory))
    assert found(directory) == {"a": "hit"}
    bench.edit("data", "2")
    ok(bench.drive(directory))
    assert found(directory) == {"a": "miss"}
    assert (directory.path / "workspace" / "y").read_text() == "2"


# what is pinned


def test_the_engine_gets_no_variables_but_the_harmless_ones(bench, monkeypatch):
    """The environment in the key is what a job declares; what the driver inherited does not even arrive."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("DRAWBAR_BACKEND", "inline")
    monkeypatch.setenv("SOME_TOKEN", "s3cret")
    directory = bench.create("import os; say(all=dict(os.environ))")
    ok(bench.drive(directory, cold=True))
    told = said(directory)[0].all
    assert not {"AWS_SECRET_ACCESS_KEY", "DRAWBAR_BACKEND", "SOME_TOKEN"} & told.keys()
    assert "s3cret" not in "".join(told.values())
    assert "PATH" in told


def test_sets_have_one_order_in_every_start_of_an_engine(bench, monkeypatch):
    """A command that an engine makes of a set is the same in a replay, whatever the user's PYTHONHASHSEED."""
    code = 'finish(job("a", "exit", "0", *{f"name{n}" for n in range(50)}))'
    directory = bench.create(code)
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        ok(bench.drive(directory, cold=True))
    assert found(directory) == {"a": "hit"}


def test_parameters_and_options_are_kept_with_the_run(bench):
    """What was given when the run was made holds in every later drive."""
    directory = bench.create(
        "say(parameters=dict(source.parameters))",
        parameters={"p": 1, "q": 1},
        create={"parameters": {"p": 2}},
    )
    for _ in range(2):
        ok(bench.drive(directory))
    assert [each.parameters for each in said(directory)] == [{"p": 2, "q": 1}] * 2


def test_the_engine_and_its_version_are_recorded(bench):
    """The manifest tells with which version of the engine the run was driven."""
    import json

    directory, _ = bench.run(ONE)
    assert json.loads(directory.manifest.read_text())["engine"] == {"name": "scripted", "version": "0.5"}


def test_every_drive_has_the_same_workspace_and_copy_of_the_workflow(bench):
    """A run stays where it is: paths in jobs are the same in each drive."""
    directory, _ = bench.run(
        "say(places=[str(each) for each in (workspace, source.file, source.definition)])"
    )
    ok(bench.drive(directory))
    first, second = said(directory)
    assert first == second


# lookup


def test_lookup_comes_before_any_side_effect(bench):
    """Looking a job up changes nothing; only a job that will run is prepared, and then only once."""
    code = """
spec = job("a", "join", "y", "staged", outputs=["y"], canonical=1)
def prepare(spec):
    (workspace / "staged").write_text("s")
    say(prepared=spec.identity)
(ticket,) = jobs.lookup([spec])
say(looked=ticket.found, there=(workspace / "y").exists())
finish(spec, prepare=prepare)
"""
    directory, result = bench.run(code)
    ok(result)
    ok(bench.drive(directory))
    told = said(directory)
    assert [each.looked for each in told if hasattr(each, "looked")] == ["miss", "hit"]
    assert [each.there for each in told if hasattr(each, "there")] == [False, True]
    assert len([each for each in told if hasattr(each, "prepared")]) == 1


def test_hit_running_and_miss_are_disjoint_and_a_running_job_is_left_alone(bench):
    """A live job is re-attached: neither prepared, nor cleared, nor started again."""
    code = """
names = "abc" if (workspace / "c.wanted").exists() else "ab"
def prepare(spec):
    say(prepared=spec.identity)
finish(job("a", "append", "a", "1", outputs=["a"]), prepare=prepare)
finish(*(job(name, "append", name, "1", outputs=[name]) for name in names[1:]), prepare=prepare)
"""
    bench.world.hold("b")
    directory = bench.create(code)
    drive = bench.start(directory)
    bench.world.wait_for("b")
    drive.driver.let_go()
    assert drive.end().state is None
    workspace = directory.path / "workspace"
    (workspace / "b").write_text("half")
    (workspace / "c.wanted").touch()
    again = bench.start(directory)
    again.wait_for(lambda: any(e.identity == "c" and e.state is JobState.FINISHED for e in again.events))
    assert (workspace / "b").read_text() == "half"
    bench.world.release()
    ok(again.end())
    assert found(directory) == {"a": "hit", "b": "running", "c": "miss"}
    assert (workspace / "b").read_text() == "half1"
    assert ran(bench) == Counter("abc")
    assert [each.prepared for each in said(directory) if hasattr(each, "prepared")] == ["a", "b", "c"]


def test_a_changed_job_is_not_prepared_while_its_old_attempt_lives(bench):
    """The old attempt is cancelled and proven dead first; two never write to one file."""
    bench.world.hold("a")
    directory = bench.create('finish(job("a", "append", "x", "old", outputs=["x"]))')
    drive = bench.start(directory)
    bench.world.wait_for("a")
    drive.driver.let_go()
    drive.end()
    bench.edit("main.script", 'finish(job("a", "append", "x", "new", outputs=["x"]))')
    again = bench.start(directory)
    bench.world.wait_for("a", JobState.CANCELLED)
    again.wait_for(lambda: any(e.identity == "a" and e.attempt == 2 for e in again.events))
    bench.world.release()
    ok(again.end())
    assert bench.world.cancelled == ["a"]
    assert (directory.path / "workspace" / "x").read_text() == "new"


# before and after an attempt


def test_what_an_earlier_attempt_left_is_cleared_before_the_next(bench):
    """On a miss the job's directory and its declared outputs are gone before the engine prepares."""
    code = """
def prepare(spec):
    place = jobs.directory("a")
    say(left=[(workspace / "x").exists(), (workspace / "d").exists(), place.exists()])
    place.mkdir(parents=True)
    (place / "scratch").touch()
command = "echo half > x; mkdir d; echo half > d/f; exit 1"
drive(job("a", "sh", "-c", command, outputs=["x", "d"]), prepare=prepare)
"""
    directory, _ = bench.run(code)
    assert (directory.path / "workspace" / "d" / "f").exists()
    ok(bench.drive(directory))
    assert [each.left for each in said(directory) if hasattr(each, "left")] == [[False] * 3] * 2


@pytest.mark.parametrize("damage", ["changed", "deleted"])
def test_a_hit_counts_only_if_its_outputs_are_still_as_recorded(bench, damage):
    """A remembered job whose output is not what it left is run again, and so is nothing else."""
    directory, _ = bench.run(CHAIN)
    output = directory.path / "workspace" / "x"
    output.write_text("2") if damage == "changed" else output.unlink()
    ok(bench.drive(directory))
    assert found(directory) == {"a": "miss", "b": "hit"}
    assert "x" in said(directory)[-2].why
    assert output.read_text() == "1"


def test_outputs_that_the_engine_deleted_on_purpose_invalidate_nothing(bench):
    """A consumed output may be gone in later drives."""
    code = """
finish(job("a", "write", "x", "1", outputs=["x"]))
finish(job("b", "exit", "0"))
(workspace / "x").unlink(missing_ok=True)
jobs.consumed([workspace / "x"])
"""
    directory, result = bench.run(code)
    ok(result)
    ok(bench.drive(directory))
    assert found(directory)["a"] == "hit"
    assert ran(bench)["a"] == 1


def test_outputs_are_recorded_as_the_engine_names_them_when_it_accepts(bench):
    """Outputs need not be declared at submit: what `accept` names is what is verified later."""
    code = """
(ticket,) = jobs.submit([job("a", "write", "x", "1")])
say(found=ticket.found, identity="a", value=ticket.value)
if jobs.wait():
    jobs.accept(ticket, [workspace / "x"], {"n": [1]})
"""
    directory, result = bench.run(code)
    ok(result)
    ok(bench.drive(directory))
    assert (said(directory)[-1].found, said(directory)[-1].value) == ("hit", {"n": [1]})
    (directory.path / "workspace" / "x").write_text("other")
    ok(bench.drive(directory))
    assert found(directory) == {"a": "miss"}


def test_what_is_added_beside_an_output_afterwards_is_not_the_jobs(bench):
    """Outputs are recorded as the job left them; other files of the workspace are not looked at."""
    directory, _ = bench.run(ONE + '\n(workspace / ".stamp").touch()\n(workspace / "x").touch()')
    ok(bench.drive(directory))
    assert found(directory) == {"a": "hit"}


def test_remembered_directories_are_compared_as_a_whole(bench):
    """A directory is remembered with all that is in it; a file more or less makes it another."""
    code = 'finish(job("a", "sh", "-c", "mkdir d; echo 1 > d/f", outputs=["d"]))'
    directory, _ = bench.run(code)
    ok(bench.drive(directory))
    assert found(directory) == {"a": "hit"}
    (directory.path / "workspace" / "d" / "more").touch()
    ok(bench.drive(directory))
    assert found(directory) == {"a": "miss"}
    assert not (directory.path / "workspace" / "d" / "more").exists()


def test_a_job_that_changes_its_input_in_place_is_not_applied_twice(bench):
    """A mutator and its consumers replay to the same end, whichever of them was finished."""
    code = """
def mutate(identity, *argv):
    finish(job(identity, *argv, undeclared_outputs=True, canonical=[identity, *argv]))
mutate("make", "write", "x", "1")
mutate("grow", "append", "x", "2")
mutate("last", "join", "y", "x")
"""
    bench.world.hold("last")
    directory = bench.create(code)
    drive = bench.start(directory)
    bench.world.wait_for("last")
    drive.driver.let_go()
    drive.end()
    bench.world.release()
    ok(bench.drive(directory))
    workspace = directory.path / "workspace"
    assert ((workspace / "x").read_text(), (workspace / "y").read_text()) == ("12", "12")
    assert ran(bench) == Counter(["make", "grow", "last"])
    code = code.replace('"append", "x", "2"', '"append", "x", "3"').replace('"y", "x")', '"y", "x", "x")')
    bench.edit("main.script", code)
    ok(bench.drive(directory))
    assert ((workspace / "x").read_text(), (workspace / "y").read_text()) == ("13", "1313")
    assert ran(bench) == Counter(["make", "grow", "grow", "last", "last"])


def test_a_job_that_may_change_anything_waits_for_the_death_of_one_that_does(bench):
    """After an edit of an early step, a later one that is alive is ended before the workspace is touched."""
    code = """
def mutate(identity, *argv):
    finish(job(identity, *argv, undeclared_outputs=True, canonical=[identity, *argv]))
mutate("make", "write", "x", "1")
mutate("grow", "append", "x", "2")
"""
    bench.world.hold("grow")
    directory = bench.create(code)
    drive = bench.start(directory)
    bench.world.wait_for("grow")
    drive.driver.let_go()
    drive.end()
    bench.edit("main.script", code.replace('"x", "1"', '"x", "5"'))
    again = bench.start(directory)
    again.wait_for(lambda: any(e.identity == "make" and e.attempt == 2 for e in again.events))
    old = next(job for job in bench.world.jobs.values() if job.identity == "grow")
    assert old.status.state is JobState.CANCELLED
    bench.world.release()
    ok(again.end())
    assert (directory.path / "workspace" / "x").read_text() == "52"


# executed, accepted, failed


def test_executed_is_not_accepted(bench):
    """A job whose outputs nobody collected goes back to the engine for collection, and is not run again."""
    code = """
(ticket,) = jobs.submit([job("a", "write", "x", "1", outputs=["x"])])
say(identity="a", found=ticket.found)
ended = jobs.wait()
if not (workspace / "collect").exists():
    raise RuntimeError("killed before it collected")
jobs.accept(ended.ticket)
"""
    directory, result = bench.run(code)
    assert result.exit_status == 3
    (directory.path / "workspace" / "collect").touch()
    ok(bench.drive(directory))
    assert found(directory) == {"a": "running"}
    assert ran(bench) == Counter("a")
    bench.edit("main.script", ONE)
    ok(bench.drive(directory))
    assert found(directory) == {"a": "hit"}


def test_a_job_whose_outputs_were_rejected_is_repeated(bench):
    """Rejected is failed: never a hit."""
    code = """
(ticket,) = jobs.submit([job("a", "exit", "0")])
say(identity="a", found=ticket.found)
jobs.reject(jobs.wait().ticket, "no glob matched")
raise StepFailed("a", "no glob matched")
"""
    directory, result = bench.run(code)
    assert (result.exit_status, result.message) == (1, "no glob matched")
    assert bench.drive(directory).exit_status == 1
    assert found(directory) == {"a": "miss"}
    assert [row.result.reason for row in attempts(directory)] == ["collection"] * 2


def test_failed_tries_are_remembered_so_that_a_replay_walks_the_same_way(bench):
    """A try that failed counts once the engine has asked for the next; the last failure is repeated."""
    code = """
for number in (1, 2, 3):
    codes = {1: "1", 2: "1", 3: "0"}
    result = drive(job("a", "exit", codes[number], try_number=number, canonical=number))["a"]
    if result.ok:
        break
"""
    directory, result = bench.run(code)
    ok(result)
    ok(bench.drive(directory))
    assert [each.found for each in said(directory)] == ["miss"] * 3 + ["hit"] * 3
    assert ran(bench)["a"] == 3
    once = 'drive(job("a", "exit", "1"))'
    directory, _ = bench.run(once)
    ok(bench.drive(directory))
    assert [each.found for each in said(directory)] == ["miss", "miss"]


# determinism and cost

SCATTER = """
from drawbar.model import JobResult
names = [f"part{n}" for n in range(12)]
finish(*(job(f"map/{name}", "write", name, name, outputs=[name]) for name in names))
for number in range(6):
    pair = names[2 * number : 2 * number + 2]
    finish(job(f"pair/{number}", "join", f"pair{number}", *pair, inputs=pair, outputs=[f"pair{number}"]))
pairs = [f"pair{n}" for n in range(6)]
finish(job("reduce", "join", "all", *{*pairs}, inputs=pairs, outputs=["all"]))
"""


def test_replays_give_the_same_identities_and_keys_whatever_the_order(bench, monkeypatch):
    """20 replays, other completion orders, other hash seeds: one multiset of identities and keys."""
    keys, damaged = set(), list(range(19))
    directory = bench.create(SCATTER)
    for number in range(20):
        bench.world.shuffle = random.Random(number)
        monkeypatch.setenv("PYTHONHASHSEED", str(number))
        before = Counter(bench.world.ledger)
        ok(bench.drive(directory, cold=number < 5))
        repeated = Counter(bench.world.ledger) - before
        rows = {(row.identity, row.key): row for row in attempts(directory) if row.outcome == "accepted"}
        keys.add(tuple(sorted(rows)))
        assert repeated.total() == len(damaged)
        damaged = bench.world.shuffle.sample([f"part{n}" for n in range(12)], 3)
        for name in damaged:
            (directory.path / "workspace" / name).unlink()
    assert len(keys) == 1
    assert len(next(iter(keys))) == 19


HITS = """
import json, hashlib, time
from drawbar.codec import encode
def specs():
    return [job(f"a/{n}", "write", f"x{n}", "1", outputs=[f"x{n}"]) for n in range(1000)]
started = time.process_time()
finish(*specs())
spent = time.process_time() - started
started = time.process_time()
for each in specs():
    hashlib.sha256(json.dumps(encode(each)).encode()).hexdigest()
say(spent=spent, floor=time.process_time() - started)
"""


def test_a_hit_costs_a_small_multiple_of_writing_its_specification_down(bench, record_property):
    """A thousand remembered jobs: the engine process's CPU time for each stays small and level."""
    submit = "jobs.submit(specs())\nwhile (ended := jobs.wait()): jobs.accept(ended.ticket)"
    code = HITS.replace("finish(*specs())", submit)
    directory, result = bench.run(code)
    ok(result)
    ok(bench.drive(directory))
    told = said(directory)[-1]
    assert len(bench.world.ledger) == 1000
    record_property("hit_cpu_ms", told.spent)
    ratio = told.spent / told.floor
    print(f"a hit: {told.spent:.3f} ms of CPU time in the engine process, {ratio:.0f} times the floor")
    assert told.spent < 40 * told.floor
