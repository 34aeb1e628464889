"""`--until STEP` runs a step and what it needs, and nothing else."""

from dataclasses import replace

import pytest
from drawbar.engine import Source
from drawbar.errors import SpecError
from drawbar_yadage.engine import YadageEngine

NUMBERS = {"step": "init", "output": "numbers"}


@pytest.fixture
def until(flow):
    """Runs stages until a step; returns the identities of the jobs that ran."""

    def run(stages, step, **parameters):
        source = flow.source
        flow.source = lambda *given: replace(source(*given), until=step)
        flow.run(stages, **parameters)
        flow.source = source
        assert flow.failure is None
        return sorted(flow.jobs.executed)

    return run


def names(source: Source, step=None):
    return [each.name for each in YadageEngine().inspect(replace(source, until=step)).steps]


def chain(stage):
    inner = [
        stage("one", needs=["init"], parameters={"x": {"step": "init", "output": "x"}}),
        stage("two", needs=["one"], parameters={"x": {"step": "one", "output": "out"}}),
        stage("other", needs=["init"]),
    ]
    scatter = {"method": "zip", "parameters": ["x"]}
    sub = {"parameters": {"x": NUMBERS}, "workflow": {"stages": inner}, "scatter": scatter}
    return [
        stage("before", needs=["init"]),
        stage("aside", needs=["init"]),
        stage("sub", needs=["before"], **sub),
        stage("after", needs=["sub"], parameters={"x": {"stages": "sub[*].two", "output": "out"}}),
    ]


def test_a_step_and_what_it_waits_for(flow, stage, until):
    assert until(chain(stage), "before", numbers=[1, 2]) == ["before/0"]


def test_a_whole_sub_workflow(flow, stage, until):
    inner = [f"sub/{n}/{name}/0" for n in (0, 1) for name in ("one", "other", "two")]
    assert until(chain(stage), "sub", numbers=[1, 2]) == ["before/0", *inner]


def test_a_step_of_a_sub_workflow(flow, stage, until):
    assert until(chain(stage), "sub/one", numbers=[1, 2]) == ["before/0", "sub/0/one/0", "sub/1/one/0"]
    source = flow.source(chain(stage), {"numbers": [1, 2]})
    assert names(source, "sub/one") == ["before", "sub/one"]
    assert names(source, "after") == ["before", "sub/one", "sub/two", "sub/other", "after"]
    assert "aside" in names(source)


def test_going_on_after_the_step_repeats_nothing(flow, stage, until):
    until(chain(stage), "before", numbers=[1])
    flow.run(chain(stage), numbers=[1])
    assert "before/0" not in flow.jobs.executed
    assert "after/0" in flow.jobs.executed


def test_what_registers_a_value_is_needed_for_it(flow, stage, until):
    one = {"expression_type": "stage-output-selector", "step": "b", "output": "out"}
    registered = {"expression_type": "fromvalue", "key": "kept"}
    stages = [
        stage("b"),
        stage("a", needs=["b"], register_values={"kept": one}),
        stage("c", needs=["init"]),
        stage("d", needs=["a"], parameters={"x": registered}),
    ]
    assert until(stages, "d") == ["a/0", "b/0", "d/0"]


def test_a_condition_of_expressions_is_needed(flow, stage, until):
    files = {"expression_type": "stage-output-selector", "stages": "a", "output": "out"}
    condition = {"dependency_type": "expressions_fulfilled", "expressions": [files]}
    assert until([stage("a"), stage("b"), stage("c", needs=condition)], "c") == ["a/0", "c/0"]


def test_every_case_of_a_stage_is_its_step(flow, stage, until):
    body = stage("x")["scheduler"]["step"]
    cases = [{"if": "false", "step": body}, {"if": "true", "step": body}]
    stages = [stage("a", cases=cases), stage("b", needs=["a"])]
    assert until(stages, "a#2") == ["a/0"]
    assert names(flow.source(stages), "a#2") == ["a", "a#2"]


@pytest.mark.parametrize(
    ("step", "hint"),
    [("befor", "did you mean 'before'?"), ("sub/on", "did you mean 'sub/one'?"), ("", "one of: ")],
)
def test_a_step_that_there_is_not(flow, stage, step, hint):
    source = replace(flow.source(chain(stage), {"numbers": [1]}), until=step)
    with pytest.raises(SpecError) as caught:
        YadageEngine().inspect(source)
    (problem,) = caught.value.problems
    assert problem.message == f"there is no step {step!r} to end with"
    assert problem.hint.startswith(hint)


def test_a_step_depends_on_what_a_stage_without_jobs_passes_on(flow, stage):
    passing = {"environment": {"environment_type": "noop-env"}}
    x = {"parameters": {"x": {"step": "pass", "output": "out"}}}
    stages = [stage("a"), stage("pass", needs=["a"], **passing), stage("b", needs=["pass"], **x)]
    info = YadageEngine().inspect(flow.source(stages))
    assert [(step.name, step.depends_on) for step in info.steps] == [("a", ()), ("b", ("a",))]
