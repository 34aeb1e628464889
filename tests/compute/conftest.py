"""What the tests of each backend share: the example in its four languages, and drivers that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "dimuon"
ANALYSES = {
    "serial": "reana.yaml",
    "cwl": "reana-cwl.yaml",
    "snakemake": "reana-snakemake.yaml",
    "yadage": "reana-yadage.yaml",
}
STRIKE = Path(__file__).parent / "strike.py"
SNAKEFILE = """\
rule all:
    input: expand("out/{{n}}", n=range({jobs}))
rule one:
    output: "out/{{n}}"
    {container}
    shell:
        "echo {{wildcards.n}} started >> {place}/ledger;"
        " while [ ! -e {place}/gate ]; do sleep 0.1; done;"
        " echo {{wildcards.n}} ended >> {place}/ledger; echo {{wildcards.n}} > {{output}}"
"""
PATIENCE_S = 240


class GatedRun:
    """A run of some independent jobs, which wait for a gate.

    `directory` is one that the backend's machines see; `settings` is the text of a drawbar.toml. The
    jobs' own ledger is the judge. `prefix` is what drawbar is run with, such as another user. In an
    `image` jobs see no more than their workspace, in which ledger and gate are then.
    """

    def __init__(
        self,
        directory: Path,
        settings: str,
        *,
        jobs: int = 6,
        prefix: Sequence[str] = (),
        image: str | None = None,
    ) -> None:
        self.directory = directory
        self.prefix = prefix
        self.jobs = jobs
        self.image = image
        place = directory / "home" / "runs" / "gated.1" / "workspace" if image else directory
        self.ledger, self.gate = place / "ledger", place / "gate"
        if image is None:
            self.ledger.touch()
            self.ledger.chmod(0o666)
        container = f'container: "docker://{image}"' if image else ""
        (directory / "analysis").mkdir()
        snakefile = SNAKEFILE.format(jobs=jobs, place="." if image else place, container=container)
        (directory / "analysis" / "Snakefile").write_text(snakefile)
        (directory / "site.toml").write_text(settings)

    def start(self, backend: str, *, when: str = "", point: str = "") -> subprocess.Popen[str]:
        """`drawbar run`, which is killed before or after a point (see strike.py)."""
        program = [STRIKE, when, point] if point else ["-m", "drawbar.cli"]
        snakefile = self.directory / "analysis" / "Snakefile"
        arguments = ["--backend", backend, "--name", "gated", "--json"]
        if self.image is None:
            arguments.append("--no-container")
        return self._drawbar(*program, "run", snakefile, *arguments)

    def killed(self, process: subprocess.Popen[str]) -> None:
        """The driver was killed, as it should be."""
        _, told = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == -signal.SIGKILL, told

    def wait_for(self, *lines: str) -> None:
        """Wait until every job has written these lines into the ledger."""
        give_up = time.monotonic() + PATIENCE_S
        while sorted(self.counts()) != sorted(f"{n} {line}" for n in range(self.jobs) for line in lines):
            assert time.monotonic() < give_up, self.counts()
            time.sleep(0.05)

    def status(self) -> dict:
        """What `drawbar status --json` prints."""
        process = self._drawbar("-m", "drawbar.cli", "status", "gated", "--json")
        printed, told = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, told
        return json.loads(printed)

    def resume(self) -> dict:
        """`drawbar resume` of a run whose driver was killed."""
        return self.finish(self._drawbar("-m", "drawbar.cli", "resume", "gated", "--json"))

    def finish(self, process: subprocess.Popen[str]) -> dict:
        """Open the gate: the run finishes, and each job has run exactly once; what `--json` printed."""
        self.gate.touch()
        printed, told = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, told
        expected = {f"{n} {line}": 1 for n in range(self.jobs) for line in ("started", "ended")}
        assert self.counts() == expected
        return json.loads(printed)

    def counts(self) -> dict[str, int]:
        """How often each line is in the ledger."""
        return Counter(self.ledger.read_text().splitlines() if self.ledger.exists() else ())

    def _drawbar(self, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.prefix, sys.executable, *map(str, arguments)],
            env={
                **os.environ,
                "DRAWBAR_HOME": str(self.directory / "home"),
                "DRAWBAR_SYSTEM_CONFIG": str(self.directory / "site.toml"),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def gated_run():
    """Makes `GatedRun`s."""
    return GatedRun


@pytest.fixture
def four_engines():
    """`four_engines(directory, settings, *options)` runs the example once in each language.

    The home is in `directory`, which the backend's machines must see; `settings` is the text of a
    drawbar.toml, `options` are those of `drawbar run`, and `prefix` is what it is run with. The
    example's own tests have passed then, and all four have found the same, to the byte. Returns what
    `--json` printed, by engine.
    """

    def run_all(
        directory: Path, settings: str, *options: str, timeout_s: float = 300, prefix: Sequence[str] = ()
    ) -> dict[str, dict]:
        (directory / "site.toml").write_text(settings)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {
            **os.environ,
            "PATH": path,
            "DRAWBAR_HOME": str(directory / "home"),
            "DRAWBAR_SYSTEM_CONFIG": str(directory / "site.toml"),
        }
        runs, fits = {}, set()
        for engine, name in ANALYSES.items():
            results = directory / "results" / engine
            command = [*prefix, sys.executable, "-m", "drawbar.cli", "run", EXAMPLE / name, *options]
            done = subprocess.run(
                [*command, "--name", engine, "--test", "--json", "--outputs", results],
                env=environment,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
            assert done.returncode == 0, f"{engine}: {done.stdout}\n{done.stderr}"
            runs[engine] = json.loads(done.stdout)
            (fit,) = results.rglob("fit.json")
            fits.add(fit.read_bytes())
        assert len(fits) == 1
        return runs

    return run_all
