"""Mistakes are found before anything runs, with file, line and remedy."""

# A line for each mistake is longer than others may be.
# ruff: noqa: E501

import time
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from drawbar.errors import InfrastructureError, SpecError
from drawbar_yadage.engine import YadageEngine

WORKFLOW = """\
stages:
  - name: generate
    dependencies: [init]
    scheduler:
      scheduler_type: multistep-stage
      parameters:
        seed: {step: init, output: seeds}
        events: '{workdir}/events'
      scatter: {method: zip, parameters: [seed]}
      step:
        process: {process_type: string-interpolated-cmd, cmd: 'make {seed} > {events}'}
        environment: {environment_type: docker-encapsulated, image: generator}
        publisher: {publisher_type: frompar-pub, outputmap: {sample: events}}
  - name: analyse
    dependencies: [generate]
    scheduler:
      scheduler_type: singlestep-stage
      parameters:
        samples: {stages: generate, output: sample}
        cut: {step: init, output: cut}
        out: '{workdir}/result'
      step:
        process: {process_type: interpolated-script-cmd, script: 'run {samples} {cut} > {out}'}
        environment: {environment_type: localproc-env}
        publisher: {publisher_type: interpolated-pub, publish: {result: '{out}'}}
  - name: inner
    dependencies: [analyse]
    scheduler:
      scheduler_type: singlestep-stage
      parameters:
        result: {step: analyse, output: result}
      workflow:
        stages:
          - name: show
            dependencies: [init]
            scheduler:
              scheduler_type: singlestep-stage
              parameters: {result: {step: init, output: result}}
              step:
                process: {process_type: string-interpolated-cmd, cmd: 'cat {result}'}
                environment: {environment_type: localproc-env}
                publisher: {publisher_type: constant-pub, publish: {}}
"""
PARAMETERS = {"seeds": [1, 2], "cut": 3}


def inspect(flow, text, parameters=PARAMETERS):
    return YadageEngine().inspect(flow.source(text, parameters))


def problems(flow, text, parameters=PARAMETERS):
    with pytest.raises(SpecError) as caught:
        inspect(flow, text, parameters)
    return caught.value.problems


def test_a_right_workflow_has_its_steps_told(flow):
    info = inspect(flow, WORKFLOW)
    assert info.warnings == ()
    assert [(step.name, step.image, step.depends_on, step.jobs, step.line) for step in info.steps] == [
        ("generate", "generator:latest", (), None, 2),
        ("analyse", None, ("generate",), 1, 14),
        ("inner/show", None, ("analyse",), None, 34),
    ]


@pytest.mark.parametrize(
    ("old", "new", "message", "hint", "line"),
    [
        (
            "output: seeds}",
            "output: seed}",
            "there is no initial parameter 'seed'",
            "did you mean 'seeds'?",
            7,
        ),
        (
            "output: sample}",
            "output: smaple}",
            "there is no output 'smaple' of stage 'generate'",
            "did you mean 'sample'?",
            19,
        ),
        (
            "stages: generate,",
            "stages: generat,",
            "there is no stage 'generat'",
            "did you mean 'generate'?",
            19,
        ),
        (
            "dependencies: [generate]",
            "dependencies: [generator]",
            "there is no stage 'generator'",
            "did you mean 'generate'?",
            15,
        ),
        (
            "{samples} {cut}",
            "{sample} {cut}",
            "uses {sample}, which is no parameter of it",
            "did you mean 'samples'?",
            23,
        ),
        (
            "make {seed}",
            "do {print $1}",
            "uses {print $1}, which is no parameter of it",
            "double a brace",
            11,
        ),
        ("make {seed}", "make {seed", "cannot be filled in", "double a brace", 11),
        (
            "> {events}",
            "> {workdir}/x",
            "uses {workdir}, which is no parameter of it",
            "workdir: '{workdir}'",
            11,
        ),
        (
            "{sample: events}",
            "{sample: event}",
            "publishes 'event', which is no parameter of it",
            "did you mean 'events'?",
            13,
        ),
        ("parameters: [seed]", "parameters: [sed]", "scatters over 'sed'", "did you mean 'seed'?", 9),
        ("method: zip", "method: zap", "'zip' or 'cartesian', not 'zap'", None, 9),
        (
            "multistep-stage",
            "multistp-stage",
            "unknown scheduler_type 'multistp-stage'",
            "did you mean 'multistep-stage'?",
            5,
        ),
        ("image: generator", "imag: generator", "has no 'image'", None, 12),
        ("image: generator", "imag: generator", "unknown key 'imag'", "did you mean 'image'?", 12),
        (
            "image: generator}",
            "image: generator, resources: [{kubernetes_memory_limit: lots}]}",
            "kubernetes_memory_limit: 'lots' is no quantity",
            None,
            12,
        ),
        (
            "process_type: interpolated-script-cmd, ",
            "",
            "has no 'process_type'",
            "one of: interpolated-script-cmd",
            23,
        ),
        (
            "publish: {result: '{out}'}",
            "publish: {result: '{ou}'}",
            "uses {ou}, which is no parameter",
            "did you mean 'out'?",
            25,
        ),
        (
            "step: init, output: result",
            "step: init, output: results",
            "there is no initial parameter 'results'",
            "did you mean 'result'?",
            38,
        ),
        ("- name: analyse", "- name: generate", "another stage has the same name", None, 14),
        (
            "- name: inner",
            "- name: ../inner",
            "'../inner' cannot be the name of a directory",
            "use letters",
            26,
        ),
        ("- name: inner", "- name: init", "'init' is a name that yadage uses itself", "choose another", 26),
        (
            "dependencies: [init]",
            "dependencies: [inner]",
            "stages wait for one another: generate → inner → analyse → generate",
            None,
            2,
        ),
        ("stages: generate,", "stages: 'generate[',", "is no JSONPath", None, 19),
        ("      workflow:\n", "      flow:\n", "unknown key 'flow'", "did you mean 'workflow'?", 32),
        (
            "environment_type: localproc-env",
            "environment_type: manual-instructions-env, instructions: x",
            "by hand",
            None,
            22,
        ),
        (
            "scheduler:\n      scheduler_type: singlestep-stage\n      parameters:\n        samples",
            "scheduler:\n      scheduler_type: singlestep-stage\n      cases: []\n      parameters:\n        samples",
            "one of 'step', 'workflow' and 'cases'",
            None,
            16,
        ),
    ],
)
def test_a_mistake_is_told_with_its_place(flow, old, new, message, hint, line):
    assert old in WORKFLOW
    found = problems(flow, WORKFLOW.replace(old, new, 1))
    matching = [each for each in found if message in each.message]
    assert matching, f"{message!r} is not among {[each.message for each in found]}"
    assert (matching[0].file, matching[0].line) == ("workflow.yml", line)
    assert hint is None or hint in (matching[0].hint or "")


def test_every_mistake_is_told_at_once(flow):
    text = WORKFLOW.replace("output: seeds", "output: s").replace("{cut} >", "{ct} >")
    assert len([each for each in problems(flow, text) if each.severity == "error"]) == 2


def test_a_parameter_that_no_stage_uses_is_a_warning(flow):
    (warning,) = inspect(flow, WORKFLOW, {**PARAMETERS, "cuts": 4}).warnings
    assert (
        warning.startswith("parameter 'cuts' is not used by any stage (did you mean 'cut'?)")
        or "cuts" in warning
    )


def test_a_parameter_that_a_step_does_not_use_is_a_warning(flow):
    text = WORKFLOW.replace("{cut} >", ">")
    assert any("parameter 'cut' is not used by the step" in each for each in inspect(flow, text).warnings)


def test_credentials_and_unknown_resources_are_warnings(flow):
    text = WORKFLOW.replace("image: generator}", "image: generator, resources: [GRIDProxy, GPUs]}")
    first, second = inspect(flow, text).warnings
    assert "workflow.yml:12: step generate: unknown resource 'GPUs', left to the backend" in first
    assert "asks for voms_proxy, and drawbar provides no credentials of its own" in second


def test_kerberos_is_a_warning_too(flow):
    text = WORKFLOW.replace("image: generator}", "image: generator, resources: [KRB5Auth]}")
    (told,) = inspect(flow, text).warnings
    assert "asks for kerberos, and drawbar provides no credentials of its own" in told


def test_selecting_without_depending_is_a_warning(flow):
    text = WORKFLOW.replace("dependencies: [generate]", "dependencies: [init]")
    assert any("without depending on it" in each for each in inspect(flow, text).warnings)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nowhere.yml#/x", "there is no nowhere.yml"),
        ("workflow.yml#/nothing", "there is no '/nothing' in workflow.yml"),
        ("../../etc/passwd", "there is no"),
        ("#", "leads back to itself"),
        ("https://example.org/x.yml", "is on the network"),
        ("github:some/where:x.yml", "is on the network"),
    ],
)
def test_a_reference_that_leads_nowhere(flow, reference, message):
    (problem,) = problems(flow, f"stages:\n  - {{$ref: '{reference}'}}\n")
    assert message in problem.message
    assert (problem.file, problem.line) == ("workflow.yml", 2)


def test_a_remote_toplevel_is_refused(flow):
    flow.options = {"toplevel": "github:yadage/somewhere@main"}
    (problem,) = problems(flow, WORKFLOW)
    assert "the toplevel 'github:yadage/somewhere@main' is on the network" in problem.message
    assert "git clone" in (problem.hint or "")


def test_references_that_explode_are_refused_soon(flow):
    doubling = [f"a{n}: [{{$ref: '#/a{n + 1}'}}, {{$ref: '#/a{n + 1}'}}]" for n in range(40)]
    text = "\n".join(["stages: {$ref: '#/a0'}", *doubling, "a40: 1"])
    began = time.process_time()
    assert "more than" in problems(flow, text)[0].message
    assert time.process_time() - began < 30


def test_an_inline_workflow_has_the_lines_of_its_document(flow):
    source = flow.source(WORKFLOW)
    stages = [{"name": "a", "scheduler": {"scheduler_type": "singlestep-stage", "step": 3}}]
    lines = {"workflow.specification.stages.0.scheduler.step": 12}
    source = replace(source, file=None, specification={"stages": stages}, lines=lines)
    with pytest.raises(SpecError) as caught:
        YadageEngine().inspect(source)
    assert caught.value.problems[0].line == 12


def test_workflows_are_recognised(flow):
    engine = YadageEngine()
    flow.source(WORKFLOW)
    (flow.workspace / "other.yml").write_text("steps: []\n")
    assert engine.recognises(flow.workspace / "workflow.yml")
    assert not engine.recognises(flow.workspace / "other.yml")


def test_unknown_options_of_data_are_told(flow):
    flow.options = {"dataopts": {"initdri": "x"}}
    assert problems(flow, WORKFLOW)[0].hint == "did you mean 'initdir'?"
    flow.options = {"dataopts": {"inputarchive": "https://example.org/x.zip"}}
    assert "is on the network" in problems(flow, WORKFLOW)[0].message
    flow.options = {"dataopts": {"nest": False}}
    assert "share one directory" in problems(flow, WORKFLOW)[0].message


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    """A directory, and the address that it is served under."""
    directory = tmp_path / "served"
    directory.mkdir()
    handler = partial(Quiet, directory=directory)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield directory, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_a_toplevel_is_fetched_when_the_user_allows_it(flow, served):
    directory, address = served
    (directory / "flows").mkdir()
    (directory / "flows/main.yml").write_text("stages: [{$ref: 'more/stage.yml#/a'}]\n")
    (directory / "flows/more").mkdir()
    (directory / "flows/more/stage.yml").write_text("a: {$ref: '../b.yml'}\n")
    text = WORKFLOW.replace("stages:\n  - name: generate", "name: generate").partition("  - name: analyse")[0]
    (directory / "flows/b.yml").write_text(text.replace("\n    ", "\n"))
    flow.options = {"toplevel": f"{address}flows", "allow_network": True}
    source = replace(flow.source(WORKFLOW, PARAMETERS), file=flow.workspace / "main.yml")
    assert [step.name for step in YadageEngine().inspect(source).steps] == ["generate"]
    (directory / "flows/b.yml").unlink()
    with pytest.raises(InfrastructureError, match="cannot be fetched"):
        YadageEngine().inspect(source)


def test_an_analysis_cannot_allow_itself_the_network(flow):
    flow.options = {"toplevel": "github:some/where", "allow_network": True}
    source = replace(flow.source(WORKFLOW), document=flow.workspace / "reana.yaml")
    source.document.write_text("inputs: {options: {allow_network: true}}\n")
    with pytest.raises(SpecError, match="cannot allow itself the network"):
        YadageEngine().inspect(source)
