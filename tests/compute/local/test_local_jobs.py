"""Jobs of the local backend: what they get, and what is told of them."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from pathlib import Path

import pytest
from drawbar.backend import Accepted, Refused
from drawbar.model import Mount, Reason, Resources
from drawbar_local.records import LOCK_FD


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.fixture(params=["pidfd", "signal"])
def watched(request, open_driver):
    """A driver with each way of watching."""
    return open_driver(watcher=request.param)


# Ends


def test_a_signal_is_named(watched):
    attempt = watched.shell("kill -SEGV $$")
    watched.run(attempt)
    result = watched.end(attempt)
    assert (result.exit_code, result.reason) == (None, Reason.KILLED)
    assert "SIGSEGV" in result.message


def test_cpu_time_and_peak_memory_are_recorded(watched):
    attempt = watched.attempt(
        sys.executable, "-c", "import time; x = b'x' * (80 << 20)\nwhile time.process_time() < 0.2: pass"
    )
    watched.run(attempt)
    result = watched.end(attempt)
    assert result.ok
    assert 0.2 <= result.cpu_s < 10
    assert 80 <= result.peak_memory_mib < 400
    assert result.host == os.uname().nodename


def test_a_job_that_stops_when_asked_is_a_timeout(watched):
    script = "trap 'echo stopped > stopped; exit 0' TERM; while :; do sleep 0.02; done"
    attempt = watched.shell(script, resources=Resources(walltime_s=0.3))
    watched.run(attempt)
    result = watched.end(attempt)
    assert (result.reason, result.exit_code) == (Reason.TIMEOUT, 0)
    assert "0.3 s" in result.message
    assert (watched.directory / "stopped").exists()


def test_a_job_that_ignores_being_asked_is_killed(watched):
    attempt = watched.shell("trap '' TERM; while :; do sleep 0.02; done", resources=Resources(walltime_s=0.1))
    watched.run(attempt)
    assert watched.end(attempt).reason is Reason.TIMEOUT


def test_a_stopped_job_can_be_cancelled(driver):
    attempt = driver.shell("kill -STOP $$")
    driver.run(attempt)
    driver.cancel(attempt)
    assert driver.end(attempt).reason is Reason.CANCELLED


def test_children_have_the_grace_too(open_driver):
    """The shell dies of SIGTERM at once; its child still has time to clean up."""
    driver = open_driver(grace_s=20)
    child = "trap 'sleep 0.2; echo clean > clean; exit' TERM; echo > ready; while :; do sleep 0.02; done"
    attempt = driver.shell('/bin/sh -c "$1"; true', child)
    driver.run(attempt)
    driver.wait_for((driver.directory / "ready").exists, "the child starts")
    driver.cancel(attempt)
    assert driver.end(attempt).reason is Reason.CANCELLED
    assert (driver.directory / "clean").exists()


@pytest.mark.parametrize("how", ["", "setsid ", "setsid env -i "])
def test_what_a_job_leaves_behind_is_killed(watched, how):
    attempt = watched.shell(f"{how}sleep 100 & echo $! > pid; exit 3")
    watched.run(attempt)
    result = watched.end(attempt)
    assert result.exit_code == 3
    assert not alive(int((watched.directory / "pid").read_text()))


def test_a_daemon_that_lets_go_of_everything_ends_with_a_cancelled_job(driver):
    """It has a session of its own and no descriptor of the job: its environment tells."""
    attempt = driver.shell(f"setsid sleep 100 {LOCK_FD}>&- & echo $! > pid; sleep 100")
    driver.run(attempt)
    driver.wait_for(lambda: (driver.directory / "pid").exists(), "the job starts")
    driver.cancel(attempt)
    driver.end(attempt)
    assert not alive(int((driver.directory / "pid").read_text()))


def test_the_memory_of_all_processes_counts(driver):
    hog = "x = b'x' * (60 << 20); import time; time.sleep(100)"
    attempt = driver.shell(
        '"$1" -c "$2" & "$1" -c "$2"', sys.executable, hog, resources=Resources(memory_limit_mib=100)
    )
    driver.run(attempt)
    result = driver.end(attempt)
    assert result.reason is Reason.OUT_OF_MEMORY
    used = int(result.message.split()[1])
    assert used > 100, result.message


def test_shared_memory_counts_once(driver):
    """Four processes share 80 MiB: far more by resident size than the limit, and within it."""
    program = "import os, time; x = b'x' * (80 << 20)\nif os.fork() and os.fork(): pass\ntime.sleep(0.5)"
    attempt = driver.attempt(sys.executable, "-c", program, resources=Resources(memory_limit_mib=150))
    driver.run(attempt)
    result = driver.end(attempt)
    assert result.ok, result


# Commands that cannot be started


@pytest.mark.parametrize(
    ("argv", "fields", "code", "words"),
    [
        (["no-such-command"], {}, 127, "command not found"),
        (["./nothing"], {}, 127, "No such file"),
        (["./text"], {}, 126, "Permission denied"),
        (["text"], {"environment": {"PATH": "{}"}}, 126, "not executable"),
        (["./script"], {}, 126, "interpreter"),
        (["./empty"], {}, 126, "Exec format error"),
        (["true"], {"directory": "{}/nowhere"}, 126, "working directory"),
        (["true"], {"stdin": "{}/nowhere"}, 126, "stdin"),
        (["true"], {"stdout": "{}/nowhere/out"}, 126, "stdout"),
        (["true"], {"stderr": "{}/pipe"}, 126, "stderr"),
        (["true", "x" * 200_000], {}, 126, "Argument list too long"),
    ],
)
def test_a_command_that_cannot_be_started_is_a_result(driver, argv, fields, code, words):
    os.mkfifo(driver.directory / "pipe")
    (driver.directory / "text").touch(mode=0o644)
    (driver.directory / "empty").touch(mode=0o755)
    (driver.directory / "empty").write_text("x")
    (driver.directory / "script").write_text("#!/no/such/interpreter\n")
    (driver.directory / "script").chmod(0o755)

    def filled(value):
        if isinstance(value, dict):
            return {key: filled(each) for key, each in value.items()}
        return value.format(driver.directory)

    attempt = driver.attempt(*argv, **filled(fields))
    driver.run(attempt)
    result = driver.end(attempt)
    assert (result.exit_code, result.reason) == (code, Reason.EXIT_CODE)
    assert words in result.message


def test_commands_are_looked_up_in_the_jobs_own_path(driver):
    for place in ("one", "two"):
        (driver.directory / place).mkdir()
        (driver.directory / place / "which-one").write_text(f"#!/bin/sh\necho {place}\n")
        (driver.directory / place / "which-one").chmod(0o755)
    out = driver.directory / "out"
    for place in ("one", "two"):
        path = f"{driver.directory / place}:/usr/bin:/bin"
        attempt = driver.attempt("which-one", environment={"PATH": path}, stdout=str(out))
        driver.run(attempt)
        driver.end(attempt)
        assert out.read_text() == f"{place}\n"
    # It is found once; then it moves.
    (driver.directory / "two" / "which-one").rename(driver.directory / "one" / "which-one")
    attempt = driver.attempt(
        "which-one",
        environment={"PATH": f"{driver.directory / 'two'}:{driver.directory / 'one'}:/usr/bin:/bin"},
        stdout=str(out),
    )
    driver.run(attempt)
    assert driver.end(attempt).ok
    assert out.read_text() == "two\n"


# What a job gets


def test_the_environment_is_a_small_base_and_the_jobs_own(open_driver, monkeypatch):
    for name in ("SECRET_TOKEN", "DRAWBAR_SECRET", "SITE_ONE", "SITE_TWO"):
        monkeypatch.setenv(name, "value")
    monkeypatch.setenv("LC_TIME", "C")
    monkeypatch.delenv("DRAWBAR_JOB_TAG", raising=False)
    driver = open_driver(environment=("SITE_*", "DRAWBAR_*"))
    out = driver.directory / "out"
    attempt = driver.attempt("env", environment={"MINE": "1", "HOME": "/elsewhere"}, stdout=str(out))
    driver.run(attempt)
    driver.end(attempt)
    variables = dict(line.split("=", 1) for line in out.read_text().splitlines())
    assert {
        "MINE": "1",
        "HOME": "/elsewhere",
        "SITE_ONE": "value",
        "SITE_TWO": "value",
    }.items() <= variables.items()
    assert variables["PATH"] == os.environ["PATH"]
    assert variables["LC_TIME"] == "C"
    assert [name for name in variables if name.startswith("DRAWBAR")] == ["DRAWBAR_JOB_TAG"]
    assert variables["DRAWBAR_JOB_TAG"] == attempt.tag
    assert "SECRET_TOKEN" not in variables


def test_a_job_inside_a_job_carries_both_tags(open_driver, monkeypatch):
    monkeypatch.setenv("DRAWBAR_JOB_TAG", "db-outer")
    driver = open_driver()
    attempt = driver.shell('echo "$DRAWBAR_JOB_TAG" > tags')
    driver.run(attempt)
    driver.end(attempt)
    assert (driver.directory / "tags").read_text() == f"db-outer:{attempt.tag}\n"


def test_a_job_starts_with_clean_signals_and_descriptors(driver):
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        attempt = driver.shell("grep Sig /proc/self/status; ls /proc/$$/fd; ulimit -n", stdout=None)
        driver.run(attempt)
        result = driver.end(attempt)
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    lines = Path(result.stdout).read_text().splitlines()
    signals = dict(line.split(":\t") for line in lines if ":" in line)
    ours = sum(1 << (number - 1) for number in signal.valid_signals())  # glibc has two of its own
    assert int(signals["SigIgn"], 16) & ours == 0
    assert int(signals["SigBlk"], 16) & ours == 0
    descriptors = {int(line) for line in lines if line.isdigit()}
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert descriptors == {0, 1, 2, LOCK_FD, soft}


def test_one_file_for_both_streams_keeps_their_order(driver):
    log = str(driver.directory / "log")
    attempt = driver.shell("echo 1; echo 2 >&2; echo 3", stdout=log, stderr=log)
    driver.run(attempt)
    driver.end(attempt)
    assert Path(log).read_text() == "1\n2\n3\n"


# Batches


def test_many_jobs_at_once_and_few_files_open(open_driver):
    """500 jobs at the same time, under a limit on open files that they would break."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, limits[1]), limits[1]))
    try:
        driver = open_driver()
        gate = driver.directory / "gate"
        os.mkfifo(gate)
        attempts = [driver.shell('read line < "$1"; exit "$2"', str(gate), str(n % 200)) for n in range(500)]
        driver.run(*attempts)
        limit = driver.shell("ulimit -n")
        driver.run(limit)
        result = driver.end(limit)
        assert result.ok, result
        assert Path(result.stdout).read_text() == "512\n"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    opened = os.open(gate, os.O_RDWR)  # lets those through that wait to open it, and those still to come
    waker = threading.Thread(target=os.write, args=(opened, b"\n" * 500))
    waker.start()
    assert [driver.end(attempt).exit_code for attempt in attempts] == [n % 200 for n in range(500)]
    waker.join()
    os.close(opened)


def test_a_tag_twice_in_a_batch_is_one_job(driver):
    attempt = driver.shell("echo ran >> ledger")
    answers = driver.run(attempt, attempt)
    assert len(answers) == 2
    driver.end(attempt)
    assert (driver.directory / "ledger").read_text() == "ran\n"


def test_a_job_without_a_place_for_its_record_is_refused(driver):
    (driver.directory / ".records").mkdir()
    good, bad = driver.shell("exit 0"), driver.shell("echo ran >> ledger")
    in_the_way = Path(bad.record)
    in_the_way.write_text("in the way")
    (bad_answer, good_answer) = driver.submit(bad, good)
    assert isinstance(bad_answer, Refused)
    assert bad.record in bad_answer.message
    assert isinstance(good_answer, Accepted)
    assert driver.end(good).ok
    assert not (driver.directory / "ledger").exists()
    in_the_way.unlink()


def test_a_full_disk_refuses_and_leaves_nothing(open_driver):
    """A limit of 0 bytes for files stands for the disk; the supervisor inherits it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    driver = open_driver()
    attempt = driver.shell("exit 0")
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        answers = [driver.submit(attempt), driver.submit(attempt)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for (answer,) in answers:
        assert isinstance(answer, Refused)
        assert "File too large" in answer.message
    assert not Path(attempt.record).exists()


# Before the first job


def test_what_the_machine_cannot_do_is_refused_beforehand(open_driver):
    driver = open_driver(cpus=2, memory_mib=1000)
    backend = driver.backend

    def refused(**fields):
        return backend.refuses(driver.shell("exit 0", **fields).spec)

    assert backend.capacity().cpus == 2
    assert refused(resources=Resources(cpus=2, memory_mib=1000)) is None
    assert "3 CPUs" in refused(resources=Resources(cpus=3))
    assert "1001 MiB" in refused(resources=Resources(memory_mib=1001))
    assert "1000 GPUs" in refused(resources=Resources(gpus=1000))
    assert refused(mounts=(Mount(source="/tmp", target="/tmp"),)) is None
    assert "container" in refused(mounts=(Mount(source="/tmp", target="/data"),))
