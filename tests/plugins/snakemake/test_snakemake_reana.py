"""What analyses that were written for REANA's Snakemake say, through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REANA = """\
inputs:
  files: [data.txt]
  directories: [workflow]
  parameters: {input: workflow/parameters.yaml}
  options: {report: report.html}
workflow:
  type: snakemake
  file: workflow/Snakefile
outputs:
  files: [results/sum.txt, report.html]
"""
SNAKEFILE = """\
rule all:
    input: "results/sum.txt"
rule copy:
    input: config["data"]
    output: "results/copy.txt"
    container: "docker://example.org/tools:1"
    resources:
        kubernetes_memory_limit="256Mi",
        compute_backend="cluster"
    shell: "pwd > {output}; cat {input} >> {output}"
rule sum:
    input: "results/copy.txt"
    output: report("results/sum.txt")
    container: "example.org/tools:2"
    resources: kubernetes_memory_limit="128Mi"
    shell: "echo {config[word]} > {output}; cat {input} >> {output}"
"""


@pytest.fixture
def drawbar(tmp_path):
    """The program, in the analysis; `cluster` is a name that the site gives to a local backend."""
    analysis = tmp_path / "analysis"
    (analysis / "workflow").mkdir(parents=True)
    (analysis / "reana.yaml").write_text(REANA)
    (analysis / "data.txt").write_text("1 2\n")
    (analysis / "workflow/Snakefile").write_text(SNAKEFILE)
    (analysis / "workflow/parameters.yaml").write_text("data: data.txt\nword: hello\n")
    site = tmp_path / "site.toml"
    site.write_text('[backends.cluster]\nkind = "local"\n')

    def drawbar(*arguments: str) -> dict[str, object]:
        done = subprocess.run(
            [sys.executable, "-m", "drawbar.cli", *arguments, "--json", "--no-container"],
            cwd=analysis,
            env={**os.environ, "DRAWBAR_SYSTEM_CONFIG": str(site), "DRAWBAR_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return drawbar


def test_images_have_docker_before_them_or_not_and_rules_name_their_backend(drawbar):
    steps = {step["step"]: step for step in drawbar("plan")["steps"]}
    assert [steps[name]["image"] for name in ("copy", "sum")] == [
        "example.org/tools:1",
        "example.org/tools:2",
    ]
    assert [steps[name]["backend"] for name in ("copy", "sum")] == ["cluster", "local"]
    assert steps["sum"]["depends_on"] == ["copy"]
    assert steps["copy"]["inputs"] == ["data.txt"]
    assert steps["copy"]["outputs"] == ["results/copy.txt"]


@pytest.mark.slow
def test_the_parameter_file_is_the_config_and_the_workspace_the_directory(drawbar):
    run = drawbar("run")
    workspace = Path(run["workspace"])
    word, where, data = (workspace / "results/sum.txt").read_text().splitlines()
    assert (word, where, data) == ("hello", str(workspace), "1 2")
    assert {job["step"]: job["backend"] for job in run["jobs"]} == {"copy": "cluster", "sum": "local"}
    assert "<html" in (workspace / "report.html").read_text()
    assert not (workspace / ".snakemake/drawbar-sources").exists()
