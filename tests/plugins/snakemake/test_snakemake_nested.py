"""Rules that need a Snakemake of their own where they run: what they run, and where they may."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SLOW = pytest.mark.slow


@SLOW
def test_an_edit_during_the_run_does_not_reach_nested_jobs(execute, workspace):
    snakefile = """\
include: "words.smk"
rule all:
    input: "code", "script"
rule edit:
    output: "edited"
    shell: "sed -i 's/o[l]d/new/' Snakefile words.smk scripts/script.py; touch {output}"
rule code:
    input: "edited"
    output: "code"
    run:
        Path(output[0]).write_text(f"{WORD} old")
rule script:
    input: "edited"
    output: "script"
    script: "scripts/script.py"
"""
    files = {
        "words.smk": 'WORD = "old"\n',
        "scripts/script.py": "open(snakemake.output[0], 'w').write('old')\n",
    }
    first = execute(snakefile, files=files, declared=("scripts",))
    assert sorted(first.finished().executed) == ["code", "edit", "script"]
    assert (workspace / "words.smk").read_text() == 'WORD = "new"\n'
    assert (workspace / "code").read_text() == "old old"
    assert (workspace / "script").read_text() == "old"
    assert not (workspace / ".snakemake/drawbar-sources").exists()
    edited = {name: text.replace("old", "new") for name, text in files.items()}
    again = execute(snakefile, files=edited, declared=("scripts",), after=first)
    assert "script" in again.finished().executed
    assert (workspace / "script").read_text() == "new"


NESTED = """\
rule all:
    input: "code", "shell"
rule code:
    output: "code"
    {container}
    run:
        Path(output[0]).touch()
rule shell:
    output: "shell"
    {container}
    shell: "touch {output}"
"""


PLAN = [sys.executable, "-m", "drawbar.cli", "plan", "Snakefile", "--json"]


@pytest.fixture
def plan(tmp_path):
    """Plans the analysis on a backend and gives its problems; `toml` is the site's file."""

    def plan(backend: str, *arguments: str, toml: str = "", container: str = "") -> list[dict[str, str]]:
        (tmp_path / "Snakefile").write_text(NESTED.replace("{container}", container))
        site = tmp_path / "site.toml"
        site.write_text(toml)
        done = subprocess.run(
            [*PLAN, "--backend", backend, *arguments],
            cwd=tmp_path,
            env={**os.environ, "DRAWBAR_SYSTEM_CONFIG": str(site), "DRAWBAR_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout, done.stderr
        found = json.loads(done.stdout)["problems"]
        return [problem for problem in found if problem["severity"] == "error"]

    return plan


def test_a_rule_is_refused_where_nothing_says_that_there_is_a_snakemake(plan):
    (problem,) = plan("slurm")
    assert problem["step"] == "code"
    assert "needs Snakemake 9." in problem["message"]
    assert "engine_interpreter" in problem["hint"]
    assert "engine_image" in problem["hint"]
    assert not plan("slurm", toml='[backends.slurm]\nengine_interpreter = "/opt/snakemake/bin/python"\n')
    assert not plan("slurm", "-o", "nested_interpreter=/opt/snakemake/bin/python")
    assert not plan("local")


def test_a_rule_with_an_image_is_refused_when_nothing_says_that_it_has_a_snakemake(plan):
    own = 'container: "docker://example.org/tools:1"'
    (problem,) = plan("docker", container=own)
    assert problem["step"] == "code"
    assert "the image example.org/tools:1" in problem["message"]
    assert "engine_image" in problem["hint"]
    assert not plan("docker", container=own, toml='[backends.docker]\nengine_image = "snakemake:9"\n')
    assert not plan("docker", "-o", "nested_image=docker://snakemake:9", container=own)
