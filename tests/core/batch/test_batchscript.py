"""The script of an attempt: what it runs, what it records, and that a second copy does nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from drawbar import batchscript
from drawbar.backend import Attempt
from drawbar.batchscript import Submitted, Surroundings
from drawbar.model import JobSpec, Resources
from drawbar.runtime import Runtime


@pytest.fixture
def make(tmp_path):
    def make(*argv, surroundings=None, **fields):
        fields.setdefault("directory", str(tmp_path))
        spec = JobSpec(identity="i", name="a name\nwith lines", step="s", argv=argv, canonical=None, **fields)
        record = tmp_path / "re cord's"
        record.mkdir()
        attempt = Attempt(
            tag="db-1", run="r", number=1, record=str(record), workspace=str(tmp_path), spec=spec
        )
        (tmp_path / "notices").mkdir()
        place = Submitted(batch="db-1", index=0, directory=str(tmp_path))
        text = batchscript.script(attempt, place, surroundings or Surroundings(grace_s=0.3))
        batchscript.write_text(str(record / "job"), text)
        return record

    return make


def run(record, **environment):
    return subprocess.run(
        ["/bin/bash", "--", record / "job"],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        check=False,
        timeout=60,
    )


def wait_for(path: Path) -> None:
    give_up = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def start(record):
    return subprocess.Popen(["/bin/bash", "--", record / "job"], stderr=subprocess.DEVNULL)


def test_the_record_is_complete(make, tmp_path):
    record = make(
        "sh", "-c", "echo out; echo err >&2; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exit 7"
    )
    done = run(record, SLURMD_NODENAME="n7")
    assert (done.returncode, done.stderr) == (7, b"")
    end = batchscript.read_end(str(record))
    assert (end.exit_code, end.why, end.message, end.host) == (7, "", "", "n7")
    assert 0 < end.cpu_s < 30
    assert 1e9 < end.started <= end.finished
    assert (record / "stdout").read_text() == "out\n"
    assert (record / "stderr").read_text() == "err\n"
    assert (tmp_path / "notices" / "0").exists()
    begun = batchscript.read_start(str(record))
    assert (begun.host, begun.started) == ("n7", end.started)


def test_a_second_copy_does_nothing_and_says_so(make, tmp_path):
    record = make("sh", "-c", 'echo >> "$0"', str(tmp_path / "ledger"))
    assert run(record).returncode == 0
    assert not batchscript.started_again(str(record))
    assert run(record).returncode == 0
    assert batchscript.started_again(str(record))
    assert (tmp_path / "ledger").read_text() == "\n"


def test_an_attempt_that_was_closed_does_not_start(make, tmp_path):
    record = make("touch", str(tmp_path / "made"))
    assert batchscript.claim(str(record))
    assert not batchscript.claim(str(record))
    assert run(record).returncode == 0
    assert not (tmp_path / "made").exists()
    assert batchscript.read_end(str(record)) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_without_a_record_nothing_is_run(make, tmp_path):
    record = make("touch", str(tmp_path / "made"))
    record.chmod(0o500)
    assert run(record).returncode == 74
    record.chmod(0o700)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("field", ["stdin", "stdout", "stderr"])
def test_a_stream_that_cannot_be_opened_is_named(make, tmp_path, field):
    record = make("true", **{field: str(tmp_path / "no such" / "file")})
    assert run(record).returncode == 126
    end = batchscript.read_end(str(record))
    assert (end.why, end.exit_code) == ("failed", 126)
    assert f"{tmp_path}/no such/file: No such file or directory" in end.message


def test_one_file_may_take_both_streams(make, tmp_path):
    log = str(tmp_path / "log")
    record = make("sh", "-c", "echo a; echo b >&2; echo c", stdout=log, stderr=log)
    run(record)
    assert Path(log).read_text() == "a\nb\nc\n"


def test_walltime_ends_a_job_that_does_not_listen(make):
    record = make(
        "sh", "-c", 'trap "" TERM; while :; do sleep 0.1; done', resources=Resources(walltime_s=0.2)
    )
    run(record)
    assert batchscript.read_end(str(record)).why == batchscript.WALLTIME


def test_a_signal_to_the_script_ends_the_command_and_is_recorded(make, tmp_path):
    record = make("sh", "-c", ': > "$0"; exec sleep 300', str(tmp_path / "started"))
    process = start(record)
    wait_for(tmp_path / "started")
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert batchscript.read_end(str(record)).why == batchscript.SIGNAL


def test_what_a_command_leaves_behind_is_ended(make, tmp_path):
    record = make("sh", "-c", 'sleep 300 & echo $! > "$0"', str(tmp_path / "pid"))
    assert run(record).returncode == 0
    pid = int((tmp_path / "pid").read_text())
    give_up = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_the_command_has_default_signals(make, tmp_path):
    record = make("sh", "-c", "grep SigIgn /proc/self/status")
    run(record)
    assert int((record / "stdout").read_text().split()[1], 16) & (1 << signal.SIGINT - 1) == 0


def test_prolog_and_modules_come_before_the_command(make, tmp_path):
    prolog = ('module() { echo "$@" >> "$record/modules"; [ "$2" != bad/1 ]; }', "export FROM_PROLOG=1")
    surroundings = Surroundings(prolog=prolog, modules=("gcc/13", "root/6 x"))
    record = make("sh", "-c", 'echo "$FROM_PROLOG"', surroundings=surroundings)
    run(record)
    assert (record / "stdout").read_text() == "1\n"
    assert (record / "modules").read_text() == "load gcc/13\nload root/6 x\n"


def test_a_module_that_cannot_be_loaded_is_named(make):
    surroundings = Surroundings(prolog=("module() { false; }",), modules=("gcc/13",))
    record = make("true", surroundings=surroundings)
    assert run(record).returncode == 126
    assert batchscript.read_end(str(record)).message == "module gcc/13 cannot be loaded"


def test_torn_records_count_as_missing(tmp_path):
    assert batchscript.read_end(str(tmp_path)) is None
    for text in ("", "exit=", "garbage", "why=walltime\n", "exit=x\n"):
        (tmp_path / "end").write_text(text)
        assert batchscript.read_end(str(tmp_path)) is None


@pytest.mark.parametrize("word", ["a", "gpu:a100:2", "x86&avx|sse", "node[1-3]", "a,b", "4h"])
def test_words_that_may_be_directives(word):
    assert batchscript.directive(word, "w") == word


@pytest.mark.parametrize("word", ["", "-x", "--export=ALL", "a b", "a\nb", "$(x)", "`x`", "a;b", "a'b", "ü"])
def test_words_that_may_not(word):
    with pytest.raises(ValueError, match="slurm_qos"):
        batchscript.directive(word, "slurm_qos")


PROGRAM = """#!/bin/sh
while [ "$1" != /an/image.sif ]; do shift; done
shift
echo "$APPTAINER_WORKDIR" >"{directory}/scratch"
: >"$APPTAINER_WORKDIR/left"
env >"{directory}/variables"
[ ! -e "{directory}/broken" ] || {{ echo "FATAL:   it is broken" >&2; exit 255; }}
DRAWBAR_JOB=$APPTAINERENV_DRAWBAR_JOB exec "$@"
"""
"""Stands for the program on a node: runs the shell of the machine where that runs the image's."""


@pytest.fixture
def surroundings(tmp_path):
    program = tmp_path / "apptainer"
    program.write_text(PROGRAM.format(directory=tmp_path))
    program.chmod(0o755)
    return Surroundings(grace_s=0.3, runtime=Runtime(program=str(program)))


def test_a_job_in_an_image_has_room_of_its_own_and_its_devices(make, tmp_path, surroundings):
    stdout = str(tmp_path / "out put")
    record = make(
        *("sh", "-c", 'echo "$A"; exit 7'),
        surroundings=surroundings,
        image="/an/image.sif",
        environment={"A": "$(x)\r\n'"},
        stdout=stdout,
    )
    run(record, CUDA_VISIBLE_DEVICES="3", TMPDIR=str(tmp_path))
    end = batchscript.read_end(str(record))
    assert (end.exit_code, end.container) == (7, "made")
    assert Path(stdout).read_bytes() == b"$(x)\r\n'\n"
    scratch = Path((tmp_path / "scratch").read_text().strip())
    assert scratch.parent == tmp_path
    assert not scratch.exists()
    assert "APPTAINERENV_CUDA_VISIBLE_DEVICES=3\n" in (tmp_path / "variables").read_text()


def test_a_container_that_is_not_made_is_told_from_a_command_that_fails(make, tmp_path, surroundings):
    (tmp_path / "broken").touch()
    record = make("true", surroundings=surroundings, image="/an/image.sif", success_codes=(0, 255))
    run(record)
    end = batchscript.read_end(str(record))
    assert (end.exit_code, end.container) == (255, "unmade")
    assert (record / "stderr").read_text() == "FATAL:   it is broken\n"


def test_a_job_without_an_image_needs_no_program(make, surroundings):
    record = make("true", surroundings=surroundings)
    run(record)
    end = batchscript.read_end(str(record))
    assert (end.exit_code, end.container) == (0, "")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own for everything, and a function that leaves no room on it."""
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=64", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")

    def fill():
        with contextlib.suppress(OSError), (tmp_path / "filler").open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        with contextlib.suppress(OSError):
            for number in range(64):
                (tmp_path / f"filler{number}").touch()

    yield fill
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_without_room_for_a_claim_nothing_is_run(small_disk, make):
    record = make("echo")
    small_disk()
    done = run(record)
    assert done.returncode == 74
    assert b"cannot write" in done.stderr
    assert not (record / "start").exists()


def test_a_disk_that_is_filled_by_the_job_costs_the_record_and_not_the_exit_code(small_disk, make, tmp_path):
    record = make("sh", "-c", 'cat /dev/zero > "$0"; exit 3', str(tmp_path / "filler"))
    assert run(record).returncode == 3  # which the scheduler knows, then
    assert batchscript.read_end(str(record)) is None
