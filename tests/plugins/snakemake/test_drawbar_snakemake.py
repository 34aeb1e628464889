"""The command `drawbar-snakemake`, as somebody calls it who knows `snakemake`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SNAKEFILE = """\
rule all:
    input: expand("out/{n}", n=range(2))
rule one:
    output: "out/{n}"
    resources: mem_mb=lambda wildcards, attempt: 10 * attempt
    shell: "echo {config[word]} > {output}; test {wildcards.n} = 0 || test {resources.mem_mb} -gt 10"
"""


@pytest.fixture
def snakemake(tmp_path):
    def snakemake(*arguments: str, here: str = ".") -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return subprocess.run(
            [sys.executable, "-m", "drawbar_snakemake.command", *arguments],
            cwd=tmp_path / here,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )

    return snakemake


def test_it_takes_snakemakes_options_and_the_usual_layout(snakemake, tmp_path):
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow/Snakefile").write_text(SNAKEFILE)
    done = snakemake("--cores", "1", "--config", "word=hi", "--retries", "1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/1").read_text() == "hi\n"
    assert "3 of 3 steps (100%) done" in done.stderr


def test_what_is_wrong_is_said_in_one_line(snakemake, tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    done = snakemake("nothing-makes-this")
    assert done.returncode == 2
    assert done.stderr.startswith("Snakefile: No rule to produce nothing-makes-this")
    assert snakemake("--no-such-option").returncode == 2
    assert snakemake("--cores", "many").returncode == 2
    assert "looked for Snakefile" in snakemake(here="..").stderr


def test_a_failed_rule_is_exit_status_1(snakemake, tmp_path):
    (tmp_path / "Snakefile").write_text('rule a:\n    output: "a"\n    shell: "echo no >&2; exit 3"\n')
    done = snakemake()
    assert done.returncode == 1
    assert "rule a: the job ended with exit code 3" in done.stderr
