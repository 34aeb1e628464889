"""Local jobs in images: what they find there, and that nothing of them survives."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from drawbar.backend import Refused
from drawbar.model import Mount, Reason, Resources, WorkspaceNeed
from drawbar_local import processes

pytestmark = pytest.mark.apptainer

FORMS = ("busybox", "busybox.sif", "python", "python.sif")


def printed(driver, script, *arguments, **fields):
    attempt = driver.shell(script, *arguments, **fields)
    driver.run(attempt)
    result = driver.end(attempt)
    assert result.ok, (result, Path(attempt.record, "stderr").read_text())
    return Path(attempt.record, "stdout").read_text()


def alive(attempt):
    """The processes that belong to an attempt, wherever they went."""
    found = []
    for each in Path("/proc").iterdir():
        try:
            if each.name.isdigit() and f"{processes.TAG}={attempt.tag}".encode() in (
                each / "environ"
            ).read_bytes().split(b"\0"):
                found.append((each / "cmdline").read_bytes())
        except OSError:
            continue
    return found


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_image_runs(open_local, images, form):
    driver = open_local(image=images / form)
    script = 'pwd; id -u; echo "$A"; ls -d /bin/busybox /usr/bin/python3 2>/dev/null; exit 0'
    lines = printed(driver, script, environment={"A": "a\nb"}).splitlines()
    program = "/bin/busybox" if "busybox" in form else "/usr/bin/python3"
    assert lines == [str(driver.directory), str(os.getuid()), "a", "b", program]


def test_an_unpacked_image_may_have_the_name_of_one_on_cvmfs(open_local, images, tmp_path):
    place = tmp_path / "unpacked.cern.ch/registry.hub.docker.com/library/busybox:1.36@x,y"
    place.parent.mkdir(parents=True)
    place.symlink_to(images / "busybox")
    assert printed(open_local(image=place), "echo here") == "here\n"


def test_the_environment_is_clean(open_local, images, monkeypatch):
    for name in ("SECRET", "LC_SECRET", "APPTAINERENV_SECRET", "SINGULARITY_BIND"):
        monkeypatch.setenv(name, "/etc:/secret")
    shown = printed(open_local(image=images / "busybox", environment=("SECRET",)), "env; ls /")
    assert "secret" not in shown.lower()
    assert "DRAWBAR_JOB=" not in shown


def test_only_what_is_mounted_is_seen(open_local, images, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("outside")
    shared = tmp_path / "a site's, shared: place"
    shared.mkdir()
    (shared / "file").write_text("shared")
    driver = open_local(image=images / "busybox", shared=(str(shared),))
    inner = driver.directory / "jobs"
    inner.mkdir()
    script = (
        'ls "$1" 2>/dev/null; cat "$2/file"; touch "$2/x" 2>/dev/null || echo read-only;'
        " touch /job/made; echo home > ~/file; echo tmp > /tmp/file; touch /x 2>/dev/null || echo image"
    )
    mounts = (Mount(source=str(inner), target="/job"),)
    shown = printed(driver, script, str(outside), str(shared), mounts=mounts)
    assert shown == "sharedread-only\nimage\n"
    assert (inner / "made").exists()
    assert not (Path.home() / "file").exists()
    assert not Path("/tmp/file").exists()
    (answer,) = driver.submit(driver.shell("true", mounts=(Mount(source=str(outside), target="/job"),)))
    assert isinstance(answer, Refused)
    assert "outside of the run" in answer.message


def test_the_workspace_may_be_read_only_or_not_there(open_local, images):
    driver = open_local(image=images / "busybox")
    (driver.directory / "input").write_text("input")
    root = driver.directory / "root"
    root.mkdir()
    script = 'cat input; touch x 2>/dev/null || echo " read-only"; touch root/made'
    shown = printed(driver, script, workspace=WorkspaceNeed.DECLARED, collection_root=str(root))
    assert shown == "input read-only\n"
    assert (root / "made").exists()
    shown = printed(driver, 'ls -A "$1"', str(driver.directory), workspace=WorkspaceNeed.NONE, directory="/")
    assert shown == ".records\n"  # that of the attempt itself


def test_tmp_and_home_have_the_room_of_the_disk_and_are_gone_afterwards(open_local, images):
    driver = open_local(image=images / "busybox")
    script = "dd if=/dev/zero of=/tmp/big bs=1M count=100 2>/dev/null; cp /tmp/big ~/big; ls -l ~/big"
    attempt = driver.shell(f"{script} | wc -l")
    driver.run(attempt)
    assert driver.end(attempt).ok
    assert Path(attempt.record, "stdout").read_text() == "1\n"
    scratch = Path(f"{attempt.record}.scratch")
    assert (scratch / "tmp" / "big").stat().st_size == 100 << 20
    driver.call(driver.backend.forget, (attempt,))
    assert not scratch.exists()


def test_gpus_do_no_harm_where_there_are_none(open_local, images):
    assert printed(open_local(image=images / "python"), "echo $0", resources=Resources(gpus=1)) == "sh\n"


@pytest.mark.parametrize("how", ["cancel", "walltime", "memory"])
def test_nothing_of_a_job_survives_its_end(open_local, images, how):
    """Also not what left its process group and its session, and does not listen."""
    driver = open_local(image=images / "python")
    started = driver.directory / "started"
    script = (
        'trap "" TERM HUP; setsid sh -c \'trap "" TERM HUP; while :; do sleep 1; done\' &'
        ' setsid -f sleep 1000; : > "$1"; exec python3 -c "$2"'
    )
    program = "import time\nwhile 1: time.sleep(1)"
    resources = Resources()
    if how == "walltime":
        resources = Resources(walltime_s=1)
    if how == "memory":
        program = "x = b'x' * (1 << 29)\n" + program
        resources = Resources(memory_limit_mib=256)
    attempt = driver.shell(script, str(started), program, resources=resources)
    driver.run(attempt)
    driver.wait_for(started.exists, "the job starts")
    if how == "cancel":
        assert alive(attempt)
        driver.cancel(attempt)
    expected = {
        "cancel": Reason.CANCELLED,
        "walltime": Reason.TIMEOUT,
        "memory": Reason.OUT_OF_MEMORY,
    }
    assert driver.end(attempt).reason is expected[how]
    assert alive(attempt) == []


def test_jobs_of_a_killed_supervisor_are_ended(open_local, images):
    driver = open_local(image=images / "busybox")
    started = driver.directory / "started"
    attempt = driver.shell('setsid sleep 1000 & : > "$1"; sleep 1000', str(started))
    driver.run(attempt)
    driver.wait_for(started.exists, "the job starts")
    (link,) = driver.backend._links.values()
    os.kill(link.child, signal.SIGKILL)
    assert driver.end(attempt).reason is Reason.LOST
    assert alive(attempt) == []


def test_a_program_that_is_killed_takes_the_job_with_it(open_local, images):
    driver = open_local(image=images / "busybox")
    started = driver.directory / "started"
    attempt = driver.shell('setsid sleep 1000 & : > "$1"; sleep 1000', str(started))
    (accepted,) = driver.run(attempt)
    driver.wait_for(started.exists, "the job starts")
    os.kill(int(accepted.native_id), signal.SIGKILL)
    assert driver.end(attempt).reason is Reason.KILLED
    assert alive(attempt) == []


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("missing", "no such file"),
        ("not-an-image.sif", "not recognized|unknown image format|could not open"),
        ("no-shell", "/bin/sh: no such file"),
        ("other-machine", "exec format error"),
    ],
)
def test_an_image_that_cannot_be_run_is_told_as_that(open_local, images, tmp_path, broken, words):
    place = tmp_path / broken
    if broken.endswith(".sif"):
        place.write_text("no image")
    elif broken != "missing":
        for name in ("bin", "tmp", "etc", "root", "proc", "sys", "dev", "var/tmp"):
            (place / name).mkdir(parents=True)
    if broken == "other-machine":  # the header of a program for a big-endian 64-bit POWER
        header = b"\x7fELF\x02\x02\x01" + bytes(9) + b"\0\x02\0\x15" + bytes(100)
        (place / "bin" / "sh").write_bytes(header)
        (place / "bin" / "sh").chmod(0o755)
    driver = open_local(image=place)
    attempt = driver.shell("true", success_codes=(0, 255))
    driver.run(attempt)
    result = driver.end(attempt)
    assert (result.reason, result.exit_code) == (Reason.IMAGE, None)
    assert str(place) in result.message
    assert re.search(words, result.message), result.message


def test_a_missing_program_is_told_as_that(open_local, images, monkeypatch):
    driver = open_local(image=images / "busybox")
    driver.backend.runtime = type(driver.backend.runtime)(program="no-such-program")
    attempt = driver.shell("true")
    driver.run(attempt)
    result = driver.end(attempt)
    assert result.reason is Reason.IMAGE
    assert "no-such-program" in result.message
