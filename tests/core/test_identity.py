"""Identities, keys and tags: what each depends on, and what it never depends on."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from drawbar.identity import canonical_json, difference, directory_name, key_document, key_of, tag_of
from drawbar.model import Input, JobSpec, Resources
from hypothesis import given
from hypothesis import strategies as st

SPEC = JobSpec(
    identity="1:fit.0",
    name="fit",
    step="fit",
    argv=("bash", "-c", "python fit.py"),
    directory="/run/a",
    canonical={"command": "python fit.py", "after": "0" * 64},
    image="python:3.12",
    inputs=(Input(path="/run/a/fit.py", name="fit.py"), Input(path="/run/a/data.csv", name="data.csv")),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def contents(path: str) -> str:
    return Path(path).name


@given(JSON)
def test_equal_values_have_equal_text(value):
    text = canonical_json(value)
    text.decode("ascii")
    if isinstance(value, dict):
        assert canonical_json(dict(reversed(value.items()))) == text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2, "a": 3}, object(), Path("/x")])
def test_what_has_no_canonical_text_is_refused(value):
    with pytest.raises(ValueError, match=r"canonical|JSON"):
        canonical_json(value)


def test_the_key_depends_on_canonical_form_inputs_and_image():
    key = key_of(SPEC, contents)
    assert re.fullmatch("[0-9a-f]{64}", key)
    for changed in (
        replace(SPEC, canonical={"command": "python other.py"}),
        replace(SPEC, inputs=SPEC.inputs[:1]),
        replace(SPEC, image=None),
    ):
        assert key_of(changed, contents) != key
    assert key_of(SPEC, lambda path: contents(path) + "edited") != key


def test_the_key_does_not_depend_on_place_resources_or_order_of_inputs():
    moved = replace(
        SPEC,
        identity="other",
        directory="/elsewhere",
        argv=("sh",),
        backend="slurm",
        resources=Resources(cpus=8),
        environment={"REANA_WORKSPACE": "/elsewhere"},
        inputs=tuple(
            Input(path=each.path.replace("/run", "/moved"), name=each.name) for each in reversed(SPEC.inputs)
        ),
    )
    assert key_of(moved, contents) == key_of(SPEC, contents)


def test_tags_differ_by_run_its_creation_identity_try_key_and_attempt():
    parts = ("run", 1.5, "identity", 1, "key", 1)
    tags = {tag_of(*parts)}
    tags |= {tag_of(*parts[:i], 2 if i in (1, 3, 5) else "x", *parts[i + 1 :]) for i in range(6)}  # type: ignore[arg-type]
    assert len(tags) == 7
    assert all(re.fullmatch("[a-z][a-z0-9-]{0,62}", tag) for tag in tags)


@given(st.text(min_size=1))
def test_a_directory_name_is_safe(identity):
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", directory_name(identity))


def test_directory_names_are_readable_and_unique():
    names = [directory_name(each) for each in ("a/b", "a-b", "a b", "../..", "x" * 300, "x" * 301)]
    assert len(set(names)) == 6
    assert names[0].startswith("a-b-")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, ""),
        (
            {"canonical": {"command": "make", "after": "0" * 64}},
            "command changed from 'python fit.py' to 'make'",
        ),
        ({"canonical": {**SPEC.canonical, "after": "1" * 64}}, "a job before it changed"),
        ({"canonical": {"command": "python fit.py"}}, "after is gone"),
        ({"canonical": {**SPEC.canonical, "environment": {"A": "1"}}}, "environment is new"),
        ({"canonical": {**SPEC.canonical, "command": "x" * 1000}}, "command changed"),
        ({"image": None}, "image changed from 'python:3.12' to none"),
        ({"inputs": ()}, "input data.csv is no longer one; input fit.py is no longer one"),
        ({"inputs": (*SPEC.inputs, Input(path="/a", name="a"))}, "input a is new"),
    ],
)
def test_a_change_is_told_in_words(changed, words):
    new = replace(SPEC, **changed)
    assert difference(key_document(SPEC, contents), key_document(new, contents)) == words


def test_a_changed_input_is_named():
    old = key_document(SPEC, contents)
    new = key_document(SPEC, lambda path: "new" if contents(path) == "fit.py" else contents(path))
    assert difference(old, new) == "input fit.py changed"
