"""CWL workflows as real runs: on the local backend, killed, resumed, edited."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

SUB = """\
cwlVersion: v1.2
class: Workflow
requirements: {StepInputExpressionRequirement: {}, InlineJavascriptRequirement: {}}
inputs: {number: int, ledger: string}
outputs: {out: {type: File, outputSource: double/out}}
steps:
  double:
    run:
      class: CommandLineTool
      baseCommand: [sh, -c, 'echo "double $(cat "$0")" >> "$1"; cat "$0" "$0"']
      inputs:
        x: {type: File, inputBinding: {position: 1}}
        ledger: {type: string, inputBinding: {position: 2}}
      outputs: {out: stdout}
    in: {x: say/out, ledger: ledger}
    out: [out]
  say:
    run:
      class: CommandLineTool
      baseCommand: [sh, -c, 'sleep 0.0$0; echo "say $1" >> "$2"; echo "$1"']
      inputs:
        number: {type: int, inputBinding: {position: 1, valueFrom: $(self % 9)}}
        word: {type: string, inputBinding: {position: 2}}
        ledger: {type: string, inputBinding: {position: 3}}
      outputs: {out: stdout}
    in: {number: number, word: {source: number, valueFrom: "${ return 'w' + self; }"}, ledger: ledger}
    out: [out]
"""
FLOW = """\
cwlVersion: v1.2
class: Workflow
requirements: {ScatterFeatureRequirement: {}, SubworkflowFeatureRequirement: {}}
inputs: {numbers: 'int[]', ledger: string}
outputs: {all: {type: File, outputSource: join/all}}
steps:
  each:
    run: sub.cwl
    scatter: number
    in: {number: numbers, ledger: ledger}
    out: [out]
  join:
    run:
      class: CommandLineTool
      baseCommand: cat
      inputs: {parts: {type: 'File[]', inputBinding: {}}}
      outputs: {all: stdout}
      stdout: all.txt
    in: {parts: each/out}
    out: [all]
"""
PATIENCE_S = 240


@pytest.fixture
def place(tmp_path):
    """An analysis directory, and a home beside it."""
    directory = tmp_path / "analysis"
    directory.mkdir()
    (directory / "flow.cwl").write_text(FLOW)
    (directory / "sub.cwl").write_text(SUB)
    return directory


def start(place, *arguments):
    environment = {**os.environ, "DRAWBAR_HOME": str(place.parent / "home")}
    return subprocess.Popen(
        [sys.executable, "-m", "drawbar.cli", *arguments],
        cwd=place,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(process, status=0):
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == status, said
    return said


def write_inputs(place, count):
    inputs = {"numbers": list(range(count)), "ledger": str(place.parent / "ledger")}
    (place / "inputs.json").write_text(json.dumps(inputs))


def ledger(place):
    path = place.parent / "ledger"
    return path.read_text().splitlines() if path.exists() else []


def wait_for(condition):
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def kill_and_resume(place, count, kills):
    """Run a scatter of `count`, killing the driver each time that so many more jobs have ended."""
    write_inputs(place, count)
    run = start(place, "run", "flow.cwl", "--parameters", "inputs.json", "--name", "scatter", "--quiet")
    for kill in kills:
        wait_for(lambda kill=kill, run=run: len(ledger(place)) >= kill or run.poll() is not None)
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
        run = start(place, "resume", "scatter", "--quiet")
    finish(run)
    again = Counter(ledger(place))
    repeated = {line: times for line, times in again.items() if times > 1}
    assert not repeated
    assert len(again) == 2 * count
    (result,) = (place.parent / "home/runs").glob("scatter.1/workspace/outputs/all.txt")
    assert result.read_text() == "".join(f"w{number}\nw{number}\n" for number in range(count))


def test_a_killed_scatter_goes_on_where_it_was(place):
    kill_and_resume(place, 20, [8, 20])


@pytest.mark.slow
def test_a_killed_scatter_of_200_goes_on_where_it_was(place):
    kill_and_resume(place, 200, [30, 150, 151, 300])


@pytest.mark.slow
def test_a_killed_scatter_of_1000_goes_on_where_it_was(place):
    kill_and_resume(place, 1000, [700, 1500])


def test_an_edit_repeats_what_it_changes(place):
    write_inputs(place, 3)
    finish(start(place, "run", "flow.cwl", "--parameters", "inputs.json", "--name", "edit", "--quiet"))
    assert len(ledger(place)) == 6
    (place / "sub.cwl").write_text(SUB.replace('cat "$0" "$0"', 'cat "$0" "$0" "$0"'))
    finish(start(place, "resume", "edit", "--quiet"))
    assert Counter(line.split()[0] for line in ledger(place)) == {"say": 3, "double": 6}
    (result,) = (place.parent / "home/runs").glob("edit.1/workspace/outputs/all.txt")
    assert result.read_text() == "".join(f"w{number}\n" * 3 for number in range(3))
