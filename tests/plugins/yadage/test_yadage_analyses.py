"""Whole analyses of the shapes that MadMiner and RECAST have, through the command line; kills and resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from yadage_shapes import COMBINED, JOBS, LIMIT, PLOT, madminer, recast


@pytest.fixture
def analysis(tmp_path):
    """A directory with an analysis of MadMiner's shape; its jobs append to a ledger beside it."""
    return madminer(tmp_path / "madminer", str(tmp_path / "ledger"))


def drawbar(place, *arguments):
    return [sys.executable, "-m", "drawbar.cli", *arguments], {
        "env": {**os.environ, "DRAWBAR_HOME": str(place.parent / "home")},
        "cwd": place,
        "text": True,
    }


def call(place, *arguments):
    command, more = drawbar(place, *arguments)
    return subprocess.run(command, capture_output=True, timeout=120, check=False, **more)


def ledger(place):
    path = place.parent / "ledger"
    return sorted(path.read_text().split()) if path.exists() else []


def test_a_workflow_of_the_shape_of_madminer(analysis):
    ran = call(analysis, "run", "--no-container", "--json")
    assert ran.returncode == 0, ran.stderr
    workspace = Path(json.loads(ran.stdout)["workspace"])
    assert (workspace / "workflow_ph/combine/combined.out").read_text() == COMBINED
    assert (workspace / "workflow_ml/plotting/plot.out").read_text() == PLOT
    assert ledger(analysis) == JOBS


def test_a_workflow_of_the_shape_of_recast(tmp_path):
    ran = call(recast(tmp_path / "recast"), "run", "--no-container", "--json")
    assert ran.returncode == 0, ran.stderr
    workspace = Path(json.loads(ran.stdout)["workspace"])
    assert (workspace / "eventselection/submitDir/hist-sample.root").read_text() == "selected 404958 signal\n"
    assert (workspace / "statanalysis/limit.txt").read_text() == LIMIT


def test_the_command_line_runs_until_a_step(analysis):
    ran = call(analysis, "run", "--no-container", "--json", "--until", "workflow_ph/pythia")
    assert ran.returncode == 0, ran.stderr
    assert ledger(analysis) == ["generate", *["pythia"] * 4]
    wrong = call(analysis, "run", "--until", "workflow_ph/pytia")
    assert wrong.returncode == 2
    assert (
        "there is no step 'workflow_ph/pytia' to end with (did you mean 'workflow_ph/pythia'?)"
        in wrong.stderr
    )


@pytest.mark.slow
def test_a_directory_is_emptied_before_a_real_submit_only(tmp_path):
    """A job that ended is a hit, one that runs is attached to, one that failed starts from nothing."""
    place = tmp_path / "analysis"
    go, well, log = (str(tmp_path / name) for name in ("go", "well", "ledger"))
    commands = {
        "ended": "echo {name} >> {log}; touch {workdir}/out",
        "runs": "echo {name} >> {log}; echo 1 > {workdir}/out; until test -e {go}; do sleep 0.1; done; "
        "echo 2 >> {workdir}/out",
        "fails": "echo {name} >> {log}; ls {workdir} >> {log}; touch {workdir}/left; test -e {well}",
    }
    given = {"log": log, "go": go, "well": well, "workdir": "{workdir}", "out": "{workdir}/out"}
    stages = [
        {
            "name": name,
            "dependencies": before,
            "scheduler": {
                "scheduler_type": "singlestep-stage",
                "parameters": {
                    **given,
                    "name": name,
                    # A reference, and not dependencies alone: outputs that are known before a job ends
                    # let the next stage start.
                    **{f"after_{each}": {"step": each, "output": "o"} for each in before},
                },
                "step": {
                    "process": {"process_type": "string-interpolated-cmd", "cmd": commands[name]},
                    "environment": {"environment_type": "localproc-env"},
                    "publisher": {"publisher_type": "frompar-pub", "outputmap": {"o": "out"}},
                },
            },
        }
        for name, before in (("ended", []), ("runs", ["ended"]), ("fails", ["runs"]))
    ]
    place.mkdir()
    analysis = {"workflow": {"type": "yadage", "specification": {"stages": stages}}}
    (place / "reana.yaml").write_text(json.dumps(analysis))
    command, more = drawbar(place, "run", "--name", "r")
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)
    deadline = time.monotonic() + 60
    while "runs" not in ledger(place) and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    workspace = tmp_path / "home/runs/r.1/workspace"
    before = [(workspace / name).stat().st_ino for name in ("ended", "runs")]
    Path(go).touch()
    assert call(place, "resume", "r").returncode == 1
    Path(well).touch()
    assert call(place, "resume", "r").returncode == 0
    assert [(workspace / name).stat().st_ino for name in ("ended", "runs")] == before
    assert (workspace / "runs/out").read_text() == "1\n2\n"
    assert ledger(place) == ["ended", "fails", "fails", "runs"]


@pytest.mark.slow
@pytest.mark.parametrize("done", [1, 3, 6, 9, 11, 13])
def test_a_killed_run_is_resumed_and_repeats_nothing_that_was_accepted(analysis, done):
    text = (analysis / "reana.yaml").read_text()
    (analysis / "reana.yaml").write_text(text.replace("pause: 0", "pause: 0.3"))
    command, more = drawbar(analysis, "run", "--no-container", "--name", "killed")
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)
    deadline = time.monotonic() + 60
    while len(ledger(analysis)) < done and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    resumed = call(analysis, "resume", "killed", "--json")
    assert resumed.returncode == 0, resumed.stderr
    workspace = Path(json.loads(resumed.stdout)["workspace"])
    assert (workspace / "workflow_ml/plotting/plot.out").read_text() == PLOT
    assert ledger(analysis) == JOBS
