"""The example in yadage passes its own tests; the example in any language gives the same result."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "dimuon"


def fit_of(analysis: Path, home: Path) -> str:
    """The file with the result of the fit that an analysis leaves, after its tests have passed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "drawbar.cli",
            "run",
            analysis,
            "--no-container",
            "--test",
            "--outputs",
            home / "out",
        ],
        env={**os.environ, "PATH": path, "DRAWBAR_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = (home / "out").rglob("fit.json")
    return found.read_text()


def test_the_yadage_workflow_measures_the_mass_of_the_z_boson(tmp_path: Path) -> None:
    fit = json.loads(fit_of(EXAMPLE / "reana-yadage.yaml", tmp_path))
    assert abs(fit["parameters"]["mass"]["value"] - 91.19) < 0.5


@pytest.mark.slow
def test_every_language_gives_the_same_result(tmp_path: Path) -> None:
    analyses = sorted(EXAMPLE.glob("reana*.yaml"))
    fits = {analysis.name: fit_of(analysis, tmp_path / analysis.stem) for analysis in analyses}
    assert {"reana.yaml", "reana-yadage.yaml"} <= fits.keys()
    assert len(set(fits.values())) == 1
