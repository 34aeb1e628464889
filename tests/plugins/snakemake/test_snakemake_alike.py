"""Workflows give the same files through `drawbar-snakemake` as through `snakemake`.

What needs more packages than a developer has (notebooks, storage) gets them in an environment beside
the developer's, which also shows that the engine may have an interpreter of its own.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PACKAGES = ("papermill", "ipykernel", "snakemake-storage-plugin-fs", "xonsh", "hy")
BUILD = Path(__file__).parents[3] / "build"
DRAWBAR = ("-m", "drawbar_snakemake.command")
SNAKEMAKE = ("-m", "snakemake")


@pytest.fixture(scope="session")
def equipped() -> Path:
    """A Python with Snakemake, Jupyter, a storage plugin and languages of scripts; made once."""
    place = BUILD / "snakemake-equipped"
    python, complete = place / "bin" / "python", place / "complete"
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "snakemake-equipped.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists() or complete.read_text() != " ".join(PACKAGES):
            subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", place], check=True)
            install = ["-m", "pip", "--python", str(python), "install", "--quiet", *PACKAGES]
            subprocess.run([sys.executable, *install], check=True, stderr=subprocess.DEVNULL)
            (own,) = place.glob("lib/python3*/site-packages")
            (own / "developer.pth").write_text(
                f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
            )
            complete.write_text(" ".join(PACKAGES))
    return python


def run(program, directory, *arguments, python=sys.executable, **environment):
    path = os.pathsep.join([str(Path(python).parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    program = (*program, "--cores", "2")
    return called(program, directory, *arguments, python=python, **{"PATH": path, **environment})


def called(program, directory, *arguments, python=sys.executable, **environment):
    return subprocess.run(
        [python, *program, *arguments],
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def made(directory: Path) -> dict[str, bytes]:
    paths = (path for path in directory.rglob("*") if path.is_file())
    names = {path.relative_to(directory): path for path in paths}
    return {str(name): path.read_bytes() for name, path in names.items() if not name.parts[0].startswith(".")}


@pytest.fixture
def alike(tmp_path):
    """Runs a workflow through both, and returns what both made; an analysis is the same text for both."""

    def alike(files: dict[str, str], *arguments: str, ignore=(), **more) -> dict[str, bytes]:
        results = []
        for name, program in (("plain", SNAKEMAKE), ("drawbar", DRAWBAR)):
            directory = tmp_path / name
            for file, text in files.items():
                (directory / file).parent.mkdir(parents=True, exist_ok=True)
                (directory / file).write_text(text)
            done = run(
                program, directory, *(each.replace("HERE", str(directory)) for each in arguments), **more
            )
            assert done.returncode == 0, f"{name}:\n{done.stdout}{done.stderr}"
            results.append({file: made for file, made in made(directory).items() if file not in ignore})
        plain, drawbar = results
        assert drawbar == plain
        return drawbar

    return alike


def test_scripts_in_python_and_bash(alike):
    files = alike(
        {
            "Snakefile": """\
rule all:
    input: "b"
rule a:
    output: "a"
    params: word="hello"
    log: "logs/a"
    script: "scripts/a.py"
rule b:
    input: "a"
    output: "b"
    threads: 2
    script: "scripts/b.sh"
""",
            "scripts/a.py": "open(snakemake.output[0], 'w').write(snakemake.params.word)\n"
            "open(snakemake.log[0], 'w').write('log')\n",
            "scripts/b.sh": 'cat "${snakemake_input[0]}" > "${snakemake_output[0]}"; '
            'echo " ${snakemake[threads]}" >> "${snakemake_output[0]}"\n',
        }
    )
    assert files["b"] == b"hello 2\n"


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="needs Rscript")
def test_a_script_in_r(alike):
    files = alike(
        {
            "Snakefile": """\
config["names"] = ["mass", "width"]
rule all:
    input: "z.json"
rule data:
    output: "z.csv"
    shell: "printf 'm\\n91\\n92\\n' > {output}"
rule fit:
    input: data="{name}.csv"
    output: "{name}.json"
    params: scale=0.5, flags=["a", "b"]
    log: "logs/{name}"
    threads: 2
    script: "scripts/fit.R"
""",
            "scripts/fit.R": """\
sink(snakemake@log[[1]])
print("fitting")
sink()
m <- mean(read.csv(snakemake@input[["data"]])$m) * snakemake@params[["scale"]]
words <- c(snakemake@wildcards[["name"]], snakemake@params[["flags"]], snakemake@config[["names"]])
cat(m, snakemake@threads, words, snakemake@rule, file = snakemake@output[[1]])
""",
        }
    )
    assert files["z.json"] == b"45.75 2 z a b mass width fit"
    assert files["logs/z"] == b'[1] "fitting"\n'


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="needs Rscript")
def test_a_script_in_r_that_fails_is_named_with_its_words(tmp_path):
    (tmp_path / "Snakefile").write_text('rule a:\n    output: "a"\n    script: "a.R"\n')
    (tmp_path / "a.R").write_text('stop("no events are left")\n')
    done = run(DRAWBAR, tmp_path)
    assert done.returncode == 1
    assert "rule a: the job ended with exit code 1" in done.stderr
    assert "Error: no events are left" in done.stderr


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("a.xsh", "echo @(snakemake.params.word) > @(snakemake.output[0])\n"),
        ("a.hy", '(with [f (open (get snakemake.output 0) "w")] (print snakemake.params.word :file f))\n'),
    ],
    ids=["xonsh", "hy"],
)
def test_scripts_in_other_languages(alike, equipped, name, script):
    snakefile = f'rule a:\n    output: "a"\n    params: word="hello"\n    script: "{name}"\n'
    assert alike({"Snakefile": snakefile, name: script}, python=equipped)["a"] == b"hello\n"


def test_a_wrapper_of_a_local_collection(alike):
    files = alike(
        {
            "Snakefile": 'rule a:\n    output: "a"\n    params: word="hi"\n    wrapper: "1.0/write"\n',
            "wrappers/1.0/write/environment.yaml": "channels: [conda-forge]\ndependencies: [python]\n",
            "wrappers/1.0/write/wrapper.py": "open(snakemake.output[0], 'w').write(snakemake.params.word)\n",
        },
        "--wrapper-prefix",
        "file://HERE/wrappers/",
    )
    assert files["a"] == b"hi"


def notebook(*lines: str) -> str:
    cell = {"cell_type": "code", "execution_count": None, "id": "a", "metadata": {}, "outputs": []}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    document = {
        "cells": [{**cell, "source": [f"{line}\n" for line in lines]}],
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(document)


def test_a_notebook(alike, equipped):
    snakefile = """\
rule a:
    input: "word"
    output: "a"
    log: notebook="executed.ipynb"
    notebook: "a.ipynb"
"""
    text = notebook(
        "word = open(snakemake.input[0]).read()", "open(snakemake.output[0], 'w').write(word * 2)"
    )
    files = alike(
        {"Snakefile": snakefile, "a.ipynb": text, "word": "hi"}, ignore={"executed.ipynb"}, python=equipped
    )
    assert files["a"] == b"hihi"


def test_storage(alike, equipped):
    snakefile = """\
storage there:
    provider="fs"
rule all:
    input: storage.there("there/b")
rule a:
    input: storage.there("there/in")
    output: "a"
    shell: "cat {input} {input} > {output}"
rule b:
    input: "a"
    output: storage.there("there/b")
    run:
        Path(output[0]).write_text(Path(input[0]).read_text().upper())
"""
    files = alike({"Snakefile": snakefile, "there/in": "hi"}, python=equipped)
    assert files["there/b"] == b"HIHI"


def test_the_cache_between_workflows(tmp_path):
    snakefile = """\
rule a:
    output: "a"
    cache: True
    shell: "echo made >> LEDGER; echo hi > {output}"
"""
    ledger, cache = tmp_path / "ledger", tmp_path / "cache"
    cache.mkdir()
    for name, program in (("first", DRAWBAR), ("second", DRAWBAR), ("plain", SNAKEMAKE)):
        directory = tmp_path / name
        directory.mkdir()
        (directory / "Snakefile").write_text(snakefile.replace("LEDGER", str(ledger)))
        done = run(program, directory, "--cache", "a", SNAKEMAKE_OUTPUT_CACHE=str(cache))
        assert done.returncode == 0, done.stderr
        assert (directory / "a").read_text() == "hi\n"
    assert ledger.read_text() == "made\n"


CONDA = """\
rule a:
    output: "a"
    conda: "env.yaml"
    shell: "echo hi > {output}"
"""


def test_conda_is_ignored_unless_it_is_asked_for(alike):
    env = "channels: [conda-forge]\ndependencies: [python]\n"
    assert alike({"Snakefile": CONDA, "env.yaml": env})["a"] == b"hi\n"


@pytest.mark.skipif(shutil.which("conda") is not None, reason="says what happens without conda")
def test_where_there_is_no_conda_the_error_names_the_rule_and_the_remedy(tmp_path):
    (tmp_path / "Snakefile").write_text(CONDA)
    (tmp_path / "env.yaml").write_text("channels: [conda-forge]\ndependencies: [python]\n")
    plan = ("-m", "drawbar.cli", "plan", "Snakefile", "--backend", "local")
    for done in (
        run(DRAWBAR, tmp_path, "--sdm", "conda"),
        called(plan, tmp_path, "-o", "arguments=--sdm conda"),
    ):
        assert done.returncode == 2, done.stderr
        assert "step a: the rule has a conda environment, and there is no `conda` here (have" in done.stderr
        assert "Traceback" not in done.stderr


def test_an_environment_that_conda_cannot_make_is_an_error_that_names_the_rule(tmp_path):
    (tmp_path / "Snakefile").write_text(CONDA)
    (tmp_path / "env.yaml").write_text("channels: [conda-forge]\ndependencies: [python]\n")
    conda = tmp_path / "bin" / "conda"
    conda.parent.mkdir()
    conda.write_text(
        f"""#!/bin/sh
case "$1 $2" in
    "info --json") echo '{{"conda_prefix": "{tmp_path}", "platform": "linux-64"}}';;
    "--version "*) echo "conda 25.9.1";;
    "config "*) echo '{{"get": {{"channel_priority": "strict"}}}}';;
    *) echo "CondaHTTPError: no channel can be reached" >&2; exit 1;;
esac
"""
    )
    conda.chmod(0o755)
    path = f"{conda.parent}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = called((*DRAWBAR, "--cores", "2"), tmp_path, "--sdm", "conda", PATH=path)
    assert done.returncode == 2, done.stderr
    assert "step a: " in done.stderr
    assert "no channel can be reached" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_report(tmp_path):
    here = tmp_path / "analysis"
    here.mkdir()
    (here / "Snakefile").write_text(
        'rule a:\n    output: report("a.txt", caption="a.rst")\n    shell: "echo figures > {output}"\n'
    )
    (here / "a.rst").write_text("What **a** shows.\n")
    home = tmp_path / "home"
    arguments = ["-m", "drawbar.cli", "run", "Snakefile", "--in-place", "-o", "report=report.html"]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=here,
        env={**os.environ, "DRAWBAR_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = (here / "report.html").read_text()
    assert "a.txt" in text
    assert "What" in text
