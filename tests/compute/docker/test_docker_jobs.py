"""Jobs in containers of a real engine, beyond the contract."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from docker_driver import wait_for
from drawbar.backend import Refused
from drawbar.model import JobState, Mount, Reason, Resources, WorkspaceNeed


def test_a_job_is_labelled_and_its_container_goes_when_its_end_is_recorded(driver, engine):
    gate = driver.directory / "gate"
    job = driver.gated(gate, 3)
    driver.run(job)
    (found,) = wait_for(lambda: engine.containers(f"drawbar.tag={job.tag}", "drawbar.run=kit"))
    assert found["Names"] == [f"/{job.tag}"]
    assert found["Labels"]["drawbar.job"] == job.spec.name
    gate.touch()
    result = driver.end(job)
    assert (result.exit_code, result.host) == (3, engine.facts().name)
    assert result.started <= result.finished
    assert json.loads((Path(job.record) / "result.json").read_text())["exit_code"] == 3
    wait_for(lambda: not engine.containers(f"drawbar.tag={job.tag}"))


def test_out_of_memory_timeout_killed_and_image_are_told_apart(driver, engine, cluster):
    gate = driver.directory / "gate"
    hungry = driver.shell(
        "head -c 300000000 /dev/zero | tail > /dev/null", resources=Resources(memory_limit_mib=32)
    )
    slow = driver.gated(gate, resources=Resources(walltime_s=1))
    victim = driver.gated(driver.directory / "other")
    absent = driver.shell("exit 0", image="localhost:1/not/there:1")
    driver.run(hungry, slow, victim, absent)
    wait_for((driver.directory / "other.ledger").exists)
    engine.kill(victim.tag, "SIGKILL")
    reasons = [driver.end(each).reason for each in (hungry, slow, victim, absent)]
    # Podman 4 does not say that memory was the reason, and without proof nobody does
    memory = {"docker": Reason.OUT_OF_MEMORY, "podman": Reason.KILLED}[cluster]
    assert reasons == [memory, Reason.TIMEOUT, Reason.KILLED, Reason.IMAGE]
    assert "localhost:1/not/there:1" in driver.end(absent).message


def test_a_network_is_there_only_when_asked_for(driver, cluster):
    """Without a bridge in this engine, what is seen is the mode that a container was made with."""
    gate = driver.directory / "gate"
    off, on = driver.gated(gate, network=False), driver.gated(gate)
    driver.run(off, on)
    engine = driver.backend._engine
    for job in (off, on):
        wait_for(lambda job=job: engine.containers(f"drawbar.tag={job.tag}"))
    modes = [engine.inspect(job.tag)["HostConfig"]["NetworkMode"] for job in (off, on)]
    assert modes == ["none", {"docker": "default", "podman": "bridge"}[cluster]]
    gate.touch()
    assert driver.end(off).ok
    assert driver.end(on).ok


def test_mounts_are_what_the_job_says(driver):
    inside = driver.directory / "data"
    inside.mkdir()
    (inside / "file").write_text("text")
    mounts = (
        Mount(source=str(inside), target="/inputs", read_only=True),
        Mount(source=str(inside), target="/scratch/here"),
    )
    job = driver.shell("cat /inputs/file; echo > /scratch/here/made; echo > /inputs/no", mounts=mounts)
    driver.run(job)
    result = driver.end(job)
    assert not result.ok
    assert Path(result.stdout).read_text() == "text"
    assert "Read-only" in Path(result.stderr).read_text()
    assert (inside / "made").exists()


def test_a_job_that_declares_what_it_needs_can_write_only_there(driver):
    outputs = driver.directory / "outputs"
    outputs.mkdir()
    job = driver.shell(
        'echo > "$1/outputs/made"; echo > "$1/stray"',
        str(driver.directory),
        workspace=WorkspaceNeed.DECLARED,
        collection_root=str(outputs),
    )
    driver.run(job)
    assert not driver.end(job).ok
    assert (outputs / "made").exists()
    assert not (driver.directory / "stray").exists()


@pytest.mark.parametrize("source", ["/etc", "link"])
def test_nothing_outside_of_the_run_can_be_mounted(driver, source):
    (driver.directory / "link").symlink_to("/etc")
    job = driver.shell("exit 0", mounts=(Mount(source=str(driver.directory / source), target="/inputs"),))
    (answer,) = driver.submit(job)
    assert isinstance(answer, Refused)
    assert "outside of the run" in answer.message


def test_what_the_site_shares_can_be_mounted_read_only(open_driver, tmp_path_factory):
    shared = tmp_path_factory.mktemp("shared")
    (shared / "file").write_text("text")
    driver = open_driver(shared=(str(shared),))
    for read_only in (True, False):
        job = driver.shell(
            "cat /shared/file",
            mounts=(Mount(source=str(shared), target="/shared", read_only=read_only),),
        )
        (answer,) = driver.submit(job)
        assert isinstance(answer, Refused) is not read_only
        if read_only:
            assert Path(driver.end(job).stdout).read_text() == "text"


def test_a_job_that_cannot_be_started_says_why(driver):
    no_file = driver.shell("exit 0", stdin=str(driver.directory / "absent"))
    no_shell = driver.shell("exit 0", image="drawbar-test/empty:1")
    driver.run(no_file, no_shell)
    assert "absent" in driver.end(no_file).message
    result = driver.end(no_shell)
    assert result.reason is Reason.IMAGE
    assert "has no /bin/sh" in result.message


def test_standard_input_from_a_file_is_a_pipe_as_with_docker_run(driver):
    source = driver.directory / "input"
    source.write_bytes(os.urandom(1 << 20))
    read = driver.shell("test -p /dev/stdin && cat", stdin=str(source))
    unread = driver.shell("exit 3", stdin=str(source))
    driver.run(read, unread)
    result = driver.end(read)
    assert result.exit_code == 0
    assert Path(result.stdout).read_bytes() == source.read_bytes()
    assert driver.end(unread).exit_code == 3
    assert not [path for path in Path(read.record).iterdir() if path.is_fifo()]


def test_the_image_brings_its_own_environment_and_a_home(driver):
    job = driver.shell('echo "$HOME $PATH"')
    driver.run(job)
    home, path = Path(driver.end(job).stdout).read_text().split()
    assert home == "/tmp"
    assert "/bin" in path


def test_an_entry_point_of_the_image_does_not_stand_before_the_command(open_driver):
    driver = open_driver(image="drawbar-test/entered:1")
    job = driver.attempt("python3", "-c", "print(6 * 7)")
    driver.run(job)
    assert Path(driver.end(job).stdout).read_text() == "42\n"


def test_cpus_are_limited_when_the_site_says_so(open_driver, engine):
    driver = open_driver(limit_cpus=True)
    gate = driver.directory / "gate"
    job = driver.gated(gate, resources=Resources(cpus=0.5))
    driver.run(job)
    wait_for((driver.directory / "gate.ledger").exists)
    assert engine.inspect(job.tag)["HostConfig"]["NanoCpus"] == 500_000_000
    gate.touch()
    assert driver.end(job).ok


def test_a_job_that_ended_by_itself_is_not_cancelled(driver):
    job = driver.shell("exit 4")
    driver.run(job)
    assert driver.end(job).exit_code == 4
    driver.cancel(job)
    assert driver.find(job)[job.tag].result.exit_code == 4


def test_a_job_waiting_for_its_image_can_be_cancelled(driver):
    backend = driver.backend
    held = wait_for(lambda: backend._images)
    release, pull = [], held._engine.pull

    def slow(repository, tag):
        wait_for(lambda: release)
        yield from pull(repository, tag)

    held._engine.pull = slow
    job = driver.shell("exit 0", image="localhost:1/slow:1")
    driver.run(job)
    assert driver.find(job)[job.tag].state is JobState.SUBMITTED
    driver.cancel(job)
    assert driver.end(job).reason is Reason.CANCELLED
    release.append(True)


def test_outputs_belong_to_the_user_who_runs_drawbar(driver, tmp_path):
    """The driver is another user here, who may speak to the engine by a group."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    for directory in (driver.directory, *driver.directory.parents):
        if directory.is_relative_to("/tmp/pytest-of-root"):
            directory.chmod(directory.stat().st_mode | 0o011)
    place = driver.directory / "theirs"
    place.mkdir()
    os.chown(place, 1234, 4321)
    program = Path(__file__).with_name("docker_driver.py")
    become = ["setpriv", "--reuid=1234", "--regid=4321", "--groups=0"]
    command = [*become, sys.executable, program, place]
    done = subprocess.run(
        command, input='[[1, "umask; id -u; : > made"]]\nwait\n', text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    made = (place / "made").stat()
    assert (made.st_uid, made.st_gid) == (1234, 4321)
    assert stat.S_IMODE(made.st_mode) == 0o644
