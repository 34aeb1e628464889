"""The test specifications of yadage itself, and what their steps publish with it and with this engine.

They are in yadage's source distribution, which is fetched by pip and kept in the user's cache. Stock yadage
fails some of its own specifications; for these the expected results are written here.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

WORKFLOWS = {"signal": "siginputs", "data": "datainputs", "backgrounds": "bkginputs"}
GRID = {
    "signals": {f"run_points_{n}": f"basedata/siginputs/sigpoint{n}" for n in range(3)},
    "data": "basedata/datainputs",
    "backgrounds": {f"run_bkgs_{n}": f"basedata/bkginputs/bkg_sample_{n}" for n in range(4)},
}
RECAST = {"upstream": "basedata/signal_inputs", "downstream": {"archived": "basedata/archived_assets"}}


@dataclass(frozen=True)
class Case:
    """A specification: its directory, its parameters, and how data is given to it."""

    directory: str
    file: str = "workflow.yml"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: str | None = None
    toplevel: str = ""
    initdir: str = "init"
    subinits: Mapping[str, Any] = field(default_factory=dict)
    expected: Mapping[str, Any] | None = None
    """The results, where stock yadage fails."""

    def __str__(self) -> str:
        values = ",".join(f"{name}={value}" for name, value in self.parameters.items())
        short = f"{self.directory}/{self.file}".removesuffix("/workflow.yml")
        return short if not values or len(values) > 20 else f"{short},{values}"


CASES = [
    Case("local-helloworld", parameters={"par": "world"}),
    Case("mapreduce", inputs="input.yml"),
    Case("mapreduce_batched", inputs="input.yml"),
    Case("mapreduce_batched_multilevel", parameters={"input": [*range(12)]}),
    Case("cartesian_mapreduce", inputs="input.yml"),
    Case("nested", inputs="input.yml"),
    Case("nestedmapreduce", inputs="input.yml"),
    Case("nestedmapreduce_regval", inputs="input.yml"),
    Case("stackednestings", inputs="input.yml", initdir="inputs"),
    Case("registering_values", parameters={"msg": "hi"}),
    Case("jqwflow", parameters={"parone": ["a", "b", "c"]}),
    Case("jqnodestruct", inputs="input.yml"),
    Case("casesflow/single", parameters={"par": 0}),
    Case("casesflow/single", parameters={"par": 2}),
    Case(
        "casesflow/single",
        parameters={"par": 5},
        expected={
            "/init/0": {"par": 5},
            "/hello_world/0/init/0": {"parone": 5, "outputfile": "{workdir}/hello_world.txt"},
            "/hello_world/0/hello_world/0": {"outputfile": "<work>/hello_world/hello_world/hello_world.txt"},
        },
    ),
    Case("dynamic_glob", parameters={"sourcefile": "file://<spec>/inputs/three_files.zip"}),
    Case("dynamic_glob", "workflow_frominit.yml", inputs="frominit_init.yml", initdir="inputs"),
    Case(
        "dynamic_glob",
        "with_subworkflow.yml",
        parameters={"sourcefile": "file://<spec>/inputs/three_files.zip"},
        expected={
            "/init/0": {"sourcefile": "file://<spec>/inputs/three_files.zip"},
            "/acquisition/0": {"unzipped": [f"<work>/acquisition/{n}.txt" for n in (1, 2, 3)]},
            **{
                f"/map/{n}/init/0": {
                    "inputfile": f"<work>/acquisition/{n + 1}.txt",
                    "outputfile": "{workdir}/mapout.txt",
                }
                for n in range(3)
            },
            **{f"/map/{n}/map/0": {"mapout": f"<work>/map_{n}/map/mapout.txt"} for n in range(3)},
            "/reduce/0": {"reduceout": "<work>/reduce/out.txt"},
        },
    ),
    Case("dynamic_mapreduce_fromfile", parameters={"url": "file://<spec>/files.yml"}),
    Case(
        "analysis_scaffold",
        toplevel="workflow",
        subinits={name: f"basedata/{path}" for name, path in WORKFLOWS.items()},
    ),
    Case("bsm_grid_scaffold", toplevel="workflow", subinits=GRID),
    Case("recast_scaffold", toplevel="workflow", subinits=RECAST),
]
"""All that run without containers, once their images are replaced."""
IN_CONTAINERS = [
    *(
        case
        for case in CASES
        if case.directory in ("stackednestings", "jqwflow", "jqnodestruct", "recast_scaffold")
    ),
    Case("mapreduce_parmount", inputs="input.yml"),
]
"""All with steps in images; that is `busybox` everywhere."""


def specifications() -> Path:
    """The directory of the specifications in yadage's source distribution."""
    name = f"yadage-{version('yadage')}"
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(home) / "drawbar-tests"
    if not (cache / name).is_dir():
        part = cache / f"{name}.{os.getpid()}"
        part.mkdir(parents=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "yadage"]
        fetched = subprocess.run(
            [*pip, "--dest", part, name.replace("-", "==")], capture_output=True, text=True
        )
        if fetched.returncode:
            shutil.rmtree(part)
            pytest.skip(f"yadage's source distribution cannot be fetched: {fetched.stderr[-200:]}")
        with tarfile.open(next(part.glob("*.tar.gz"))) as packed:
            packed.extractall(part, filter="data")
        try:
            (part / name).rename(cache / name)
        except OSError:
            assert (cache / name).is_dir()  # another test run was faster
        shutil.rmtree(part)
    return cache / name / "tests" / "testspecs"


def without_images(value: Any) -> Any:
    """A specification whose steps are plain processes."""
    if isinstance(value, dict):
        if value.get("environment_type") == "docker-encapsulated":
            return {"environment_type": "localproc-env"}
        return {key: without_images(item) for key, item in value.items()}
    return [without_images(item) for item in value] if isinstance(value, list) else value


def prepare(
    case: Case, distribution: Path, place: Path, *, images: bool = False
) -> tuple[Path, dict[str, Any]]:
    """A copy of the specification at a place, and its parameters; without `images`, as plain processes."""
    shutil.copytree(distribution / case.directory, place)
    for path in place.rglob("*.yml") if not images else ():
        path.write_text(yaml.safe_dump(without_images(yaml.safe_load(path.read_text())), sort_keys=False))
    (place / "files.yml").write_text("files: [one, two, three]\n")
    parameters = {name: shown(value, {"<spec>": str(place)}) for name, value in case.parameters.items()}
    if case.inputs:
        parameters |= yaml.safe_load((place / case.inputs).read_text())
    return place, parameters


def shown(value: Any, names: Mapping[str, str]) -> Any:
    """A value with texts replaced."""
    text = json.dumps(value, sort_keys=True)
    for old, new in names.items():
        text = text.replace(old, new)
    return json.loads(text)


def ordered(value: Any) -> Any:
    """A value with lists of paths in order: stock yadage gives what a directory listing gives."""
    if isinstance(value, dict):
        return {key: ordered(item) for key, item in value.items()}
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return sorted(value)
    return [ordered(item) for item in value] if isinstance(value, list) else value


def options(case: Case) -> dict[str, Any]:
    """The operational options of a specification."""
    given = {"initdir": case.initdir, "dataopts": {"subinits": case.subinits}}
    return {**given, "toplevel": case.toplevel} if case.toplevel else given


def published(workspace: Path) -> dict[str, Any]:
    """What the steps of this engine published in a workspace, from the snapshot for yadage's tools."""
    snapshot = json.loads((workspace / "_yadage" / "yadage_snapshot_workflow.json").read_text())
    found = {}
    for node in snapshot["dag"]["nodes"]:
        data = node["task"]["metadata"]
        key = f"{data['wflow_offset']}/{data['wflow_stage']}/{data['wflow_stage_node_idx']}"
        found[key] = node["result"]
    return shown(found, {f"file://{workspace}": "file://<spec>", str(workspace): "<work>"})


def stock(
    case: Case, distribution: Path, place: Path, *, images: bool = False, environment: Mapping[str, str] = {}
) -> dict[str, Any]:
    """What the steps publish with stock yadage."""
    spec, parameters = prepare(case, distribution, place, images=images)
    order = place.with_suffix(".json")
    order.write_text(
        json.dumps(
            {
                "dataarg": str(spec),
                "workflow": case.file,
                "toplevel": str(spec / case.toplevel),
                "initdata": parameters,
                "dataopts": {"initdir": case.initdir, "pathbase": str(spec), "subinits": case.subinits},
                "backend": "multiproc:2",
                "results": str(place.with_suffix(".results")),
            }
        )
    )
    runner = Path(__file__).with_name("run_stock_yadage.py")
    run = subprocess.run(
        [sys.executable, runner, order],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        cwd=place.parent,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(place.with_suffix(".results").read_text())
    return shown(found, {f"file://{spec}": "file://<spec>", str(spec): "<work>"})
