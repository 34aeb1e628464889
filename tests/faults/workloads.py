"""What the campaign runs: a chain of steps that change one workspace, and a scatter of parallel jobs."""

from __future__ import annotations

import hashlib
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml
from drawbar.copying import TEMPORARY

HERE = Path(__file__).resolve().parent

CHAIN = ("make", "double", "note", "drop", "count", "move", "again", "total")


@dataclass(frozen=True)
class Workload:
    """An analysis for the campaign. `jobs` are the names of its steps, which are its jobs' names too."""

    name: str
    engine: str
    jobs: tuple[str, ...]
    outputs: tuple[str, ...]

    def write(self, root: Path) -> None:
        """Make the analysis in a new directory."""
        (root / "code").mkdir(parents=True)
        (root / "code" / "step.py").write_bytes((HERE / "step.py").read_bytes())
        document = {
            "inputs": {"files": ["code/step.py"]},
            "outputs": {"files": list(self.outputs)},
        }
        command = f"{sys.executable} -I -S code/step.py"
        if self.engine == "serial":
            (root / "counts").write_text("".join(f"{number}\n" for number in range(20)))
            document["inputs"]["files"].append("counts")
            steps = [
                {"name": name, "environment": "none", "commands": [f"{command} {name}"]} for name in self.jobs
            ]
            document["workflow"] = {"type": "serial", "specification": {"steps": steps}}
        else:
            parts = self.jobs[:-1]
            rules = [f"{name}: code/step.py\n    {command} {name}\n" for name in parts]
            rules.append(f"all: {' '.join(parts)}\n    {command} all\n")
            (root / "report.recipes").write_text("".join(rules))
            document["workflow"] = {"type": self.engine, "file": "report.recipes"}
        (root / "reana.yaml").write_text(yaml.safe_dump(document))


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("chain", "serial", CHAIN, ("moved", "notes", "results/total")),
        Workload("scatter", "recipes", (*(f"part-{number:02}" for number in range(30)), "all"), ("all",)),
    )
}


def snapshot(root: Path) -> dict[str, tuple[str, str]]:
    """Every file, link and directory beneath `root`, with its mode and the digest of what it holds.

    Unfinished copies do not count: whoever was killed while publishing leaves one under its temporary name.
    """
    found = {}
    for path in sorted(root.rglob("*")):
        if path.name.startswith(TEMPORARY):
            continue
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            what = str(path.readlink())
        elif stat.S_ISDIR(mode):
            what = "directory"
        else:
            what = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(root))] = (oct(mode & 0o777 if not stat.S_ISLNK(mode) else 0), what)
    return found
