"""Records, watchers, sockets and processes of the local backend, each by itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from drawbar.backend import Refused
from drawbar.errors import BackendError
from drawbar.plugins import load_plugins
from drawbar_local import link, machine, processes, records
from drawbar_local.backend import LocalBackend

CLAIMED = {"host": "here", "supervisor": 7, "since": None, "socket": "/none"}
CLAIM = records.line("claim", CLAIMED)


def claim(directory, issuer="me", turn=1):
    return records.claim(str(directory), CLAIM, issuer, turn)


# Records


def test_an_attempt_is_claimed_once(tmp_path):
    directory = tmp_path / "deep" / "attempt"
    descriptor = claim(directory)
    assert claim(directory) is None
    assert records.held(str(directory))
    os.close(descriptor)
    assert not records.held(str(directory))
    assert claim(directory) is None, "a claim counts also when nobody holds it any more"


def test_of_many_claims_one_wins(tmp_path):
    for number in range(20):
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda _, n=number: claim(tmp_path / str(n)), range(8)))
        (descriptor,) = [each for each in won if each is not None]
        os.close(descriptor)


def test_a_void_stops_what_was_submitted_before(tmp_path):
    assert records.void(str(tmp_path / "a"), "me", 3)
    assert claim(tmp_path / "a", "me", 3) is None
    assert claim(tmp_path / "a", "somebody else", 4) is None
    descriptor = claim(tmp_path / "a", "me", 4)
    assert descriptor is not None
    assert not records.void(str(tmp_path / "a"), "me", 5)
    os.close(descriptor)
    assert not records.void(str(tmp_path / "a"), "me", 5)


def test_a_torn_line_is_left_out(tmp_path):
    (tmp_path / "record").write_bytes(CLAIM + b'{"start": {"pid": 1, "time": 1.5}}\n{"end": {"ex')
    record = records.read(str(tmp_path))
    assert record.claim == CLAIMED
    assert record.start == {"pid": 1, "time": 1.5}
    assert record.end is None
    assert not record.held


def test_a_failed_claim_leaves_nothing(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        claim(tmp_path / "file" / "attempt")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_line_that_does_not_fit_is_left_out(tmp_path):
    lines = (b'{"start": {"pid": "1", "time": 1}}', b'{"end": {"exit": 0}}', b"[]", b"7", b'{"claim": 1}')
    (tmp_path / "record").write_bytes(CLAIM + b"\n".join(lines) + b"\n")
    record = records.read(str(tmp_path))
    assert record.claim == CLAIMED
    assert (record.start, record.end, record.void) == (None, None, None)


# Watchers, in a process of their own since they are about its children

WATCH = """
import os, select, sys
from drawbar_local.watch import watcher
watch = watcher(sys.argv[1])
poll = select.poll()
poll.register(watch, select.POLLIN)
codes = {}
for code in range(50):
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", f"exit {code}"], {})
    codes[pid] = code
    watch.add(pid)
while codes:
    assert poll.poll(30000)
    for pid, status, usage in watch.ended():
        assert os.waitstatus_to_exitcode(status) == codes.pop(pid)
        assert usage.ru_maxrss > 0
assert not poll.poll(0) or not list(watch.ended())
"""


@pytest.mark.parametrize("kind", ["pidfd", "signal", "auto"])
def test_a_watcher_tells_each_end_once(kind):
    subprocess.run([sys.executable, "-c", WATCH, kind], check=True, timeout=60)


# Processes


def test_a_process_is_known_by_its_start(tmp_path):
    assert processes.alive(os.getpid(), processes.since(os.getpid()))
    assert not processes.alive(os.getpid(), processes.since(os.getpid()) - 1)
    child = subprocess.Popen(["sleep", "100"], start_new_session=True)
    since = processes.since(child.pid)
    assert processes.alive(child.pid, since)
    assert processes.alive(child.pid, None), "where start times are unknown, a session leader"
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not processes.alive(child.pid, since), "a zombie is not alive"
    child.wait()
    assert not processes.alive(child.pid, since)
    assert not processes.alive(child.pid, None)


def test_only_what_belongs_to_an_attempt_is_killed(tmp_path):
    def sleeper(tag):
        return subprocess.Popen(["sleep", "100"], env={**os.environ, processes.TAG: tag})

    mine, inner, other = sleeper("db-1"), sleeper("db-1:db-9"), sleeper("db-11")
    assert processes.kill({"db-1": str(tmp_path), "db-2": str(tmp_path)}) == {"db-1"}
    assert mine.wait(30) == inner.wait(30) == -9
    assert other.poll() is None
    other.kill()
    other.wait(30)


def test_a_process_group_that_is_somebody_elses_is_spared():
    child = subprocess.Popen(["sleep", "100"], start_new_session=True)
    processes.kill_group(child.pid, os.getpid())
    assert child.poll() is None
    processes.kill_group(child.pid, child.pid)
    assert child.wait(30) == -9


# Sockets


def test_the_directory_of_sockets_is_for_this_user_alone(tmp_path, runtime):
    assert link.runtime_directory(str(runtime), create=True) == runtime
    runtime.chmod(0o755)
    backend = LocalBackend(LocalBackend.Options(runtime_directory=str(runtime)))
    (problem,) = backend.check()
    assert str(runtime) in problem.message
    runtime.chmod(0o700)
    assert not backend.check()
    (tmp_path / "link").symlink_to(runtime)
    for bad in (tmp_path / "link", tmp_path / "no" / "such" / "place", tmp_path / ("x" * 100)):
        with pytest.raises(BackendError, match="runtime_directory"):
            link.runtime_directory(str(bad), create=True)


def test_without_a_directory_for_sockets_jobs_are_refused(open_driver, runtime):
    driver = open_driver()
    runtime.chmod(0o755)
    (answer,) = driver.submit(driver.shell("exit 0"))
    assert isinstance(answer, Refused)
    assert str(runtime) in answer.message
    runtime.chmod(0o700)


def test_sockets_of_killed_supervisors_are_swept(open_driver, runtime):
    old, new = runtime / "old", runtime / "new"
    for path in (old, new):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    os.utime(old, (0, 0))
    driver = open_driver()
    driver.run(driver.shell("exit 0"))
    assert not old.exists()
    assert new.exists()


def test_a_supervisor_that_cannot_start_says_why(open_driver, monkeypatch):
    monkeypatch.setattr(link, "_BOOT", "raise SystemExit('no such luck')")
    driver = open_driver()
    (answer,) = driver.submit(driver.shell("exit 0"))
    assert "no such luck" in answer.message
    assert any("no such luck" in each for each in driver.watch.troubles)


def test_a_visitor_who_talks_nonsense_disturbs_nobody(open_driver, runtime):
    driver = open_driver()
    job = driver.gated(driver.directory / "gate", 4)
    driver.run(job)
    (path,) = runtime.iterdir()
    for nonsense in (b"nonsense\n", b"[]\n", b'["watch", 3]\n', b'["submit", 1, [[1]]]\n', b"[1]\n"):
        with socket.socket(socket.AF_UNIX) as visitor:
            visitor.connect(str(path))
            visitor.sendall(nonsense)
            visitor.settimeout(30)
            if nonsense != b"[1]\n":
                assert visitor.recv(100) == b""
    (driver.directory / "gate").touch()
    assert driver.end(job).exit_code == 4


# The machine, and the plugin


def test_what_the_machine_has_is_positive():
    assert 0 < machine.cpus() <= (os.cpu_count() or 1)
    assert machine.memory_mib() > 0
    assert machine.gpus() >= 0


def test_a_quota_of_a_control_group_counts(tmp_path, monkeypatch):
    own = next(
        (
            line[3:].strip().lstrip("/")
            for line in Path("/proc/self/cgroup").read_text().splitlines()
            if line.startswith("0::")
        ),
        None,
    )
    if own is None:
        pytest.skip("no unified control groups")
    (tmp_path / own).mkdir(parents=True, exist_ok=True)
    (tmp_path / own / "cpu.max").write_text("50000 100000\n")
    (tmp_path / own / "memory.max").write_text("268435456\n")
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    assert machine.cpus() == 0.5
    assert machine.memory_mib() == 256
    (tmp_path / own / "cpu.max").write_text("max 100000\n")
    (tmp_path / own / "memory.max").write_text("max\n")
    assert machine.cpus() >= 1
    assert machine.memory_mib() > 256


def test_the_plugin_is_there_and_imports_nothing_heavy():
    assert load_plugins().backend("local") is LocalBackend
    code = "import sys, drawbar_local; sys.exit('drawbar_local.backend' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
