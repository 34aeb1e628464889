"""The Python API, as a notebook uses it, and the page that describes it."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import drawbar
import pytest
from drawbar.errors import RunFailed, SpecError, UsageError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "api.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DRAWBAR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DRAWBAR_CONTAINERS", "none")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def analysis(tmp_path):
    def make(*commands, outputs=(), where="analysis"):
        directory = tmp_path / where
        directory.mkdir(exist_ok=True)
        steps = [
            {"name": f"s{number}", "environment": "image", "commands": [command]}
            for number, command in enumerate(commands, 1)
        ]
        document = {
            "inputs": {"parameters": {"word": "hello"}},
            "workflow": {"type": "serial", "specification": {"steps": steps}},
            "outputs": {"files": list(outputs)},
        }
        (directory / "reana.yaml").write_text(json.dumps(document))
        return directory

    return make


@pytest.fixture
def go(tmp_path):
    """A pipe that jobs wait at for a line; closing it, at the end of a test, ends them too."""
    path = tmp_path / "go"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR)
    yield path
    os.close(descriptor)


def test_a_run_and_what_it_yields(analysis):
    run = drawbar.run(analysis("echo ${word} > a; echo said", outputs=["a"]), parameters={"word": "ten"})
    assert (run.id, run.state, run.message) == ("analysis.1", "finished", "")
    (output,) = run.outputs()
    assert output == run.workspace / "a"
    assert output.read_text() == "ten\n"
    assert [(job["step"], job["state"]) for job in run.jobs()] == [("s1", "finished")]
    assert run.logs() == run.logs("s1") == "said\n"
    assert run.logs("other") == ""
    assert run.status()["run"] == "analysis.1"
    assert repr(run) == "<Run analysis.1: finished>"
    assert [each.id for each in drawbar.runs()] == ["analysis.1"]
    assert drawbar.get("analysis").id == "analysis.1"


def test_a_failed_run_raises_unless_asked_not_to(analysis):
    directory = analysis("exit 3")
    with pytest.raises(RunFailed, match=r"analysis\.1 is failed"):
        drawbar.run(directory)
    run = drawbar.run(directory, check=False)
    assert run.state == "failed"
    assert "exit code 3" in run.message
    with pytest.raises(RunFailed, match="no outputs"):
        run.outputs()


def test_mistakes_are_raised_before_there_is_a_run(analysis):
    with pytest.raises(SpecError, match="did you mean 'word'") as caught:
        drawbar.run(analysis("true"), parameters={"wrod": 1})
    assert caught.value.problems[0].hint
    with pytest.raises(UsageError, match="there is no run 'x'"):
        drawbar.get("x")
    assert drawbar.runs() == []


def test_in_the_background_it_can_be_waited_for_and_cancelled(analysis, go):
    run = drawbar.run(analysis(f"read line < {go}"), wait=False)
    assert run.state == "running"
    with pytest.raises(TimeoutError):
        run.wait(timeout=0.1)
    assert run.cancel() == "stopped"
    assert run.cancel() == "stopped"
    go.write_text("line\n")
    assert run.resume() is run
    assert run.state == "finished"


def test_a_run_outlives_the_program_that_started_it(analysis, go):
    code = f"import drawbar; print(drawbar.run({str(analysis(f'read line < {go}'))!r}, wait=False).id)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    run = drawbar.get(done.stdout.strip())
    assert run.state == "running"
    go.write_text("line\n")
    assert run.wait() == "finished"


def test_resume_repeats_from_a_step(analysis):
    directory = analysis("echo 1 >> ../ledger", "echo 2 >> ../ledger", "echo 3 >> ../ledger")
    run = drawbar.run(directory)
    run.resume()
    ledger = run.workspace.parent / "ledger"
    assert ledger.read_text().split() == ["1", "2", "3"]
    run.resume(from_step="s2")
    assert ledger.read_text().split() == ["1", "2", "3", "2", "3"]
    with pytest.raises(UsageError, match="no step 's9'"):
        run.resume(from_step="s9")


def test_threads_run_at_once(analysis):
    directory = analysis("echo $$word > a", outputs=["a"])
    found = []
    threads = [threading.Thread(target=lambda: found.append(drawbar.run(directory))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [run.state for run in found] == ["finished"] * 3


def test_settings_hold_for_the_run(analysis, tmp_path):
    run = drawbar.run(analysis("true"), settings={"home": tmp_path / "elsewhere", "limits.cpus": 1})
    assert run.workspace.is_relative_to(tmp_path / "elsewhere")


def test_the_snippets_of_the_page_work(tmp_path):
    shutil.copytree(ROOT / "examples/dimuon", tmp_path / "examples/dimuon")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(SNIPPETS)],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:3] == ["dimuon.1 finished", "dimuon.png", "fit.json"]
    assert lines[-2] == "['dimuon.1', 'dimuon.2']"
    assert lines[-1].startswith("the analysis has no parameter 'bin' did you mean 'bins'?")


def test_every_argument_and_attribute_is_on_the_page():
    rows = re.findall(r"^\| `(\w+)", PAGE, re.MULTILINE)
    public = [name for name in vars(drawbar.Run) if not name.startswith("_")]
    assert sorted(rows) == sorted([*inspect.signature(drawbar.run).parameters, *public])
