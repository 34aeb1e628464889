"""The CWL engine passes the conformance kit."""

from dataclasses import replace

import pytest
from drawbar.testing.engine import EngineContract, Sample
from drawbar_cwl.engine import CwlEngine

FLOW = """\
cwlVersion: v1.2
class: Workflow
inputs:
  word: File
outputs:
  twice: {type: File, outputSource: double/out}
steps:
  double:
    run: double.cwl
    in: {x: upper/out}
    out: [out]
  upper:
    run:
      class: CommandLineTool
      baseCommand: [tr, a-z, A-Z]
      requirements:
        EnvVarRequirement: {envDef: {KIND: plain}}
      inputs: {x: stdin}
      outputs: {out: stdout}
    in: {x: word}
    out: [out]
"""
DOUBLE = """\
cwlVersion: v1.2
class: CommandLineTool
baseCommand: cat
arguments: [$(inputs.x.path), $(inputs.x.path)]
inputs: {x: File}
outputs: {out: stdout}
stdout: twice
"""
TWO_STEPS = Sample(
    files={"flow.cwl": FLOW, "double.cwl": DOUBLE, "word": "abc\n"},
    file="flow.cwl",
    parameters={"word": {"class": "File", "location": "word"}},
    declared=("word",),
    outputs={"outputs/twice": "ABC\nABC\n"},
)
SCATTERED = """\
cwlVersion: v1.2
class: Workflow
requirements:
  ScatterFeatureRequirement: {}
  SubworkflowFeatureRequirement: {}
  StepInputExpressionRequirement: {}
inputs:
  words: string[]
outputs:
  all: {type: File, outputSource: join/all}
steps:
  each:
    scatter: word
    in: {word: words}
    out: [out]
    run:
      class: Workflow
      inputs: {word: string}
      outputs:
        out: {type: File, outputSource: reverse/out}
      steps:
        reverse:
          run:
            class: CommandLineTool
            baseCommand: rev
            inputs: {x: stdin}
            outputs: {out: stdout}
          in: {x: say/out}
          out: [out]
        say:
          run:
            class: CommandLineTool
            baseCommand: echo
            inputs: {word: {type: string, inputBinding: {}}}
            outputs: {out: stdout}
          in: {word: {source: word, valueFrom: "$(self)!"}}
          out: [out]
  join:
    run:
      class: CommandLineTool
      baseCommand: cat
      inputs: {parts: {type: "File[]", inputBinding: {}}}
      outputs: {all: stdout}
      stdout: all
    in: {parts: each/out}
    out: [all]
"""
CHAIN = """\
cwlVersion: v1.2
class: Workflow
inputs: []
outputs: []
steps:
  a: {run: a.cwl, in: [], out: [x]}
  b: {run: b.cwl, in: {x: a/x}, out: [x]}
  c: {run: c.cwl, in: {x: b/x}, out: []}
"""
TOOL = "{cwlVersion: v1.2, class: CommandLineTool, baseCommand: %s, inputs: %s, outputs: %s}\n"
FILE = "{x: {type: File, outputBinding: {glob: %s}}}"


def chain(command):
    """Three steps, of which the second one runs this command and should make a file."""
    return {
        "flow.cwl": CHAIN,
        "a.cwl": TOOL % ("[touch, x]", "[]", FILE % "x"),
        "b.cwl": TOOL % (f"'{command}'", "{x: File}", FILE % "nothing"),
        "c.cwl": TOOL % ("cat", "{x: stdin}", "[]"),
    }


class TestCwl(EngineContract):
    engine_libraries = ("cwltool", "cwl_utils", "schema_salad", "ruamel")

    @pytest.fixture
    def engine(self):
        CwlEngine.preload()  # once, for all the children that the kit forks
        return CwlEngine()

    @pytest.fixture
    def two_steps(self):
        return TWO_STEPS

    @pytest.fixture
    def scattered(self):
        return Sample(
            files={"flow.cwl": SCATTERED},
            file="flow.cwl",
            parameters={"words": ["one", "two"]},
            outputs={"outputs/all": "!eno\n!owt\n"},
        )

    @pytest.fixture
    def edits(self):
        def edited(outputs, **files):
            return replace(TWO_STEPS, files={**TWO_STEPS.files, **files}, outputs={"outputs/twice": outputs})

        return {
            "command": edited("ABC\n", **{"double.cwl": DOUBLE.replace(", $(inputs.x.path)", "")}),
            "input": edited("WEN\nWEN\n", word="wen\n"),
            "environment": edited("ABC\nABC\n", **{"flow.cwl": FLOW.replace("plain", "other")}),
        }

    @pytest.fixture
    def failing(self):
        return Sample(files=chain("false"), file="flow.cwl", step="b")

    @pytest.fixture
    def incomplete(self):
        return Sample(files=chain("true"), file="flow.cwl", step="b")

    @pytest.fixture
    def broken(self):
        files = {**TWO_STEPS.files, "flow.cwl": FLOW.replace("in: {x: upper/out}", "in: {x: uper/out}")}
        return replace(TWO_STEPS, files=files, problem="uper/out", line=10)
