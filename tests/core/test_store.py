"""The store: durable in groups, one writer at a time, and readers whenever they like."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from drawbar.codec import dumps
from drawbar.errors import LeaseError, StoreError
from drawbar.lease import EXPIRY_S
from drawbar.model import FileRecord, JobResult, JobState, Reason, RunState
from drawbar.store import ACCEPTED, AttemptRow, Store, on_network


def attempt(tag: str, **fields) -> AttemptRow:
    values = {
        "tag": tag,
        "run": "r",
        "identity": f"job/{tag}",
        "try_number": 1,
        "number": 1,
        "step": "job",
        "name": tag,
        "key": "k",
        "document": "{}",
        "spec_json": "{}",
        "record": "/r",
        "backend": "b",
        "state": JobState.QUEUED,
        "created": time.time(),
    }
    return AttemptRow(**{**values, **fields})


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
def store(path):
    with Store(path) as store:
        store.acquire()
        store.add_run("r")
        store.commit()
        yield store


def tags(path: Path) -> list[str]:
    with Store(path, read_only=True) as reader:
        return [row.tag for row in reader.attempts("r")]


def test_nothing_is_seen_before_the_commit_and_everything_after(store, path):
    store.add_attempts([attempt("a"), attempt("b")])
    store.set_run("r", state=RunState.RUNNING, facts={"v": 1})
    assert tags(path) == []
    store.commit()
    assert tags(path) == ["a", "b"]
    with Store(path, read_only=True) as reader:
        assert (reader.run("r").state, reader.run("r").facts) == (RunState.RUNNING, {"v": 1})
        assert reader.run("other") is None


def test_what_was_written_is_read_back(store, path):
    row = attempt("a")
    store.add_attempts([row])
    row.state, row.native_state, row.native_id, row.message = JobState.FAILED, "CG", "7", "why"
    row.batch, row.submitted = "a", 5.0
    row.result_json = dumps(JobResult(exit_code=3, reason=Reason.EXIT_CODE))
    store.set_states([row])
    row.outcome, row.value, row.deleted = ACCEPTED, '{"x":1}', "[]"
    row.outputs = dumps([FileRecord(path="x", size=1, mtime_ns=2, sha256="s")])
    store.set_outcomes([row])
    store.add_consumed("r", ["x", "y"])
    store.add_consumed("r", ["x"])
    store.set_sources("r", {"a": "1"})
    store.set_sources("r", {"b": "2"})
    store.commit()
    with Store(path, read_only=True) as reader:
        found = reader.attempt("a")
        assert found == row
        assert found.result == JobResult(exit_code=3, reason=Reason.EXIT_CODE)
        assert found.outputs == row.outputs
        assert reader.attempt("b") is None
        assert reader.consumed("r") == {"x", "y"}
        assert reader.sources("r") == {"b": "2"}


@pytest.mark.parametrize("name", ["plain", "ünïcode", "\udcff", "\ud800x", "new\nline", ""])
def test_names_of_files_are_kept_whatever_they_are(store, path, name):
    store.add_consumed("r", [name])
    store.set_sources("r", {name: "1"})
    store.add_attempts([attempt("a", message=name)])
    store.commit()
    with Store(path, read_only=True) as reader:
        assert (reader.consumed("r"), reader.sources("r")) == ({name}, {name: "1"})
        assert reader.attempt("a").message == name


@pytest.mark.parametrize("value", [{}, [], 1 << 63, object()])
def test_what_cannot_be_stored_is_refused_where_it_is_written(store, path, value):
    with pytest.raises(TypeError, match="cannot be stored"):
        store.set_run("r", message=value)
    store.add_attempts([attempt("a")])
    store.commit()
    assert tags(path) == ["a"]


def test_a_run_is_quiet_since_its_last_end_and_knows_what_its_jobs_wrote(store):
    assert (store.quiet_since("r"), store.outputs("r")) == (None, set())
    names = ["x", "\udcff", 'a "quoted" one', "\ud800"]
    for number, name in enumerate(names):
        row = attempt(f"{number}", run="r")
        row.result_json = dumps(JobResult(exit_code=0, finished=10.5 + number, message=name))
        row.outcome = ACCEPTED if number else None
        row.outputs = dumps([FileRecord(path=name, size=1, mtime_ns=2, sha256="s")])
        store.add_attempts([row])
    store.add_attempts([attempt("cancelled", result_json=dumps(JobResult(reason=Reason.CANCELLED)))])
    store.commit()
    assert store.quiet_since("r") == 13.5
    assert store.outputs("r") == set(names[1:])
    store.add_attempts([attempt("alive"), attempt("elsewhere", run="other")])
    store.commit()
    assert store.quiet_since("r") is None


def test_attempts_come_in_the_order_of_their_creation(store, path):
    store.add_attempts([attempt("c", created=1.0), attempt("a", created=2.0), attempt("b", created=2.0)])
    store.commit()
    assert tags(path) == ["c", "a", "b"]


# commits that fail


def test_a_commit_that_failed_can_be_tried_again_and_loses_nothing(store, path):
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    store._db.execute("PRAGMA busy_timeout = 1")
    store.add_attempts([attempt("a")])
    for _ in range(2):
        with pytest.raises(StoreError, match="cannot write the store") as caught:
            store.commit()
        assert caught.value.transient
        assert str(path) in str(caught.value)
    store.add_attempts([attempt("b")])
    blocker.execute("ROLLBACK")
    blocker.close()
    store.commit()
    assert tags(path) == ["a", "b"]


FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from drawbar.errors import StoreError
from drawbar.store import Store
from test_store import attempt, tags

path = Path({path!r})
with Store(path) as store:
    store.acquire()
    store.add_run("r")
    store.commit()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + (64 << 10), hard))
    store.add_attempts([attempt(f"a{{n}}", message="m" * 1000) for n in range(1000)])
    try:
        store.commit()
    except StoreError as error:
        assert error.transient, error
    else:
        raise AssertionError("it fitted")
    assert tags(path) == []
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    store.commit()
    assert len(tags(path)) == 1000
"""


def test_a_file_that_cannot_grow_loses_nothing(path):
    code = FULL.format(tests=str(Path(__file__).parent), path=str(path))
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from drawbar.store import Store
from test_store import attempt

with Store(Path({path!r})) as store:
    store.acquire()
    store.add_run("r")
    for number in range(100_000):
        store.add_attempts([attempt(f"{{number:06}}.{{part}}") for part in range(5)])
        store.commit()
        print(number, flush=True)
"""


def test_a_killed_writer_leaves_whole_commits_and_all_that_were_acknowledged(path):
    code = KILLED.format(tests=str(Path(__file__).parent), path=str(path))
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    acknowledged = [int(writer.stdout.readline()) for _ in range(random.Random(1).randrange(20, 60))]
    writer.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in writer.stdout]
    writer.wait()
    writer.stdout.close()
    found = tags(path)
    assert len(found) % 5 == 0
    assert len(found) // 5 in (len(acknowledged), len(acknowledged) + 1)
    with Store(path) as store:
        store.acquire()
        store.add_attempts([attempt("next")])
        store.commit()
    assert "next" in tags(path)


# one writer


def test_without_the_lease_nothing_is_written(path):
    with Store(path) as store:
        store.add_run("r")
        with pytest.raises(LeaseError):
            store.commit()


def test_a_second_writer_is_refused_while_the_first_lives(store, path):
    with Store(path) as other:
        for take_over in (False, True):
            with pytest.raises(LeaseError, match=f"process {os.getpid()}"):
                other.acquire(take_over=take_over)
        store.release()
        other.acquire()
        assert other.lease().epoch == 2


def lend(path: Path, **values) -> None:
    """Make the lease another's."""
    columns = ", ".join(f"{name} = ?" for name in values)
    db = sqlite3.connect(path)
    db.execute(f"UPDATE lease SET {columns}", tuple(values.values()))
    db.commit()
    db.close()


def test_a_dead_driver_of_this_host_is_taken_over_from_without_asking(store, path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    lend(path, pid=dead.pid)
    with Store(path) as other:
        other.acquire()


def test_a_process_id_that_was_used_again_is_not_the_driver(store, path):
    lend(path, started="another start")
    with Store(path) as other:
        other.acquire()


def test_a_driver_before_the_last_boot_is_dead(store, path):
    lend(path, boot="another boot")
    with Store(path) as other:
        other.acquire()


def test_a_driver_on_another_host_is_taken_over_from_only_when_silent_and_on_the_users_word(store, path):
    with Store(path) as other:
        lend(path, host="elsewhere", heartbeat=time.time())
        for take_over in (False, True):
            with pytest.raises(LeaseError, match="elsewhere"):
                other.acquire(take_over=take_over)
        lend(path, heartbeat=time.time() - EXPIRY_S - 1)
        with pytest.raises(LeaseError, match="--take-over"):
            other.acquire()
        other.acquire(take_over=True)


def test_a_driver_that_was_taken_over_from_cannot_write(store, path):
    lend(path, host="elsewhere", heartbeat=0)
    with Store(path) as other:
        other.acquire(take_over=True)
        store.add_attempts([attempt("late")])
        for _ in range(2):
            with pytest.raises(LeaseError, match="took this run over"):
                store.commit()
        with pytest.raises(LeaseError):
            store.release()
        other.add_attempts([attempt("mine")])
        other.commit()
    assert tags(path) == ["mine"]


def test_beats_show_in_the_lease(store, path):
    lend(path, heartbeat=1.0)
    store.beat()
    store.commit()
    assert store.lease().heartbeat > 1.0


def test_many_processes_agree_on_one_writer(path):
    code = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from drawbar.errors import LeaseError
        from drawbar.store import Store
        sys.stdin.readline()
        with Store(Path({str(path)!r})) as store:
            try:
                store.acquire()
            except LeaseError:
                print("refused", flush=True)
            else:
                print("won", flush=True)
        sys.stdin.readline()
    """)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(4)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    words = [process.stdout.readline().strip() for process in processes]
    for process in processes:
        process.communicate("\n", timeout=30)
    assert sorted(words) == ["refused"] * 3 + ["won"]


# readers


def test_readers_see_the_last_commit_while_others_write(store, path):
    with Store(path, read_only=True) as reader:
        for number in range(50):
            store.add_attempts([attempt(f"{number:03}")])
            store.commit()
            assert len(list(reader.attempts("r"))) == number + 1
        store.release()
        with pytest.raises(StoreError, match="readonly"):
            reader.acquire()


def test_a_store_that_is_only_just_being_made_reads_as_empty(path):
    sqlite3.connect(path).close()
    path.touch()
    with Store(path, read_only=True) as reader:
        assert reader.lease() is None
        assert reader.run("r") is None
        assert list(reader.attempts("r")) == []


def test_a_missing_store_is_an_error_for_readers(path):
    with pytest.raises(StoreError, match=r"store\.sqlite"):
        Store(path, read_only=True)


@pytest.mark.parametrize("read_only", [True, False])
def test_a_store_of_another_version_is_refused_with_what_to_do(store, path, read_only):
    store._db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match=r"version 99.*the drawbar that made it"):
        Store(path, read_only=read_only)


@pytest.mark.parametrize("read_only", [True, False])
def test_a_damaged_store_is_an_error_that_names_it(path, read_only):
    path.write_text("this is no database, " * 100)
    with pytest.raises(StoreError, match=r"store\.sqlite"), Store(path, read_only=read_only) as store:
        store.lease()


def test_network_file_systems_are_told_from_the_mount_table(path, tmp_path, monkeypatch):
    mounts = f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n"
    real = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda self, *a, **k: mounts if str(self) == "/proc/self/mounts" else real(self, *a, **k),
    )
    assert on_network(path)
    assert not on_network(Path("/elsewhere/store.sqlite"))
    with Store(path) as store:
        assert store._db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        store.acquire()
        store.add_run("r")
        store.commit()


def test_commits_in_groups_cost_little(store):
    started = time.process_time()
    for number in range(100):
        store.add_attempts([attempt(f"one/{number}")])
        store.commit()
    singly = time.process_time() - started
    started = time.process_time()
    store.add_attempts([attempt(f"group/{number}") for number in range(100)])
    store.commit()
    assert time.process_time() - started < singly / 3
