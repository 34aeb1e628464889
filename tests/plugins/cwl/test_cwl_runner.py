"""drawbar-cwl-runner, as the command-line convention of CWL and its users see it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ECHO = {
    "cwlVersion": "v1.2",
    "class": "CommandLineTool",
    "baseCommand": "echo",
    "inputs": {"word": {"type": "string", "inputBinding": {}}, "file": "File?"},
    "outputs": {"out": {"type": "stdout"}},
    "stdout": "said.txt",
}
FAILING = {
    **ECHO,
    "baseCommand": ["sh", "-c", "echo no such luck >&2; exit 5"],
    "stderr": "err.txt",
}


@pytest.fixture
def run(tmp_path):
    """`run(document, *arguments)` in a directory of its own, with what it said."""

    def call(document, *arguments, stdin="", status=0):
        (tmp_path / "tool.cwl").write_text(json.dumps(document))
        done = subprocess.run(
            [sys.executable, "-m", "drawbar_cwl.runner", "--outdir", "out", *arguments],
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout) if status == 0 else done.stderr

    return call


def test_the_output_object_and_the_files(run, tmp_path):
    (tmp_path / "job.json").write_text('{"word": "one"}')
    found = run(ECHO, "tool.cwl", "job.json")["out"]
    assert found["path"] == str(tmp_path / "out/said.txt")
    assert Path(found["path"]).read_text() == "one\n"
    assert found["checksum"].startswith("sha1$")
    assert found["size"] == 4


@pytest.mark.slow
def test_inputs_come_behind_the_tool_or_from_standard_input(run, tmp_path):
    run(ECHO, "tool.cwl", "--word", "two")
    assert (tmp_path / "out/said.txt").read_text() == "two\n"
    run(ECHO, "tool.cwl", "-", stdin="word: three")
    assert (tmp_path / "out/said.txt").read_text() == "three\n"
    assert "--word" in run(ECHO, "tool.cwl", "--wrong", "two", status=2)


@pytest.mark.slow
def test_a_job_document_that_names_its_tool(run, tmp_path):
    (tmp_path / "job.json").write_text('{"cwl:tool": "tool.cwl", "word": "four"}')
    run(ECHO, "job.json")
    assert (tmp_path / "out/said.txt").read_text() == "four\n"


@pytest.mark.slow
def test_overrides_come_from_a_file(run, tmp_path):
    overrides = {"tool.cwl": {"requirements": {"EnvVarRequirement": {"envDef": {"WORD": "over"}}}}}
    described = {"cwltool:overrides": overrides, "$namespaces": {"cwltool": "http://commonwl.org/cwltool#"}}
    (tmp_path / "overrides.json").write_text(json.dumps(described))
    shell = {**ECHO, "baseCommand": ["sh", "-c", 'echo "$WORD"']}
    run(shell, "--overrides", "overrides.json", "tool.cwl", "--word", "x")
    assert (tmp_path / "out/said.txt").read_text() == "over\n"


def test_what_is_not_supported_ends_with_33(run):
    docker = {**ECHO, "requirements": {"DockerRequirement": {"dockerPull": "debian:stable-slim"}}}
    assert "debian:stable-slim" in run(docker, "--no-container", "tool.cwl", "--word", "x", status=33)


def test_a_failure_tells_what_the_command_said_and_where_its_files_are(run, tmp_path):
    said = run(FAILING, "--home", str(tmp_path / "home"), "tool.cwl", "--word", "x", status=1)
    assert "no such luck" in said
    (place,) = [line.partition("its files: ")[2] for line in said.splitlines() if "its files: " in line]
    assert (Path(place) / "err.txt").read_text() == "no such luck\n"


@pytest.mark.slow
def test_a_mistake_in_the_document_ends_with_2_and_its_place(run):
    said = run({**ECHO, "baseCommnd": "echo"}, "tool.cwl", "--word", "x", status=2)
    assert "baseCommnd" in said
    assert "tool.cwl" in said


@pytest.mark.slow
def test_a_run_that_failed_is_resumed_by_its_name(run, tmp_path):
    flow = {
        "cwlVersion": "v1.2",
        "class": "Workflow",
        "inputs": {},
        "outputs": {"out": {"type": "File", "outputSource": "second/out"}},
        "steps": {
            name: {"run": f"{name}.cwl", "in": given, "out": ["out"]}
            for name, given in (("first", {}), ("second", {"x": "first/out"}))
        },
    }
    step = {**ECHO, "inputs": {}}
    first = {**step, "baseCommand": ["sh", "-c", f"echo ran >> {tmp_path}/ledger"]}
    second = {**step, "inputs": {"x": "File"}, "baseCommand": ["sh", "-c", f"cat {tmp_path}/ready"]}
    (tmp_path / "first.cwl").write_text(json.dumps(first))
    (tmp_path / "second.cwl").write_text(json.dumps(second))
    again = ("--home", str(tmp_path / "home"), "--name", "two", "tool.cwl")
    run(flow, *again, status=1)
    (tmp_path / "ready").write_text("ready\n")
    assert Path(run(flow, *again)["out"]["path"]).read_text() == "ready\n"
    assert (tmp_path / "ledger").read_text() == "ran\n"


@pytest.mark.slow
def test_temporary_failures_are_repeated_others_go_on_and_each_step_has_its_log(tmp_path):
    """The first two attempts of `shaky` end with a temporary failure; `bad` fails for good."""
    count = f"echo x >> {tmp_path}/tries; test $(wc -l < {tmp_path}/tries) -gt 2 || exit 75; echo steady"
    tool = {**ECHO, "inputs": {}, "outputs": {}}
    del tool["stdout"]
    flow = {
        "cwlVersion": "v1.2",
        "class": "Workflow",
        "inputs": {},
        "outputs": {},
        "steps": {
            "bad": {
                "run": {**tool, "baseCommand": ["sh", "-c", "echo bad luck; exit 1"]},
                "in": {},
                "out": [],
            },
            "shaky": {
                "run": {**tool, "baseCommand": ["sh", "-c", count], "temporaryFailCodes": [75]},
                "in": {},
                "out": [],
            },
        },
    }
    place = tmp_path / "analysis"
    place.mkdir()
    (place / "flow.cwl").write_text(json.dumps(flow))

    def drawbar(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "drawbar.cli", *arguments],
            cwd=place,
            env={**os.environ, "DRAWBAR_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            check=False,
        )

    options = ("-o", "retries=3", "-o", "on_error=continue")
    done = drawbar("run", "flow.cwl", "--name", "go", *options, "--json")
    assert done.returncode == 1, done.stderr
    states = {job["step"]: job["state"] for job in json.loads(done.stdout)["jobs"]}
    assert states == {"bad": "failed", "shaky": "finished"}
    assert (tmp_path / "tries").read_text() == "x\n" * 3
    assert "bad luck" in drawbar("logs", "go", "--step", "bad").stdout
    assert "steady" in drawbar("logs", "go", "--step", "shaky").stdout
