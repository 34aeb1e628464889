"""The yadage engine passes the conformance kit."""

from dataclasses import replace

import pytest
import yaml
from drawbar.testing.engine import EngineContract, Sample
from drawbar_yadage.engine import YadageEngine

STEPS = """\
upper:
  process:
    process_type: string-interpolated-cmd
    cmd: tr a-z A-Z < {word} > {out}
  environment:
    environment_type: docker-encapsulated
    image: python
    imagetag: '3.12'
  publisher:
    publisher_type: frompar-pub
    outputmap: {upper: out}
reverse:
  process:
    process_type: interpolated-script-cmd
    interpreter: bash
    script: |
      rev {upper} > {out}
      cat {out} {out} > {out}.twice
  environment:
    environment_type: localproc-env
  publisher:
    publisher_type: fromglob-pub
    globexpression: '*.twice'
    outputkey: twice
"""
WORKFLOW = """\
stages:
  - name: upper
    dependencies: [init]
    scheduler:
      scheduler_type: singlestep-stage
      parameters:
        word: {step: init, output: word}
        out: '{workdir}/upper'
      step: {$ref: 'steps.yml#/upper'}
  - name: reverse
    dependencies: [upper]
    scheduler:
      scheduler_type: singlestep-stage
      parameters:
        upper: {step: upper, output: upper}
        out: '{workdir}/reversed'
      step: {$ref: 'steps.yml#/reverse'}
"""
TWO_STEPS = Sample(
    files={"flow.yml": WORKFLOW, "steps.yml": STEPS, "word.txt": "abc\n"},
    file="flow.yml",
    parameters={"word": "word.txt"},
    declared=("word.txt",),
    outputs={"reverse/reversed.twice": "CBA\nCBA\n"},
)


def stage(name, needs, cmd, *, parameters=None, publisher=None, **scheduler):
    return {
        "name": name,
        "dependencies": needs,
        "scheduler": {
            "scheduler_type": "multistep-stage" if "scatter" in scheduler else "singlestep-stage",
            "parameters": {"out": "{workdir}/out", **(parameters or {})},
            "step": {
                "process": {"process_type": "string-interpolated-cmd", "cmd": cmd},
                "environment": {"environment_type": "localproc-env"},
                "publisher": publisher or {"publisher_type": "frompar-pub", "outputmap": {"out": "out"}},
            },
            **scheduler,
        },
    }


class TestYadage(EngineContract):
    engine_libraries = ("yadage", "packtivity", "adage", "yadageschemas", "jq", "networkx", "jsonpath_rw")

    @pytest.fixture
    def engine(self):
        YadageEngine.preload()  # once, and not in every process that the kit forks
        return YadageEngine()

    @pytest.fixture
    def two_steps(self):
        return TWO_STEPS

    @pytest.fixture
    def edits(self):
        def edited(outputs, **files):
            made = {"reverse/reversed.twice": outputs}
            return replace(TWO_STEPS, files={**TWO_STEPS.files, **files}, outputs=made)

        return {
            "command": edited("ABC\nABC\n", **{"steps.yml": STEPS.replace("rev {upper}", "cat {upper}")}),
            "input": edited("WEN\nWEN\n", **{"word.txt": "new\n"}),
            "environment": edited("CBA\nCBA\n", **{"steps.yml": STEPS.replace("'3.12'", "'3.13'")}),
        }

    @pytest.fixture
    def scattered(self):
        numbers = {"step": "init", "output": "numbers"}
        glob = {"publisher_type": "fromglob-pub", "globexpression": "o*", "outputkey": "out"}
        collect = {"stages": "sub[*].square", "output": "out", "flatten": True}
        square = stage(
            "square",
            ["init"],
            "echo $(( {x} * {x} )) > {out}",
            parameters={"x": {"step": "init", "output": "x"}},
            publisher=glob,
        )
        sub = stage(
            "sub", ["init"], "", parameters={"x": numbers}, scatter={"method": "zip", "parameters": ["x"]}
        )
        del sub["scheduler"]["step"], sub["scheduler"]["parameters"]["out"]
        sub["scheduler"]["workflow"] = {"stages": [square]}
        add = stage("add", ["sub"], "cat {parts} > {out}", parameters={"parts": collect})
        flow = yaml.safe_dump({"stages": [sub, add]})
        return Sample(
            files={"flow.yml": flow},
            file="flow.yml",
            parameters={"numbers": [1, 2, 3]},
            outputs={"add/out": "1\n4\n9\n"},
        )

    @pytest.fixture
    def failing(self):
        stages = [
            stage("a", [], "touch {out}"),
            stage("b", ["a"], "exit 3", parameters={"a": {"step": "a", "output": "out"}}),
            stage("c", ["b"], "touch {out}", parameters={"b": {"step": "b", "output": "out"}}),
        ]
        return Sample(files={}, specification={"stages": stages}, step="b")

    @pytest.fixture
    def incomplete(self):
        publisher = {"publisher_type": "fromyaml-pub", "yamlfile": "result.yml"}
        stages = [stage("a", [], "touch {out}"), stage("b", ["a"], "true", publisher=publisher)]
        return Sample(files={}, specification={"stages": stages}, step="b")

    @pytest.fixture
    def broken(self):
        return Sample(
            files={**TWO_STEPS.files, "flow.yml": WORKFLOW.replace("output: word}", "output: wrd}")},
            file="flow.yml",
            parameters={"word": "word.txt"},
            problem="there is no initial parameter 'wrd'",
            line=7,
        )
