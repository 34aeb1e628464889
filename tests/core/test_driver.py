"""Driving a run: edits, steps, cancels, kills, full disks, and what is written down in the end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from bench import HELPERS, alive, attempts, said
from drawbar.errors import InfrastructureError, LeaseError, SpecError, StoreError, UsageError
from drawbar.home import Home
from drawbar.model import JobState, RunState
from drawbar.store import Store

STEPS = """
# step a
# step b after a
# step c after b
finish(job("a", "write", "x", source.parameters["text"], outputs=["x"], canonical=source.parameters["text"]))
finish(job("b", "join", "y", "x", "data", inputs=["x", "data"], outputs=["y"]))
finish(job("c", "join", "z", "y", inputs=["y"], outputs=["z"]))
"""
ANALYSIS = {"outputs": ["z"], "parameters": {"text": "1"}, "inputs": {"data": "d"}}


def ok(result):
    assert result.exit_status == 0, result
    return result


def row(directory):
    with Store(directory.store, read_only=True) as store:
        return store.run(directory.id)


def workspace(directory) -> Path:
    return directory.path / "workspace"


# how a run ends


def test_a_finished_run_says_so_everywhere(bench):
    directory = bench.create(STEPS, **ANALYSIS)
    drive = bench.start(directory)
    result = ok(drive.end())
    assert (result.state, result.missing_outputs) == (RunState.FINISHED, ())
    states = [event.state for event in drive.events if event.identity is None]
    assert states == [RunState.RUNNING, RunState.FINISHED]
    assert [e.state for e in drive.events if e.identity == "b"][-1] is JobState.FINISHED
    assert row(directory).state is RunState.FINISHED
    assert row(directory).started <= row(directory).finished
    assert directory.state()["state"] == "finished"
    assert not directory.interrupted()
    assert directory.lease().pid == 0


def test_the_manifest_tells_inputs_jobs_and_outputs(bench):
    directory = bench.create(STEPS, **ANALYSIS)
    ok(bench.drive(directory))
    manifest = json.loads(directory.manifest.read_text())
    assert {"run": "r.1", "name": "r", "state": "finished", "missing": {}}.items() <= manifest.items()
    assert manifest["parameters"] == {"text": "1"}
    assert manifest["backends"] == ["inline"]
    inputs = {each["path"]: each["sha256"] for each in manifest["inputs"]}
    assert inputs.keys() == {"data", "main.script", "reana.yaml"}
    assert inputs["data"] == hashlib.sha256(b"d").hexdigest()
    assert [(each["step"], each["state"], each["exit_code"]) for each in manifest["jobs"]] == [
        ("a", "finished", 0),
        ("b", "finished", 0),
        ("c", "finished", 0),
    ]
    assert manifest["outputs"] == [{"path": "z", "size": 2, "sha256": hashlib.sha256(b"1d").hexdigest()}]


def test_declared_outputs_are_a_contract(bench):
    directory = bench.create("pass", outputs=["never/made"])
    result = bench.drive(directory)
    assert (result.state, result.exit_status) == (RunState.FAILED, 1)
    assert result.missing_outputs == ("never/made",)
    assert "never/made" in result.message
    assert "never/made" in json.loads(directory.manifest.read_text())["missing"]


def test_missing_outputs_may_be_allowed(bench):
    directory = bench.create("pass", outputs=["never"], create={"allow_missing_outputs": True})
    result = bench.drive(directory)
    assert (result.state, result.exit_status) == (RunState.FINISHED, 0)
    assert result.missing_outputs == ("never",)


def test_a_failed_step_fails_the_run_with_its_message(bench):
    directory, result = bench.run('finish(job("a", "exit", "3"))')
    assert (result.state, result.exit_status) == (RunState.FAILED, 1)
    assert "exit-code" in result.message
    assert row(directory).message == result.message


def test_what_the_engine_leaves_in_flight_is_cancelled(bench):
    bench.world.hold("a")
    ok(bench.run('jobs.submit([job("a", "exit", "0")])')[1])
    assert bench.world.cancelled == ["a"]


def test_a_specification_that_is_wrong_ends_before_the_first_job(bench):
    code = "# inspect: from drawbar.errors import SpecError; raise SpecError('line 3 is wrong')\n"
    _, result = bench.run(code + 'finish(job("a", "exit", "0"))')
    assert (result.state, result.exit_status) == (RunState.FAILED, 2)
    assert "line 3 is wrong" in result.message
    assert bench.world.ledger == []


# after an edit


def test_an_edited_input_repeats_what_reads_it_and_is_listed(bench):
    directory = bench.create(STEPS, **ANALYSIS)
    ok(bench.drive(directory))
    bench.edit("data", "e")
    drive = bench.start(directory)
    result = ok(drive.end())
    assert result.changes == ("edited: data",)
    assert "edited: data" in drive.notices
    assert Counter(bench.world.ledger) == Counter("abbcc")
    assert (workspace(directory) / "z").read_text() == "1e"
    assert ok(bench.drive(directory)).changes == ()


def test_as_was_ignores_edits(bench):
    directory = bench.create(STEPS, **ANALYSIS)
    ok(bench.drive(directory))
    bench.edit("data", "e")
    result = ok(bench.drive(directory, as_was=True))
    assert result.changes == ()
    assert Counter(bench.world.ledger) == Counter("abc")
    assert ok(bench.drive(directory)).changes == ("edited: data",)


def test_edited_parameters_and_added_and_removed_files_are_seen(bench):
    directory = bench.create(STEPS, **ANALYSIS)
    ok(bench.drive(directory))
    bench.write(outputs=["z"], parameters={"text": "2"}, inputs={"data": "d", "more": "m"})
    assert set(ok(bench.drive(directory)).changes) == {"edited: reana.yaml", "added: more"}
    assert Counter(bench.world.ledger) == Counter("aabbcc")
    assert (workspace(directory) / "more").read_text() == "m"
    bench.write(outputs=["z"], parameters={"text": "2"}, inputs={"data": "d"})
    assert set(ok(bench.drive(directory)).changes) == {"edited: reana.yaml", "removed: more"}
    assert Counter(bench.world.ledger) == Counter("aabbcc")


def test_an_edit_between_making_a_run_and_driving_it_is_seen(bench):
    directory = bench.create(STEPS, **ANALYSIS)
    bench.edit("data", "e")
    assert ok(bench.drive(directory)).changes == ("edited: data",)
    assert (workspace(directory) / "z").read_text() == "1e"


def test_a_source_never_overwrites_what_a_job_wrote(bench):
    code = 'finish(job("a", "write", "data", "from the job", outputs=["data"]))'
    directory = bench.create(code, inputs={"data": "d"})
    ok(bench.drive(directory))
    bench.edit("data", "e")
    assert ok(bench.drive(directory)).changes == (
        "edited: data",
        "edited, but the workspace keeps what a job wrote there: data",
    )
    assert (workspace(directory) / "data").read_text() == "from the job"


def test_a_source_that_is_gone_is_replaced_by_the_runs_own_copy(bench):
    directory = bench.create(STEPS, **ANALYSIS)
    ok(bench.drive(directory))
    bench.source.rename(bench.source.with_name("moved"))
    drive = bench.start(directory)
    ok(drive.end())
    assert any("is gone" in notice for notice in drive.notices)


def test_an_edit_that_is_wrong_leaves_the_run_as_it_was(bench):
    directory = bench.create(STEPS, **ANALYSIS)
    ok(bench.drive(directory))
    bench.edit("reana.yaml", "workflow: [")
    with pytest.raises(SpecError):
        bench.drive(directory)
    assert row(directory).state is RunState.FINISHED
    assert directory.lease().pid == 0


def test_from_step_repeats_it_and_what_follows(bench):
    directory = bench.create(STEPS, **ANALYSIS)
    ok(bench.drive(directory))
    ok(bench.drive(directory, from_step="b"))
    assert Counter(bench.world.ledger) == Counter("abbcc")
    with pytest.raises(UsageError, match="no step 'B'"):
        bench.drive(directory, from_step="B")
    assert directory.lease().pid == 0


# cancelled and let go


def test_cancel_stops_jobs_and_the_run(bench):
    bench.world.hold("a/0", "a/1")
    directory = bench.create('drive(*(job(f"a/{n}", "exit", "0") for n in range(2)))')
    drive = bench.start(directory)
    bench.world.wait_for("a/1")
    drive.driver.cancel()
    result = drive.end()
    assert (result.state, result.exit_status) == (RunState.STOPPED, 130)
    assert sorted(bench.world.cancelled) == ["a/0", "a/1"]
    assert {each.state for each in attempts(directory)} == {JobState.CANCELLED}
    bench.world.release()
    ok(bench.drive(directory))
    assert row(directory).state is RunState.FINISHED


def test_cancel_can_be_asked_for_in_the_runs_directory(bench):
    bench.world.hold("a")
    directory = bench.create('drive(job("a", "exit", "0"))')
    drive = bench.start(directory)
    bench.world.wait_for("a")
    directory.cancel_request.touch()
    assert drive.end().state is RunState.STOPPED
    assert not directory.cancel_request.exists()


def test_a_cancel_that_came_too_late_does_not_stop_the_next_drive(bench):
    directory = bench.create('drive(job("a", "exit", "0"))')
    directory.cancel_request.touch()
    ok(bench.drive(directory))


def test_a_cancel_before_the_first_job_runs_none(bench):
    directory = bench.create('finish(job("a", "exit", "0"))')
    drive = bench.start(directory)
    drive.driver.cancel()
    assert drive.end().state is RunState.STOPPED
    assert bench.world.ledger == []


def test_what_was_let_go_is_re_attached_and_not_repeated(bench):
    bench.world.hold("b")
    directory = bench.create(STEPS, **ANALYSIS)
    drive = bench.start(directory)
    bench.world.wait_for("b")
    drive.driver.let_go()
    result = drive.end()
    assert (result.state, result.exit_status) == (None, 130)
    assert directory.interrupted()
    bench.world.release()
    bench.world.wait_for("b", JobState.FINISHED)
    ok(bench.drive(directory))
    assert Counter(bench.world.ledger) == Counter("abc")
    assert not directory.interrupted()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_of_a_backend_that_dies_ends_the_drive_and_not_its_jobs(bench):
    def die():
        raise KeyError("pod")

    bench.world.hold("b")
    directory = bench.create(STEPS, **ANALYSIS)
    drive = bench.start(directory)
    bench.world.wait_for("b")
    for name in ("of-somebody-else", "drawbar-watcher"):
        thread = threading.Thread(target=die, name=name)
        thread.start()
        thread.join()
    result = drive.end()
    assert (result.state, result.exit_status) == (None, 3)
    assert "the thread drawbar-watcher died of KeyError('pod')" in result.message
    bench.world.release()
    bench.world.wait_for("b", JobState.FINISHED)
    ok(bench.drive(directory))
    assert Counter(bench.world.ledger) == Counter("abc")


# who drives


def test_a_run_has_one_driver(bench):
    bench.world.hold("a")
    directory = bench.create('drive(job("a", "exit", "0"))')
    drive = bench.start(directory)
    bench.world.wait_for("a")
    for take_over in (False, True):
        with pytest.raises(LeaseError, match="driven by process"):
            bench.drive(directory, take_over=take_over)
    bench.world.release()
    ok(drive.end())


def test_a_driver_that_lost_its_run_stops_and_writes_nothing(bench):
    bench.world.hold("a")
    directory = bench.create('drive(job("a", "exit", "0"))')
    drive = bench.start(directory)
    bench.world.wait_for("a")
    with sqlite3.connect(directory.store) as other:
        other.execute("UPDATE lease SET epoch = epoch + 1, host = 'elsewhere'")
    other.close()
    bench.world.release()
    result = drive.end()
    assert (result.state, result.exit_status) == (None, 3)
    assert "took this run over" in result.message
    assert row(directory).state is RunState.RUNNING
    assert directory.lease().host == "elsewhere"


KILLED = """
import sys
sys.path.insert(0, {helpers!r})
from pathlib import Path
from bench import Bench
from drawbar.home import Home
from scripted_backend import World

bench = Bench(Path({directory!r}), Path({interpreter!r}), World())
bench.set(backend="local", backends__local__runtime_directory={runtime!r})
directory = Home(bench.settings.home).find("r")
bench.start(directory).end()
"""


def test_a_killed_driver_is_taken_over_from_and_its_live_job_is_not_repeated(bench, tmp_path, interpreter):
    runtime = tempfile.mkdtemp(prefix="db-", dir="/tmp")
    bench.set(backend="local", backends__local__runtime_directory=runtime)
    gate, ledger = tmp_path / "gate", tmp_path / "ledger"
    command = f"echo started >> {ledger}; while [ ! -e {gate} ]; do sleep 0.02; done; echo done > x"
    directory = bench.create(
        f'say(pid=__import__("os").getpid())\nfinish(job("a", "sh", "-c", {command!r}, outputs=["x"]))',
        outputs=["x"],
        create={"backend": "local"},
    )
    code = KILLED.format(
        helpers=str(HELPERS), directory=str(tmp_path), interpreter=str(interpreter), runtime=runtime
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    try:
        until = time.monotonic() + 60
        while not ledger.exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        assert directory.interrupted()
        engine = said(directory)[0].pid
        drive = bench.start(directory)
        drive.wait_for(lambda: bool(drive.events))
        gate.touch()
        ok(drive.end())
        assert not alive(engine)
        assert ledger.read_text() == "started\n"
        assert len(attempts(directory)) == 1
    finally:
        gate.touch()
        process.kill()
        process.wait()
        until = time.monotonic() + 30
        while any(Path(runtime).iterdir()) and time.monotonic() < until:
            time.sleep(0.02)
        shutil.rmtree(runtime, ignore_errors=True)


# disks


def test_a_store_that_cannot_be_written_pauses_the_run_and_loses_nothing(bench, monkeypatch):
    full = []
    commit = Store.commit

    def commit_or_not(self):
        if full:
            raise StoreError("cannot write the store: the disk is full", transient=True)
        commit(self)

    monkeypatch.setattr(Store, "commit", commit_or_not)
    bench.world.hold("a", "b")
    directory = bench.create(STEPS, **ANALYSIS)
    drive = bench.start(directory)
    bench.world.wait_for("a")
    full.append(True)
    bench.world.release("a")
    drive.wait_for_notice("paused")
    assert drive.driver.trouble
    full.clear()
    drive.wait_for_notice("goes on")
    bench.world.release()
    ok(drive.end())
    assert drive.driver.trouble == []
    assert Counter(bench.world.ledger) == Counter("abc")


def test_a_run_waits_at_its_end_for_a_store_that_can_be_written(bench, monkeypatch):
    full = []
    commit = Store.commit

    def commit_or_not(self):
        if full:
            raise StoreError("cannot write the store: the disk is full", transient=True)
        commit(self)

    monkeypatch.setattr(Store, "commit", commit_or_not)
    bench.world.hold("c")
    directory = bench.create(STEPS, **ANALYSIS)
    drive = bench.start(directory)
    bench.world.wait_for("c")
    full.append(True)
    bench.world.release()
    drive.wait_for_notice("paused")
    full.clear()
    ok(drive.end())
    assert row(directory).state is RunState.FINISHED


def test_little_free_space_pauses_submission_until_there_is_more(bench, monkeypatch):
    free = [1 << 20]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free[0]))
    directory = bench.create('finish(job("a", "exit", "0"))')
    drive = bench.start(directory)
    drive.wait_for_notice("paused: only 1 MiB are free")
    assert bench.world.ledger == []
    free[0] = 1 << 40
    ok(drive.end())
    assert "goes on" in drive.notices


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own for the home, and a function that fills it."""
    place = tmp_path / "home"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")

    def fill():
        with contextlib.suppress(OSError), (place / "filler").open("wb", buffering=0) as file:
            while file.write(b"x" * (64 << 10)):
                pass

    fill.empty = (place / "filler").unlink
    yield fill
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_pauses_the_run_and_it_goes_on_when_there_is_room(small_disk, bench):
    bench.world.hold("b", "c")
    directory = bench.create(STEPS, **ANALYSIS)
    drive = bench.start(directory)
    bench.world.wait_for("b")
    small_disk()
    drive.wait_for_notice("paused: only")
    bench.world.release("c")
    assert bench.world.ledger == ["a"]
    small_disk.empty()
    drive.wait_for_notice("goes on")
    bench.world.release()
    ok(drive.end())
    assert Counter(bench.world.ledger) == Counter("abc")
    assert json.loads(directory.manifest.read_text())["state"] == "finished"


def test_a_disk_that_is_full_when_a_job_ends_loses_nothing(small_disk, bench):
    bench.world.hold("a")
    directory = bench.create("finish(job('a', 'exit', '0'))\nfinish(job('b', 'exit', '0'))")
    drive = bench.start(directory)
    bench.world.wait_for("a")
    record = next(iter(bench.world.jobs.values())).attempt.record
    Path(record).mkdir(parents=True)
    small_disk()
    bench.world.release()
    drive.wait_for_notice("paused")
    small_disk.empty()
    ok(drive.end())
    assert Counter(bench.world.ledger) == Counter("ab")


def test_a_paused_run_can_be_cancelled(bench, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    directory = bench.create('finish(job("a", "exit", "0"))')
    drive = bench.start(directory)
    drive.wait_for_notice("paused")
    drive.driver.cancel()
    assert drive.end().state is RunState.STOPPED


def test_a_run_that_was_never_made_completely_is_an_error_that_names_the_file(bench):
    directory = Home(bench.settings.home).create("half")
    with pytest.raises(InfrastructureError, match=r"run\.json"):
        bench.drive(directory)


def test_files_with_odd_names_are_sources_and_outputs(bench):
    odd = "d\udcff 'x"
    try:
        (bench.directory / odd).touch()
    except OSError:
        pytest.skip("this file system takes no such name")
    code = (
        f"finish(job('a', 'sh', '-c', 'echo 1 > \"$1\"', 'sh', 'out' + {odd!r}, outputs=['out' + {odd!r}]))"
    )
    (bench.source / "d").mkdir(parents=True)
    (bench.source / "d" / odd).touch()
    directory = bench.create(code, directories=["d"])
    ok(bench.drive(directory))
    ok(bench.drive(directory))
    assert said(directory)[-1].found == "hit"
