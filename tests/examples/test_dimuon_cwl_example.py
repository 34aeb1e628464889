"""The example in CWL gives what the serial one does, and its tests pass unmodified."""

import json
import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "dimuon"


def test_the_cwl_workflow_measures_the_mass_of_the_z_boson(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "drawbar.cli", "run", str(EXAMPLE / "reana-cwl.yaml")]
    done = subprocess.run(
        [*command, "--no-container", "--test", "--outputs", str(tmp_path / "outputs")],
        env={**os.environ, "PATH": path, "DRAWBAR_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    fit = json.loads((tmp_path / "outputs/outputs/fit.json").read_text())
    assert abs(fit["parameters"]["mass"]["value"] - 91.19) < 0.5
