"""The example is right by itself: its commands work in any shell, and its fit finds what is in the data."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from string import Template

import pytest
import yaml

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "dimuon"
ANALYSIS = yaml.safe_load((EXAMPLE / "reana.yaml").read_text())


def run(command: str, directory: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(["bash", "-c", command], cwd=directory, env={**os.environ, "PATH": path}, check=True)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the steps of the analysis leave behind, executed one after the other on its declared inputs."""
    workspace = tmp_path_factory.mktemp("dimuon")
    for name in ANALYSIS["inputs"]["files"]:
        (workspace / name).parent.mkdir(exist_ok=True)
        shutil.copy(EXAMPLE / name, workspace / name)
    for step in ANALYSIS["workflow"]["specification"]["steps"]:
        for command in step["commands"]:
            run(Template(command).substitute(ANALYSIS["inputs"]["parameters"]), workspace)
    return workspace


def test_the_declared_outputs_are_made(workspace: Path) -> None:
    assert all((workspace / name).is_file() for name in ANALYSIS["outputs"]["files"])
    assert (workspace / "results/dimuon.png").read_bytes().startswith(b"\x89PNG")


def test_the_mass_of_the_z_boson_is_near_the_world_average(workspace: Path) -> None:
    fit = json.loads((workspace / "results/fit.json").read_text())
    assert abs(fit["parameters"]["mass"]["value"] - 91.19) < 0.5
    assert 0.1 < fit["parameters"]["mass"]["error"] < 0.2
    assert fit["chi2"] < 1.5 * fit["degrees_of_freedom"]


def test_the_fit_recovers_the_parameters_of_a_spectrum_made_from_the_model(tmp_path: Path) -> None:
    made = {"mass": 91.1876, "resolution": 1.2, "signal": 1e6, "background": 2e5, "slope": 0.03}
    shutil.copytree(EXAMPLE / "code", tmp_path / "code", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "code" / "model_spectrum.py").write_text(
        "import json, lineshape, numpy as np\n"
        "edges = np.linspace(60, 120, 61)\n"
        f"counts = sum(lineshape.expected(edges, np.array({list(made.values())})))\n"
        "json.dump({'edges': edges.tolist(), 'counts': counts.tolist()}, open('histogram.json', 'w'))\n"
    )
    run(
        "python code/model_spectrum.py && python code/fit.py --histogram histogram.json --output f.json",
        tmp_path,
    )
    found = {
        name: each["value"]
        for name, each in json.loads((tmp_path / "f.json").read_text())["parameters"].items()
    }
    assert found == pytest.approx(made, rel=1e-3)


def test_the_feature_files_are_there() -> None:
    assert all((EXAMPLE / name).is_file() for name in ANALYSIS["tests"]["files"])
