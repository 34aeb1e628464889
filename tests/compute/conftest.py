"""The example in its four languages, for the tests of each backend."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "dimuon"
ANALYSES = {
    "serial": "reana.yaml",
    "cwl": "reana-cwl.yaml",
    "snakemake": "reana-snakemake.yaml",
    "yadage": "reana-yadage.yaml",
}


@pytest.fixture
def four_engines():
    """`four_engines(directory, settings, *options)` runs the example once in each language.

    The home is in `directory`, which the backend's machines must see; `settings` is the text of a
    drawbar.toml, `options` are those of `drawbar run`. The example's own tests have passed then, and
    all four have found the same, to the byte. Returns what `--json` printed, by engine.
    """

    def run_all(directory: Path, settings: str, *options: str, timeout_s: float = 300) -> dict[str, dict]:
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
            command = [sys.executable, "-m", "drawbar.cli", "run", EXAMPLE / name, *options]
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
