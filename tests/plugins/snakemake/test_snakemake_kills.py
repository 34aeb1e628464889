"""Killed drivers and engines, with real jobs: nothing is lost, and nothing that ended is repeated.

The jobs themselves write a ledger at their ends; it is the judge. (Jobs whose engine is gone may be
ended by their driver.)
"""

from __future__ import annotations

import collections
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SNAKEFILE = """\
LEDGER = config["ledger"]
rule all:
    input: "sum", "copied", "there"
rule part:
    output: temp("part/{n}")
    shell: "sleep 0.3; echo {wildcards.n} > {output}; echo part{wildcards.n} >> {LEDGER}"
rule twice:
    input: "part/{n}"
    output: "twice/{n}"
    shadow: "minimal"
    shell: "cat {input} {input} > {output}; sleep 0.1; echo twice{wildcards.n} >> {LEDGER}"
rule sum:
    input: expand("twice/{n}", n=range(6))
    output: protected("sum")
    params: ledger=LEDGER
    script: "sum.py"
checkpoint many:
    output: directory("many")
    shell: "mkdir {output}; for i in 1 2 3; do echo $i > {output}/$i; done; echo many >> {LEDGER}"
def made(wildcards):
    return sorted(str(path) for path in Path(checkpoints.many.get().output[0]).glob("[0-9]"))
rule copied:
    input: made
    output: touch("copied")
    shadow: "shallow"
    shell: "cat {input} > copied; echo copied >> {LEDGER}"
rule there:
    input: "many"
    output: directory("copy"), touch("there")
    shell: "mkdir {output[0]}; cp {input}/[0-9]* {output[0]}; echo there >> {LEDGER}"
"""
SCRIPT = """\
with open(snakemake.output[0], "w") as file:
    file.write("".join(open(name).read() for name in snakemake.input))
with open(snakemake.params.ledger, "a") as ledger:
    ledger.write("sum\\n")
"""
JOBS = {"sum", "many", "copied", "there", *(f"{rule}{n}" for rule in ("part", "twice") for n in range(6))}
PATIENCE_S = 180.0


class Run:
    """A run of the workflow, driven by processes that are killed."""

    def __init__(self, directory: Path) -> None:
        self.ledger = directory / "ledger"
        self.analysis = directory / "analysis"
        self.analysis.mkdir()
        self.ledger.touch()
        (self.analysis / "Snakefile").write_text(SNAKEFILE)
        (self.analysis / "sum.py").write_text(SCRIPT)
        self.workspace = directory / "home/runs/kill.1/workspace"
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self._environment = {**os.environ, "PATH": path, "DRAWBAR_HOME": str(directory / "home")}
        self._started = False

    def start(self) -> subprocess.Popen[str]:
        run = ["run", "Snakefile", "--name", "kill", "-p", f"ledger={self.ledger}"]
        arguments = ["resume", "kill"] if self._started else run
        self._started = True
        return subprocess.Popen(
            [sys.executable, "-m", "drawbar.cli", *arguments],
            cwd=self.analysis,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def lines(self) -> list[str]:
        return self.ledger.read_text().split()

    def wait_for(self, lines: int, driver: subprocess.Popen[str]) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while len(self.lines()) < lines and driver.poll() is None:
            assert time.monotonic() < give_up, f"{self.lines()}"
            time.sleep(0.02)


def engines(driver: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children")
    threads = children.parent.parent.glob("*/children")
    pids = [int(pid) for file in threads for pid in file.read_text().split()]
    return [pid for pid in pids if b"enginemain" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find the engine")
@pytest.mark.parametrize("victims", ["driver", "engine", "both"])
def test_killed_and_resumed_every_job_runs_once(tmp_path, victims):
    run = Run(tmp_path)
    for lines in (1, 5, 9, 13, 15):
        driver = run.start()
        run.wait_for(lines, driver)
        if driver.poll() is None:
            if victims != "driver":
                for pid in engines(driver):
                    os.kill(pid, signal.SIGKILL)
            if victims != "engine":
                driver.kill()
        driver.communicate(timeout=PATIENCE_S)
    driver = run.start()
    output, _ = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 0, output
    assert collections.Counter(run.lines()) == dict.fromkeys(JOBS, 1), output
    assert (run.workspace / "sum").read_text().split() == [str(n) for n in range(6) for _ in "12"]
    assert (run.workspace / "copied").read_text() == "1\n2\n3\n"
    assert sorted(path.name for path in (run.workspace / "copy").glob("[0-9]")) == ["1", "2", "3"]
    assert list(run.workspace.glob("part/*")) == []
