"""The command that runs a job in its image with Apptainer or Singularity."""

from __future__ import annotations

import csv
import io
import os
import subprocess

import pytest
from drawbar.backend import Attempt
from drawbar.images import Pull
from drawbar.model import JobSpec, Mount, Resources, WorkspaceNeed
from drawbar.runtime import Runtime, made, why_unmade
from drawbar.testing.job_checks import ODD_TEXTS

IMAGE = "/images/python.sif"


@pytest.fixture
def make(tmp_path):
    record = tmp_path / "attempts" / "job"
    record.mkdir(parents=True)

    def make(*argv, **fields):
        fields = {"directory": str(tmp_path), "image": IMAGE, **fields}
        spec = JobSpec(identity="j", name="j", step="s", argv=argv or ("true",), canonical=None, **fields)
        return Attempt(tag="t", run="r", number=1, record=str(record), workspace=str(tmp_path), spec=spec)

    return make


def wrapped(attempt, program="apptainer", shared=(), inside=None):
    return Runtime(program=program, shared=shared).wrap(attempt, inside=inside).spec


def options(spec, name):
    argv = spec.argv
    return [argv[at + 1] for at in range(argv.index(IMAGE)) if argv[at] == name]


def mounts(spec):
    return [row for text in options(spec, "--mount") for row in csv.reader(io.StringIO(text, newline=""))]


def unpacked(attempt, **how):
    """Runs the shell's part of the command, as the image's shell would."""
    spec = wrapped(attempt, **how)
    ((name, value),) = spec.environment.items()
    shell = spec.argv[spec.argv.index(IMAGE) + 1 :]
    environment = {"PATH": os.environ["PATH"], name.partition("_")[2]: value}
    return subprocess.run(shell, env=environment, capture_output=True, check=False)


def test_the_program_is_told_everything_as_arguments(make, tmp_path):
    spec = wrapped(make("echo", "$(x)"), program="/opt/bin/apptainer")
    assert spec.argv[:4] == ("/opt/bin/apptainer", "--silent", "exec", "--containall")
    assert spec.argv[-2:] == ("echo", "$(x)")
    assert (spec.directory, spec.mounts, spec.stdin, spec.stdout, spec.stderr) == ("/", (), None, None, None)
    assert "--nv" not in spec.argv
    assert "--net" not in spec.argv


def test_gpus_and_no_network(make):
    spec = wrapped(make(network=False, resources=Resources(gpus=1)))
    before = spec.argv[: spec.argv.index(IMAGE)]
    assert "--nv" in before
    assert before[before.index("--net") :][:3] == ("--net", "--network", "none")


@pytest.mark.parametrize(
    ("program", "prefix", "scratch"),
    [
        ("apptainer", "APPTAINERENV_", "APPTAINER_WORKDIR"),
        ("/opt/singularity-3.11/bin/singularity", "SINGULARITYENV_", "SINGULARITY_WORKDIR"),
    ],
)
def test_each_program_has_variables_of_its_own(make, program, prefix, scratch):
    assert list(wrapped(make(), program=program).environment) == [f"{prefix}DRAWBAR_JOB"]
    assert Runtime(program=program).scratch_variable == scratch


def test_mounts_are_fields_whatever_they_hold(make, tmp_path):
    odd = f"{tmp_path}/a,b:\"c'\nd"
    spec = wrapped(make(mounts=(Mount(source=odd, target=odd, read_only=True),)), shared=("/cvmfs",))
    assert mounts(spec) == [
        ["type=bind", "source=/cvmfs", "destination=/cvmfs", "ro"],
        ["type=bind", f"source={tmp_path}", f"destination={tmp_path}"],
        ["type=bind", f"source={odd}", f"destination={odd}", "ro"],
        ["type=bind", f"source={tmp_path}/attempts/job", f"destination={tmp_path}/attempts/job"],
    ]


def test_a_job_sees_what_it_needs_of_the_workspace(make, tmp_path):
    root = f"{tmp_path}/jobs/1"
    spec = wrapped(make(workspace=WorkspaceNeed.DECLARED, collection_root=root))
    assert mounts(spec)[0][1:] == [f"source={tmp_path}", f"destination={tmp_path}", "ro"]
    assert ["type=bind", f"source={root}", f"destination={root}"] in mounts(spec)
    spec = wrapped(make(workspace=WorkspaceNeed.NONE))
    assert [each[1] for each in mounts(spec)] == [f"source={tmp_path}/attempts/job"]


def test_variables_are_packed_in_plain_characters_and_unpacked(make):
    texts = [*ODD_TEXTS, "@@0123@", "\x01\x7f\r", os.fsdecode(b"\xff"), "end\n\n"]
    environment = {f"KIT_{number}": text for number, text in enumerate(texts)} | {"odd.name": "x", "UID": "7"}
    attempt = make("env", "-0", environment=environment)
    ((_, packed),) = wrapped(attempt).environment.items()
    assert not set(packed) & set("$`\\\"'\r\n;&|<>*?[]{}~!#%()")
    assert packed.isascii()
    arrived = dict(each.split(b"=", 1) for each in unpacked(attempt).stdout.split(b"\0")[:-1])
    assert {name: os.fsdecode(arrived[name.encode()]) for name in environment} == environment
    assert b"DRAWBAR_JOB" not in arrived
    assert b"IFS" not in arrived


def test_more_variables_may_come_from_the_backend(make):
    attempt = make("/bin/sh", "-c", 'echo "$A $B"', environment={"A": "1", "B": "1"})
    assert unpacked(attempt, inside={"B": "2"}).stdout == b"1 2\n"


def test_arguments_directory_and_streams(make, tmp_path):
    place = tmp_path / "it's a $place"
    place.mkdir()
    (place / "in").write_bytes(b"\0in")
    attempt = make(
        "/bin/sh",
        "-c",
        'pwd; cat; printf "%s\\0" "$@"; exit 7',
        "sh",
        *ODD_TEXTS,
        directory=str(place),
        stdin=f"{place}/in",
        stdout=f"{place}/out",
    )
    done = unpacked(attempt)
    assert (done.returncode, done.stdout) == (7, b"")
    expected = f"{place}\n\0in".encode() + b"".join(os.fsencode(each) + b"\0" for each in ODD_TEXTS)
    assert (place / "out").read_bytes() == expected
    assert made(attempt)


def test_one_file_for_both_streams(make, tmp_path):
    out = str(tmp_path / "both")
    unpacked(make("/bin/sh", "-c", "echo out; echo err >&2; echo out", stdout=out, stderr=out))
    assert (tmp_path / "both").read_text() == "out\nerr\nout\n"


def test_a_container_that_was_not_made_is_told_with_the_programs_words(make, tmp_path):
    attempt = make()
    (tmp_path / "attempts" / "job" / "stderr").write_text("FATAL:   no such image\n")
    assert not made(attempt)
    assert why_unmade(attempt) == f"the image {IMAGE} cannot be run: no such image"


@pytest.mark.parametrize(
    ("argv", "fields", "words"),
    [
        (("a=b",), {}, "'=' in its name"),
        (("echo", "\udcff"), {}, "not UTF-8"),
        (("true",), {"environment": {"A": "$" * 40_000}}, "too large"),
    ],
)
def test_what_cannot_be_passed_is_refused(make, argv, fields, words):
    with pytest.raises(ValueError, match=words):
        wrapped(make(*argv, **fields))


def test_what_cannot_run_is_told(tmp_path):
    assert "'no-such-program'" in Runtime(program="no-such-program").missing()
    assert Runtime(program="/bin/sh").missing() is None
    runtime = Runtime(images=str(tmp_path))
    assert "begins with /" in runtime.refusal("relative.sif", here=True)
    assert "is not here" in runtime.refusal("/not/here.sif", here=True)
    assert runtime.refusal("/not/here.sif", here=False) is None
    assert runtime.refusal("python", here=True) is None
    assert "images.pull forbids" in Runtime(images=str(tmp_path), pull=Pull.NEVER).refusal(
        "python", here=False
    )
