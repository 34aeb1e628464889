"""The job model: invariants, transitions, JSON form, and the schemas that describe it."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import drawbar
import jsonschema
import pytest
from drawbar.codec import CodecError, decode, dumps, encode
from drawbar.model import (
    RUN_TRANSITIONS,
    TRANSITIONS,
    FileRecord,
    Input,
    JobResult,
    JobSpec,
    JobState,
    Mount,
    Reason,
    Resources,
    RetryPolicy,
    RunSpec,
    RunState,
    judge,
)
from hypothesis import given
from hypothesis import strategies as st

SCHEMAS = Path(drawbar.__file__).parent / "schema"
DOCUMENTS = {"job": JobSpec, "result": JobResult, "run": RunSpec}


def schema_of(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return {}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [schema_of(argument, definitions) for argument in arguments]}
    if hint is type(None):
        return {"type": "null"}
    if origin is tuple:
        return {"type": "array", "items": schema_of(arguments[0], definitions)}
    if origin is not None:
        return {"type": "object", "additionalProperties": schema_of(arguments[1], definitions)}
    if dataclasses.is_dataclass(hint):
        if hint.__name__ not in definitions:
            definitions[hint.__name__] = {}
            definitions[hint.__name__] = object_of(hint, definitions)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    if issubclass(hint, Enum):
        return {"enum": [each.value for each in hint]}
    return {"type": {str: "string", int: "integer", float: "number", bool: "boolean"}[hint]}


def object_of(cls: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)
    missing = dataclasses.MISSING
    return {
        "type": "object",
        "properties": {field.name: schema_of(hints[field.name], definitions) for field in fields},
        "required": [
            field.name for field in fields if field.default is missing and field.default_factory is missing
        ],
        "additionalProperties": False,
    }


def document_schema(name: str, cls: Any) -> dict[str, Any]:
    definitions: dict[str, Any] = {}
    schema = object_of(cls, definitions)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:drawbar:schema:{name}:v1",
        "title": cls.__doc__.splitlines()[0],
    }
    return {**head, **schema, **({"$defs": definitions} if definitions else {})}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_schema_and_type_say_the_same(name: str) -> None:
    committed = json.loads((SCHEMAS / f"{name}-v1.schema.json").read_text())
    assert committed == document_schema(name, DOCUMENTS[name])


texts = st.text(st.characters(blacklist_characters="\0", codec="utf-8"), max_size=20)
paths = texts.map(lambda text: "/" + text)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
resources = st.builds(
    Resources,
    cpus=st.floats(0.1, 64),
    memory_mib=st.none() | st.integers(1, 10**6),
    gpus=st.integers(0, 8),
    walltime_s=st.none() | st.floats(1, 10**6),
)
jobs = st.builds(
    JobSpec,
    identity=texts.filter(bool),
    name=texts,
    step=texts,
    argv=st.lists(texts, min_size=1, max_size=4).map(tuple),
    directory=paths,
    canonical=values,
    try_number=st.integers(1, 5),
    image=st.none() | texts,
    environment=st.dictionaries(st.from_regex(r"[A-Z_]+", fullmatch=True), texts, max_size=3),
    mounts=st.lists(st.builds(Mount, source=paths, target=paths, read_only=st.booleans()), max_size=2).map(
        tuple
    ),
    inputs=st.lists(st.builds(Input, path=paths, name=texts), max_size=2).map(tuple),
    resources=resources,
    retry=st.none() | st.builds(RetryPolicy, infrastructure=st.integers(0, 9)),
    hints=st.dictionaries(texts, st.dictionaries(texts, values, max_size=2), max_size=2),
)


@given(jobs)
def test_a_job_survives_its_json_form_and_fits_its_schema(job: JobSpec) -> None:
    document = json.loads(dumps(job))
    assert document == json.loads(json.dumps(encode(job)))
    assert decode(JobSpec, document) == job
    jsonschema.validate(document, json.loads((SCHEMAS / "job-v1.schema.json").read_text()))


def test_what_is_inside_plain_values_is_encoded_wherever_it_is() -> None:
    inner = types.MappingProxyType({"mounts": (Mount(source="/a", target="/b"),), "state": JobState.QUEUED})
    value = {"deep": [{"record": inner}], "reason": Reason.LOST}
    text = '{"deep":[{"record":{"mounts":[{"source":"/a","target":"/b"}],"state":"queued"}}],"reason":"lost"}'
    assert dumps(value) == json.dumps(encode(value), separators=(",", ":")) == text


def test_what_has_no_json_form_is_refused() -> None:
    with pytest.raises(TypeError, match="no JSON: set"):
        dumps({"numbers": {1, 2}})


@given(jobs, st.data())
def test_decode_refuses_what_the_schema_refuses(job: JobSpec, data: st.DataObject) -> None:
    document = json.loads(json.dumps(encode(job)))
    field = data.draw(st.sampled_from(sorted(document)))
    document[field] = data.draw(values)
    schema = json.loads((SCHEMAS / "job-v1.schema.json").read_text())
    if not jsonschema.Draft202012Validator(schema).is_valid(document):
        with pytest.raises(CodecError, match=field):
            decode(JobSpec, document)


def test_unknown_and_missing_fields_are_named() -> None:
    with pytest.raises(CodecError, match="unknown field 'cpu'"):
        decode(Resources, {"cpu": 2})
    with pytest.raises(CodecError, match="path"):
        decode(FileRecord, {"size": 1})
    with pytest.raises(CodecError, match="expected an object"):
        decode(Resources, [])


def test_states_go_forward_only() -> None:
    order = list(JobState)
    for state, following in TRANSITIONS.items():
        assert all(order.index(each) > order.index(state) for each in following)
        assert state.terminal == (not following)
    assert set(TRANSITIONS) == set(JobState)
    assert TRANSITIONS[JobState.SUBMITTED] > TRANSITIONS[JobState.RUNNING]


def test_an_ended_run_can_only_be_resumed() -> None:
    assert set(RUN_TRANSITIONS) == set(RunState)
    for state in RunState:
        if state.terminal:
            assert RUN_TRANSITIONS[state] == {RunState.RUNNING}
    assert RunState.FINISHED in RUN_TRANSITIONS[RunState.RUNNING]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"identity": ""}, "identity"),
        ({"argv": ()}, "command"),
        ({"argv": ("a\0b",)}, "NUL"),
        ({"environment": {"A=B": "x"}}, "environment"),
        ({"directory": "here"}, "absolute"),
        ({"stdout": "log"}, "stdout must be an absolute path"),
        ({"outputs": ("x",)}, "absolute"),
        ({"try_number": 0}, "try_number"),
    ],
)
def test_an_impossible_job_cannot_be_made(wrong: Mapping[str, Any], message: str) -> None:
    right: dict[str, Any] = {
        "identity": "a",
        "name": "a",
        "step": "a",
        "argv": ("true",),
        "directory": "/",
        "canonical": None,
    }
    with pytest.raises(ValueError, match=message):
        JobSpec(**{**right, **wrong})


@pytest.mark.parametrize(
    "wrong", [{"cpus": 0}, {"gpus": -1}, {"memory_mib": 0}, {"walltime_s": -1.0}, {"disk_mib": 0}]
)
def test_resources_are_positive(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Resources(**wrong)


def test_a_result_says_what_it_knows() -> None:
    assert JobResult(exit_code=0).state is JobState.FINISHED
    assert JobResult(reason=Reason.LOST).state is JobState.FAILED
    assert JobResult(reason=Reason.CANCELLED).state is JobState.CANCELLED
    with pytest.raises(ValueError, match="exit code"):
        JobResult()


def test_exit_codes_are_judged_by_the_specification() -> None:
    spec = JobSpec(
        identity="a",
        name="a",
        step="a",
        argv=("true",),
        directory="/",
        canonical=None,
        success_codes=(0, 3),
        temporary_codes=(75,),
    )
    assert [judge(spec, code) for code in (0, 3, 75, 1)] == [None, None, Reason.TEMPORARY, Reason.EXIT_CODE]
