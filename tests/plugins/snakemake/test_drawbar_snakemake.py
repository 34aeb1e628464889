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


@pytest.mark.slow
def test_a_thousand_jobs(snakemake, tmp_path):
    (tmp_path / "Snakefile").write_text(
        """\
rule all:
    input: expand("part/{n}", n=range(1000))
    output: "sum"
    run:
        Path(output[0]).write_text(str(sum(int(Path(name).read_text()) for name in input)))
rule part:
    output: "part/{n}"
    shell: "echo {wildcards.n} > {output}"
"""
    )
    done = snakemake("--cores", "4")
    assert done.returncode == 0, done.stderr
    assert int((tmp_path / "sum").read_text()) == sum(range(1000))
    assert "1001 of 1001 steps (100%) done" in done.stderr


LEVELS = """\
rule all:
    input: expand("level9/{n}", n=range(8))
rule level0:
    output: temp("level0/{n}")
    retries: 2
    resources: mem_mb=lambda wildcards, attempt: 10 * attempt
    params: least=lambda wildcards: 10 * (int(wildcards.n) % 3)
    shell: "test {wildcards.n} != BAD; test {resources.mem_mb} -gt {params.least}; echo 0 > {output}"
"""
LEVEL = """\
rule level{here}:
    input: "level{before}/{{n}}"
    output: {output}
    shell: "{{{{ cat {{input}}; echo {here}; }}}} > {{output}}"
"""


@pytest.mark.slow
@pytest.mark.parametrize("bad", ["none", "3"])
def test_ten_levels_with_retries_and_a_failure(snakemake, tmp_path, bad):
    text = LEVELS.replace("BAD", bad)
    for here in range(1, 10):
        output = f'"level{here}/{{n}}"'
        output = output if here == 9 else f"temp({output})"
        text += LEVEL.format(here=here, before=here - 1, output=output)
    (tmp_path / "Snakefile").write_text(text)
    done = snakemake("--cores", "4", "--keep-going")
    whole = [str(n) for n in range(8) if str(n) != bad]
    assert sorted(path.name for path in tmp_path.glob("level9/*")) == whole
    for name in whole:
        assert (tmp_path / "level9" / name).read_text().split() == [str(level) for level in range(10)]
    assert [path for level in range(9) for path in tmp_path.glob(f"level{level}/*")] == []
    assert done.returncode == (0 if bad == "none" else 1), done.stderr
    if bad != "none":
        assert "rule level0: the job ended with exit code 1" in done.stderr
