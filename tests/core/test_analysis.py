"""Analyses are read as REANA publishes them, and every mistake is told with place and remedy."""

import copy
import os
import textwrap
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from drawbar.analysis import load_analysis
from drawbar.definition import MOST_FILES
from drawbar.engine import Engine
from drawbar.errors import PluginError, Severity, SpecError, UsageError
from drawbar.options import Options, option
from drawbar.parameters import parameters_from
from drawbar.schemas import schema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialOptions(Options):
    cache: bool = option(True, help="on or off", aliases=("CACHE",))
    start: str | None = option(None, help="", aliases=("FROM",))
    target: str | None = option(None, help="", aliases=("TARGET",))


@dataclass(frozen=True, slots=True, kw_only=True)
class YadageOptions(Options):
    toplevel: str | None = option(None, help="")
    initdir: str | None = option(None, help="")


class Stub(Engine):
    api = 1

    def inspect(self, source):
        raise AssertionError("reading an analysis asks no engine to inspect it")

    def execute(self, source, jobs):
        raise AssertionError("reading an analysis executes nothing")

    def recognises(self, path):
        return self.name in path.read_text()


class Serial(Stub):
    name = "serial"
    Options = SerialOptions


class Cwl(Stub):
    name = "cwl"


class Snakemake(Stub):
    name = "snakemake"


class Yadage(Stub):
    name = "yadage"
    Options = YadageOptions


ENGINES = {engine.name: engine for engine in (Serial, Cwl, Snakemake, Yadage)}

SERIAL = """\
inputs:
  files:
    - code/hello.py
  parameters:
    year: 2012
    region: Africa
workflow:
  type: serial
  specification:
    steps:
      - name: hello
        environment: docker.io/library/python:3.12
        commands:
          - python code/hello.py ${region}
outputs:
  files:
    - results/plot.png
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty directory called `place`, which is the current one; `write(path, text)` fills it."""
    directory = tmp_path / "place"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


def write(path, text=""):
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(text))


def read(path=".", engines=ENGINES, **arguments):
    return load_analysis(path, engines=engines, **arguments)


def problems_of(path=".", **arguments):
    with pytest.raises(SpecError) as caught:
        read(path, **arguments)
    return caught.value.problems


def errors_of(path=".", **arguments):
    return [str(each) for each in problems_of(path, **arguments) if each.severity is Severity.ERROR]


# The shapes of what REANA publishes.


def test_serial_with_hints(place):
    write("code/world.ipynb")
    write("data/world.csv")
    write("tests/log.feature")
    write(
        "reana.yaml",
        """\
        version: 0.3.0
        inputs:
          files:
            - code/world.ipynb
            - data/world.csv
          parameters:
            notebook: code/world.ipynb
            year_min: 1500
        workflow:
          type: serial
          resources:
            cvmfs: [atlas.cern.ch, atlas-condb.cern.ch]
          specification:
            steps:
              - name: plot
                environment: "docker.io/some/jupyter:3"
                compute_backend: slurmcern
                slurm_partition: inf-short
                slurm_time: "60"
                kubernetes_memory_limit: 256Mi
                kubernetes_uid: 500
                kerberos: true
                commands:
                  - mkdir -p results && run ${notebook}
                    --from ${year_min}
        outputs:
          files:
            - results/plot.png
          directories:
            - results/more/
        tests:
          files:
            - tests/log.feature
        workspace:
          retention_days:
            "**/*.csv": 0
        """,
    )
    analysis = read()
    step = analysis.specification["steps"][0]
    assert analysis.engine == "serial"
    assert analysis.version == "0.3.0"
    assert (analysis.root, analysis.document, analysis.name) == (place, place / "reana.yaml", "place")
    assert analysis.input_files == ("code/world.ipynb", "data/world.csv")
    assert analysis.parameters == {"notebook": "code/world.ipynb", "year_min": 1500}
    assert (analysis.output_files, analysis.output_directories) == (("results/plot.png",), ("results/more",))
    assert analysis.test_files == ("tests/log.feature",)
    assert analysis.resources == {"cvmfs": ["atlas.cern.ch", "atlas-condb.cern.ch"]}
    assert analysis.workspace == {"retention_days": {"**/*.csv": 0}}
    assert step["commands"] == ["mkdir -p results && run ${notebook} --from ${year_min}"]
    assert (step["kubernetes_uid"], step["slurm_time"]) == (500, "60")
    assert analysis.lines["workflow.specification.steps.0.commands.0"] == 24
    assert analysis.warnings == ()


def test_cwl_with_a_parameter_file(place):
    write("code/world.ipynb")
    write("workflow/cwl/world.cwl")
    write("workflow/cwl/world.tool")
    write("workflow/cwl/job.yml", "notebook: {class: File, path: code/world.ipynb}\nyear_min: 1500\n")
    write(
        "reana-cwl.yaml",
        """\
        version: 0.3.0
        inputs:
          files:
            - code/world.ipynb
          directories:
            - workflow/cwl
          parameters:
            input: workflow/cwl/job.yml
        workflow:
          type: cwl
          file: workflow/cwl/world.cwl#main
        outputs:
          files:
            - outputs/plot.png
        """,
    )
    analysis = read("reana-cwl.yaml")
    assert (analysis.file, analysis.fragment) == ("workflow/cwl/world.cwl", "main")
    assert analysis.parameters == {
        "notebook": {"class": "File", "path": "code/world.ipynb"},
        "year_min": 1500,
    }
    assert analysis.parameters_file == "workflow/cwl/job.yml"
    source = analysis.source(Path("/workspace"), until="plot", allow_execution=False)
    assert source.root == Path("/workspace")
    assert source.file == Path("/workspace/workflow/cwl/world.cwl")
    assert source.document == place / "reana-cwl.yaml"
    assert source.declared == ("code/world.ipynb", "workflow/cwl")
    assert (source.fragment, source.until, source.allow_execution) == ("main", "plot", False)
    assert analysis.source().file == place / "workflow/cwl/world.cwl"


def test_snakemake_in_the_root_with_kerberos(place):
    for name in ("Snakefile", "rules.smk", "fit.ipynb", "utils/io.py", "utils/.keep", "secret.txt"):
        write(name)
    (place / "histograms").mkdir()
    write("inputs.yaml", "threads: 4\n")
    write(
        "reana.yaml",
        """\
        inputs:
          files: [fit.ipynb, Snakefile]
          directories: [histograms, utils]
          parameters:
            input: inputs.yaml
        workflow:
          type: snakemake
          resources:
            kerberos: true
          file: Snakefile
        outputs:
          files: [histograms.root]
        """,
    )
    analysis = read()
    assert analysis.parameters == {"threads": 4}
    assert [str(each) for each in analysis.warnings] == [
        "reana.yaml:9: workflow.resources.kerberos: drawbar provides no credentials of its own "
        "(jobs have those of the session they run in)"
    ]
    assert [entry.path for entry in analysis.contents()] == [
        "Snakefile",
        "fit.ipynb",
        "histograms",
        "inputs.yaml",
        "rules.smk",
        "utils",
        "utils/.keep",
        "utils/io.py",
    ]


def test_yadage_with_a_directory_of_definitions(place):
    write("workflow/workflow.yml")
    write("workflow/steps.yml")
    write("workflow/test_inputs/one.yml")
    write(
        "reana.yaml",
        """\
        version: 0.6.0
        inputs:
          parameters:
            did: 404958
            xsec_in_pb: 0.00122
            url: https://example.org/data.root
          options:
            initdir: data
        workflow:
          type: yadage
          file: workflow/workflow.yml
        """,
    )
    analysis = read()
    assert analysis.parameters["xsec_in_pb"] == 0.00122
    assert analysis.options == {"initdir": "data"}
    assert analysis.workflow_files == (
        "workflow/steps.yml",
        "workflow/test_inputs/one.yml",
        "workflow/workflow.yml",
    )


def test_a_workflow_from_somewhere_else(place):
    text = """\
    inputs:
      options:
        toplevel: github:some/repository@main:workflow
    workflow:
      type: yadage
      file: workflow.yml
    """
    write("reana.yaml", text)
    analysis = read()
    assert (analysis.file, analysis.workflow_files) == ("workflow.yml", ())
    write("reana.yaml", text.replace("workflow.yml", "../workflow.yml"))
    assert "leaves the directory" in errors_of()[0]


def test_a_workflow_below_its_toplevel(place):
    for name in ("specs/flows/main.yml", "specs/steps.yml", "specs/.hidden", "other.yml"):
        write(name)
    write(
        "reana.yaml",
        """\
        inputs:
          options:
            toplevel: ./specs/
        workflow:
          type: yadage
          file: flows/main.yml
        """,
    )
    assert read().workflow_files == ("specs/flows/main.yml", "specs/steps.yml")
    assert read(options={"toplevel": "."}).workflow_files == ()


def test_the_newer_fields(place):
    for name in ("flow/main.cwl", "flow/unlisted.cwl", "tools/one.cwl", "lib/a/b.cwl"):
        write(name)
    write("job.json", '{"n": 3}')
    write(
        "reana.yaml",
        """\
        inputs:
          parameters: {n: 1, input: text}
        workflow:
          type: cwl
          file: flow/main.cwl
          files: [tools/one.cwl]
          directories: [lib]
          parameters:
            file: job.json
        """,
    )
    analysis = read()
    assert analysis.parameters == {"n": 3, "input": "text"}
    assert analysis.workflow_files == ("flow/main.cwl", "tools/one.cwl")
    assert [entry.path for entry in analysis.contents()] == [
        "flow/main.cwl",
        "job.json",
        "lib",
        "lib/a",
        "lib/a/b.cwl",
        "tools/one.cwl",
    ]


def test_a_directory_that_git_did_not_keep(place):
    write("code/hello.py")
    write("reana.yaml", SERIAL.replace("inputs:\n", "inputs:\n  directories: [histograms/]\n"))
    analysis = read()
    (warning,) = analysis.warnings
    assert str(warning).startswith("reana.yaml:2: inputs.directories.0: 'histograms/' does not exist")
    entry = analysis.contents()[-1]
    assert (entry.path, entry.directory) == ("histograms", True)


# Where an analysis is.


def test_the_directory_may_hold_reana_yml(place):
    write("code/hello.py")
    write("reana.yml", SERIAL)
    assert read().document == place / "reana.yml"
    assert read(place.parent / "place").root == place
    write("reana.yaml", SERIAL)
    with pytest.raises(UsageError, match=r"both reana.yaml and reana.yml"):
        read()


def test_an_analysis_by_another_name(place):
    write("code/hello.py")
    write("mine.yaml", SERIAL)
    assert read("mine.yaml").parameters == {"year": 2012, "region": "Africa"}


def test_the_run_is_named_after_the_directory(tmp_path, monkeypatch):
    for name, expected in (("my analysis (1)", "my-analysis-1"), ("--", "analysis"), ("a.b_c-d", "a.b_c-d")):
        monkeypatch.chdir(tmp_path)
        write(f"{name}/code/hello.py")
        write(f"{name}/reana.yaml", SERIAL)
        assert read(tmp_path / name).name == expected


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("other.yaml", r"other.yaml: No such file or directory$"),
        ("workfow.txt", r"did you mean 'workflow.txt'\?"),
        (".", r"there is no reana.yaml in this directory \(name one of: reana-cwl.yaml\)"),
        ("empty", r"empty: there is no reana.yaml"),
        ("pipe", "is not a regular file"),
        ("x" * 300, "File name too long"),
        ("a\0b", "null byte"),
    ],
)
def test_no_analysis(place, path, message):
    write("reana-cwl.yaml")
    write("workflow.txt")
    (place / "empty").mkdir()
    os.mkfifo("pipe")
    with pytest.raises(UsageError, match=message):
        read(path)


# Bare workflow files.


def test_a_bare_workflow_file(place):
    write("flow.cwl", "cwl")
    write("tool.cwl")
    write("data/a.csv")
    write(".git/config")
    write("job.yml", "n: 1\nm: [1, 2]\n")
    analysis = read("flow.cwl#main", parameters_file="job.yml", parameters={"n": 2})
    assert (analysis.engine, analysis.file, analysis.fragment) == ("cwl", "flow.cwl", "main")
    assert analysis.document == place / "flow.cwl"
    assert analysis.parameters == {"n": 2, "m": [1, 2]}
    assert [entry.path for entry in analysis.contents()] == ["data/a.csv", "flow.cwl", "job.yml", "tool.cwl"]


def test_the_engine_may_be_named(place):
    write("flow.txt", "nothing known")
    assert read("flow.txt", engine="snakemake").engine == "snakemake"
    assert read("flow.txt", engine="serial", options={"CACHE": "off", "FROM": "3"}).options == {
        "cache": False,
        "start": "3",
    }
    with pytest.raises(UsageError, match=r"'snakmake' is not an engine \(did you mean 'snakemake'\?\)"):
        read("flow.txt", engine="snakmake")


def test_nobody_recognises_it(place):
    write("flow.txt", "nothing known")
    engines = {"serial": Serial, "mine": type("Mine", (Stub,), {"name": "mine"})}
    with pytest.raises(UsageError) as caught:
        read("flow.txt", engines=engines)
    assert "choose with --engine, one of: mine, serial" in str(caught.value)
    assert "pip install 'drawbar[cwl,snakemake,yadage]'" in str(caught.value)


def test_two_claims(place):
    write("flow.txt", "cwl and yadage")
    with pytest.raises(UsageError, match=r"'cwl' and 'yadage' both take .*--engine"):
        read("flow.txt")


def test_broken_yaml_that_nobody_recognises(place):
    write("flow.yaml", "a: [")
    assert "flow.yaml:1: not valid YAML" in errors_of("flow.yaml")[0]


def test_an_engine_that_breaks(place):
    write("flow.txt")
    broken = type("Broken", (Stub,), {"name": "broken", "recognises": lambda self, path: 1 / 0})
    with pytest.raises(PluginError, match=r"'broken' broke while looking at flow.txt: division by zero"):
        read("flow.txt", engines={"broken": broken})


def test_a_large_directory_is_not_copied(place):
    for index in range(MOST_FILES):
        write(f"data/{index}")
    write("Snakefile", "snakemake")
    write("more.smk")
    analysis = read("Snakefile")
    assert [entry.path for entry in analysis.contents()] == ["Snakefile", "more.smk"]
    (warning,) = analysis.warnings
    assert warning.file == "Snakefile"
    assert "more than 1000 files" in warning.message


def test_unlisted_links_that_lead_out_are_left_behind(place):
    write("../elsewhere.cwl")
    write("flow.cwl", "cwl")
    Path("link.cwl").symlink_to("../elsewhere.cwl")
    Path("dangling.cwl").symlink_to("nothing")
    assert [entry.path for entry in read("flow.cwl").contents()] == ["flow.cwl"]


# Parameters and options.


def test_which_parameters_win(place):
    write("code/hello.py")
    write("reana.yaml", SERIAL)
    write("more.yaml", "year: 1\nregion: Asia\n")
    assert read(parameters_file="more.yaml", parameters={"year": 2}).parameters == {
        "year": 2,
        "region": "Asia",
    }


def test_undeclared_parameters(place):
    write("code/hello.py")
    write("reana.yaml", SERIAL)
    write("more.yaml", "year: 1\nregoin: Asia\n")
    assert errors_of(parameters_file="more.yaml", parameters={"yaer": 2, "zzz": 1}) == [
        "more.yaml:2: the analysis has no parameter 'regoin' (did you mean 'region'?)",
        "the analysis has no parameter 'yaer' (did you mean 'year'?)",
        "the analysis has no parameter 'zzz' (one of: region, year)",
    ]


def test_parameters_for_an_analysis_without(place):
    write("reana.yaml", "workflow: {type: serial, specification: {steps: [{environment: a, commands: [b]}]}}")
    assert errors_of(parameters={"n": 1}) == [
        "the analysis has no parameter 'n' (declare it under inputs.parameters)"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "more.yaml: cannot be read: No such file or directory"),
        ("- 1\n", "more.yaml:1: parameters must be a mapping (name: value), not a list"),
        ("a: 1\nb: [\n", "more.yaml:2: not valid YAML"),
    ],
)
def test_wrong_parameter_files(place, content, message):
    write("code/hello.py")
    write("reana.yaml", SERIAL)
    if content is not None:
        write("more.yaml", content)
    assert errors_of(parameters_file="more.yaml")[0].startswith(message)
    write("reana-cwl.yaml", "inputs: {parameters: {input: more.yaml}}\nworkflow: {type: cwl, file: f.cwl}\n")
    write("f.cwl")
    assert len(errors_of("reana-cwl.yaml", parameters={"anything": 1})) == 1


def test_an_empty_parameter_file_has_none(place):
    write("code/hello.py")
    write("reana.yaml", SERIAL)
    write("more.yaml")
    assert read(parameters_file="more.yaml").parameters["year"] == 2012


def test_parameters_on_the_command_line():
    texts = ["a=1", "b=1.5", "c=yes", "d=", "e=x=y", "f=[1, two]", "g={h: 1}", "i='3'", "j=*x: # y", "k=null"]
    assert parameters_from(texts) == {
        "a": 1,
        "b": 1.5,
        "c": True,
        "d": "",
        "e": "x=y",
        "f": [1, "two"],
        "g": {"h": 1},
        "i": "3",
        "j": "*x: # y",
        "k": None,
    }
    assert parameters_from(["a=1", "a=2"]) == {"a": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "-p 'a': write it as -p NAME=VALUE"),
        ("=1", "-p '=1': write it as -p NAME=VALUE"),
        ("a=[0]*x", "-p a: not valid YAML: .*; put it in quotes if it is text"),
        ("a=.nan", "-p a: '.nan' is not a finite number"),
    ],
)
def test_wrong_parameters_on_the_command_line(text, message):
    with pytest.raises(UsageError, match=message):
        parameters_from([text])


def test_options(place):
    write("code/hello.py")
    write("reana.yaml", SERIAL.replace("inputs:\n", "inputs:\n  options: {FROM: hello, report: a.html}\n"))
    analysis = read(options={"TARGET": "bye", "start": "again", "cache": "off"})
    assert analysis.options == {"start": "again", "target": "bye", "cache": False}
    assert [str(each) for each in analysis.warnings] == [
        "reana.yaml:2: inputs.options: the engine 'serial' has no use for the option 'report'"
    ]
    assert errors_of(options={"TARGTE": "x", "cache": "maybe"}) == [
        "-o: unknown option 'TARGTE' (did you mean 'TARGET'?)",
        "-o: option 'cache' does not take the value 'maybe' (on or off)",
    ]


# Mistakes.

MISTAKES = [
    # what is changed in SERIAL, to what, and the error
    (
        "type: serial",
        "type: seral",
        "8: workflow.type: 'seral' is not an engine (did you mean 'serial'?)",
    ),
    ("type: serial", "type: [serial]", "8: workflow.type: must be text, not a list"),
    ("  type: serial\n", "", "7: workflow: 'type' is missing"),
    ("type: serial", "tpye: serial", "7: workflow: 'type' is missing ('tpye' may be a misspelling of it)"),
    ("  specification:", "  secification:", "7: workflow: 'file' or 'specification' is missing"),
    ("workflow:", "wrkflow:", "1: 'workflow' is missing ('wrkflow' may be a misspelling of it)"),
    (
        "    - code/hello.py",
        "    - code/helo.py",
        "3: inputs.files.0: 'code/helo.py' does not exist (did you mean 'hello.py'?)",
    ),
    ("    - code/hello.py", "    - code", "3: inputs.files.0: 'code' is a directory"),
    ("    - code/hello.py", "    - ../hello.py", "3: inputs.files.0: '../hello.py' leaves the directory"),
    ("    - code/hello.py", "    - /etc/passwd", "3: inputs.files.0: '/etc/passwd' is absolute"),
    ("    - code/hello.py", "    - out", "3: inputs.files.0: 'out' is a symbolic link that leads out"),
    (
        "    - code/hello.py",
        "    - code/../code/hello.py",
        "3: inputs.files.0: 'code/../code/hello.py' contains '..' (write 'code/hello.py')",
    ),
    (
        "    - code/hello.py",
        "    - code/hello.py\n  directories:\n    - out",
        "5: inputs.directories.0: 'out' is a symbolic link that leads out",
    ),
    (
        "  type: serial",
        "  type: serial\n  directories: [lib]",
        "9: workflow.directories.0: 'lib' does not exist",
    ),
    (
        "    - code/hello.py",
        "    - code/hello.py\n    - ./code/hello.py",
        "4: inputs.files.1: './code/hello.py' is listed twice, first on line 3",
    ),
    (
        "    - code/hello.py",
        "    - code/hello.py\n  directories:\n    - code/",
        "3: inputs.files.0: 'code/hello.py' is part of 'code' on line 5",
    ),
    ("    - code/hello.py", "    - 7", '3: inputs.files.0: must be text, not 7 (write it in quotes: "7")'),
    (
        "  files:\n    - code/hello.py",
        "  files: code/hello.py",
        "2: inputs.files: must be a list (- item), not 'code/hello.py' "
        "(write it as a list: ['code/hello.py'])",
    ),
    (
        "    - code/hello.py",
        "    - a\n" * 1001,
        "2: inputs.files: has 1001 entries, at most 1000 are allowed",
    ),
    (
        "  parameters:\n    year: 2012\n    region: Africa\n",
        "  parameters:\n",
        "4: inputs.parameters: is empty, but must be a mapping (name: value) "
        "(give it a value, or remove the key)",
    ),
    (
        "        environment: docker.io/library/python:3.12\n",
        "",
        "11: step hello: workflow.specification.steps.0: 'environment' is missing",
    ),
    (
        "        commands:\n          - python",
        "        commands: []\n        x:\n          - python",
        "13: step hello: workflow.specification.steps.0.commands: is empty",
    ),
    (
        "        commands:",
        "        kubernetes_memory_limit: 8\n        commands:",
        "13: step hello: workflow.specification.steps.0.kubernetes_memory_limit: must be text, not 8 "
        '(write it in quotes: "8")',
    ),
    (
        "        commands:",
        "        kubernetes_uid: '500'\n        commands:",
        "13: step hello: workflow.specification.steps.0.kubernetes_uid: must be a whole number, not '500' "
        "(write it without quotes)",
    ),
    (
        "        commands:",
        "        kerberos: 'yes'\n        commands:",
        "13: step hello: workflow.specification.steps.0.kerberos: must be true or false, not 'yes' "
        "(write it without quotes)",
    ),
    (
        "    - results/plot.png",
        "    - ../plot.png",
        "17: outputs.files.0: '../plot.png' leaves the directory",
    ),
    ("    - results/plot.png", '    - "a\\nb"', r"17: outputs.files.0: 'a\nb' holds a control character"),
    ("outputs:", "version: 0.9\noutputs:", '15: version: must be text, not 0.9 (write it in quotes: "0.9")'),
    (
        "outputs:",
        "workspace: {retention_days: {a: -1}}\noutputs:",
        "15: workspace.retention_days.a: must be 0 or more, not -1",
    ),
    (
        "  type: serial",
        "  type: serial\n  resources: {cvmfs: [a.ch, b.ch, a.ch]}",
        "9: workflow.resources.cvmfs.2: 'a.ch' is listed twice",
    ),
    (
        "  type: serial",
        "  type: serial\n  resources: {cvmfs: ['/cvmfs/a.ch']}",
        "9: workflow.resources.cvmfs.0: '/cvmfs/a.ch' is not the name of a CVMFS repository",
    ),
    (
        "  type: serial",
        "  type: serial\n  resources: {dask: {single_worker_memory: 2 GB}}",
        "9: workflow.resources.dask: 'image' is missing",
    ),
    (
        "  type: serial",
        "  type: serial\n  resources: {dask: {image: a, single_worker_memory: 2 GB}}",
        "9: workflow.resources.dask.single_worker_memory: '2 GB' is not an amount of memory",
    ),
    (
        "  type: serial",
        "  type: serial\n  parameters: {}",
        "9: workflow.parameters: 'file' is missing",
    ),
    (
        "  type: serial",
        "  type: serial\n  file: nothing.txt",
        "9: workflow.file: 'nothing.txt' does not exist",
    ),
    (
        "  type: serial",
        "  type: serial\n  parameters: {file: nothing.json}",
        "9: workflow.parameters.file: 'nothing.json' does not exist",
    ),
    (
        "inputs:",
        "inputs:\n  options: {FORM: hello}",
        "2: inputs.options: unknown option 'FORM' (did you mean 'FROM'?)",
    ),
    (
        "inputs:",
        "inputs:\n  options: {CACHE: maybe}",
        "2: inputs.options: option 'CACHE' does not take the value 'maybe' (on or off)",
    ),
    ("inputs:", "inputs:\n  options: [CACHE]", "2: inputs.options: must be a mapping"),
    (SERIAL, "- workflow\n", "1: an analysis is a mapping with the key 'workflow', not a list"),
    (SERIAL, "", "1: an analysis is a mapping with the key 'workflow', not null"),
    (SERIAL, "workflow: serial\n", "1: workflow: must be a mapping (name: value), not 'serial'"),
    ("region: Africa", "year: 2013", "6: the key 'year' is given twice, first on line 5"),
]


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES, ids=[message for _, _, message in MISTAKES])
def test_mistakes(place, old, new, message):
    write("code/hello.py")
    Path("out").symlink_to("/etc/passwd")
    assert old in SERIAL
    write("reana.yaml", SERIAL.replace(old, new))
    errors = errors_of()
    assert errors[0].startswith(f"reana.yaml:{message}"), errors


def test_all_mistakes_at_once_in_the_order_of_lines(place):
    text = SERIAL.replace("code/hello.py", "a").replace("serial", "seral").replace("results/plot.png", "/b")
    write("reana.yaml", text.replace("name: hello", "nmae: hello"))
    lines = [problem.line for problem in problems_of()]
    assert lines == [3, 8, 17]


def test_too_many_inputs_together(place):
    write("code/hello.py")
    files = "".join(f"    - f{i}\n" for i in range(600))
    directories = "  directories:\n" + "".join(f"    - d{i}\n" for i in range(600))
    write("reana.yaml", SERIAL.replace("    - code/hello.py\n", files + directories))
    assert "reana.yaml:1: inputs: lists 1200 files and directories, at most 1000 are allowed" in errors_of()


def test_an_engine_that_is_not_installed(place):
    write("f.cwl")
    write("reana.yaml", "workflow:\n  type: cwl\n  file: f.cwl\n")
    (error,) = errors_of(engines={"serial": Serial})
    assert error.startswith(
        "reana.yaml:2: workflow.type: the engine 'cwl' is not installed (pip install 'drawbar[cwl]'"
    )


def test_any_installed_engine_will_do(place):
    write("f.x")
    write("reana.yaml", "workflow:\n  type: mine\n  file: f.x\n")
    assert read(engines={"mine": type("Mine", (Stub,), {"name": "mine"})}).engine == "mine"


def test_the_engine_of_an_analysis_is_not_chosen_twice(place):
    write("code/hello.py")
    write("reana.yaml", SERIAL)
    assert read(engine="serial").engine == "serial"
    assert "workflow.type: 'serial', but --engine says 'cwl'" in errors_of(engine="cwl")[0]


def test_what_is_only_a_warning(place):
    write("code/hello.py")
    text = SERIAL.replace("region: Africa\n", "region: Africa\n  fils: []\n")
    text += "tests: {files: [tests/none.feature]}\nauthor: me\nworkspace: {root_path: /var/reana}\n"
    text = text.replace(
        "type: serial", "type: serial\n  resources: {dask: {image: a}, rucio: true, kerberos: false}"
    )
    write("reana.yaml", text)
    assert [str(each).split(" (")[0] for each in read().warnings] == [
        "reana.yaml:7: inputs: unknown key 'fils'",
        "reana.yaml:10: workflow.resources.dask: drawbar starts no Dask cluster",
        "reana.yaml:10: workflow.resources.rucio: drawbar provides no credentials of its own",
        "reana.yaml:20: tests.files.0: 'tests/none.feature' does not exist",
        "reana.yaml:21: unknown key 'author'",
        "reana.yaml:22: workspace.root_path: is meant for REANA's own disks, and ignored",
    ]
    assert all(each.severity is Severity.WARNING for each in read().warnings)


def test_warnings_never_push_an_error_out(place):
    write("code/hello.py")
    write(
        "reana.yaml",
        "".join(f"key{i}: 1\n" for i in range(500)) + SERIAL.replace("plot.png", "plot.png\n    - 7"),
    )
    assert len(errors_of()) == 1


def test_keys_of_a_step_that_some_backend_may_know(place):
    write("code/hello.py")
    write("reana.yaml", SERIAL.replace("        commands:", "        pbs_queue: long\n        commands:"))
    assert read().warnings == ()


# What goes into a workspace.


def test_listed_links_must_not_lead_out(place):
    write("code/hello.py")
    write("data/a.csv")
    write("reana.yaml", SERIAL.replace("inputs:\n", "inputs:\n  directories: [data]\n"))
    analysis = read()
    assert [entry.path for entry in analysis.contents()] == ["code/hello.py", "data", "data/a.csv"]
    Path("data/b").symlink_to("/etc")
    with pytest.raises(SpecError, match="'data/b' is a symbolic link that leads out, to '/etc'"):
        analysis.contents()


def test_an_input_that_has_gone(place):
    write("code/hello.py")
    write("reana.yaml", SERIAL)
    analysis = read()
    Path("code/hello.py").unlink()
    with pytest.raises(SpecError, match=r"'code/hello.py' does not exist"):
        analysis.contents()


# Anything at all.

CORPUS = [
    yaml.safe_load(SERIAL),
    {
        "version": "0.9",
        "inputs": {"files": ["a"], "directories": ["d"], "parameters": {"input": "job.yml"}, "options": {}},
        "workflow": {
            "type": "cwl",
            "file": "f.cwl#main",
            "files": ["g.cwl"],
            "directories": ["d"],
            "parameters": {"file": "job.yml"},
            "resources": {
                "cvmfs": ["a.ch"],
                "kerberos": True,
                "dask": {"image": "a", "number_of_workers": 2, "single_worker_memory": "2Gi"},
            },
        },
        "outputs": {"files": ["o"], "directories": ["p"]},
        "tests": {"files": ["t.feature"]},
        "workspace": {"root_path": "/x", "retention_days": {"a": 1}},
    },
]
STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(
        [
            "",
            ".",
            "..",
            "/",
            "a\0b",
            "a#b",
            "#",
            "serial",
            "cwl",
            "yadage",
            "job.yml",
            "d",
            ".nan",
            "x" * 5000,
        ]
    ),
    st.text(max_size=5),
    st.lists(st.sampled_from(["a", "d", "a/b", 1, None, [], {}]), max_size=3),
    st.dictionaries(
        st.sampled_from(["a", "file", "files", "steps", "input", "FROM", "toplevel"]), st.text(), max_size=2
    ),
)


def places(value, at=()):
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*at, key))


@st.composite
def documents(draw):
    document = copy.deepcopy(draw(st.sampled_from(CORPUS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.sampled_from(sorted(places(document), key=str)))
        if not at:
            continue
        target = document
        for key in at[:-1]:
            target = target[key]
        match draw(st.sampled_from(["replace", "delete", "rename"])):
            case "replace":
                target[at[-1]] = draw(STRANGE)
            case "delete":
                del target[at[-1]]
            case "rename" if isinstance(target, dict):
                target[draw(st.text(max_size=4))] = target.pop(at[-1])
    return document


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=documents(), parameters=st.dictionaries(st.text(max_size=3), STRANGE, max_size=2))
def test_a_mutated_document_is_an_analysis_or_a_clear_error(place, document, parameters):
    for name in ("a", "g.cwl", "f.cwl", "d/e", "job.yml", "code/hello.py"):
        write(name)
    write("reana.yaml", yaml.safe_dump(document))
    try:
        read(parameters=parameters, options=parameters).contents()
    except (SpecError, UsageError) as error:
        problems, text = getattr(error, "problems", []), str(error)
    else:
        return
    assert 0 < len(text) < 100_000
    assert not problems or problems[0].severity is Severity.ERROR


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_text_is_an_analysis_or_a_clear_error(place, data):
    write("code/hello.py")
    start = data.draw(st.integers(0, len(SERIAL)))
    end = data.draw(st.integers(start, min(len(SERIAL), start + 20)))
    middle = data.draw(st.text(alphabet="ab:-[]{}&*!'\"#%\t\n .", max_size=8))
    write("reana.yaml", SERIAL[:start] + middle + SERIAL[end:])
    with suppress(SpecError, UsageError):
        read()


# The reference page.


def keys_of(schema, prefix=""):
    for key, rules in schema.get("properties", {}).items():
        yield f"{prefix}{key}"
        yield from keys_of(rules, f"{prefix}{key}.")


def test_every_field_is_in_the_reference():
    rules = schema("analysis-v1")
    page = Path(__file__).parents[2].joinpath("docs/reference/analysis.md").read_text()
    keys = [*keys_of(rules), *rules["$defs"]["step"]["properties"], *rules["$defs"]["serial"]["properties"]]
    assert len(keys) > 50
    assert [key for key in keys if f"`{key}`" not in page] == []


def test_the_schema_is_a_schema():
    Draft202012Validator.check_schema(schema("analysis-v1"))
