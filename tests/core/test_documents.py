"""Documents are read safely: JSON values only, the line of each, and nothing explodes."""

import json
import resource
import time
from pathlib import Path

import pytest
import yaml
from drawbar import documents
from drawbar.documents import Limits, brief, load, parse, scalar
from drawbar.errors import SpecError
from hypothesis import given, settings
from hypothesis import strategies as st


def problem_of(text, **arguments):
    with pytest.raises(SpecError) as caught:
        parse(text, "file", **arguments)
    (problem,) = caught.value.problems
    assert problem.file == "file"
    return problem


def bomb(levels=30, width=9):
    lines = ["a0: &a0 [" + ",".join(["x"] * width) + "]"]
    lines += [f"a{i}: &a{i} [" + ",".join([f"*a{i - 1}"] * width) + "]" for i in range(1, levels)]
    return "\n".join(lines)


def test_values_are_those_of_json():
    text = """\
text: plain
number: 12
hex: 0x10
real: 1.5
yes_is_true: yes
nothing:
quoted: "12"
date: 2024-01-31
list: [a, 1, null]
tagged: !!str 12
"""
    value = parse(text, "file").value
    assert value == {
        "text": "plain",
        "number": 12,
        "hex": 16,
        "real": 1.5,
        "yes_is_true": True,
        "nothing": None,
        "quoted": "12",
        "date": "2024-01-31",
        "list": ["a", 1, None],
        "tagged": "12",
    }


def test_keys_are_text_as_written():
    assert parse("404958: a\non: b\n~: c\n", "file").value == {"404958": "a", "on": "b", "~": "c"}


def test_every_place_has_its_line():
    text = """\
# a comment
workflow:
  specification:
    steps:
      - name: one
        commands:
          - first
          - >
            second
            and more
"""
    lines = parse(text, "file").lines
    assert lines == {
        "": 2,
        "workflow": 2,
        "workflow.specification": 3,
        "workflow.specification.steps": 4,
        "workflow.specification.steps.0": 5,
        "workflow.specification.steps.0.name": 5,
        "workflow.specification.steps.0.commands": 6,
        "workflow.specification.steps.0.commands.0": 7,
        "workflow.specification.steps.0.commands.1": 8,
    }


def test_an_alias_is_a_value_of_its_own():
    document = parse("a: &a {b: [1]}\nc: *a\nd:\n  - *a\n", "file")
    assert document.value == {"a": {"b": [1]}, "c": {"b": [1]}, "d": [{"b": [1]}]}
    assert document.value["a"] is not document.value["c"]
    assert (document.lines["c"], document.lines["d.0"], document.lines["c.b"]) == (2, 4, 1)


def test_merge_keys():
    text = "a: &a {x: 1, y: 1}\nb: &b {x: 2, z: 2}\nc: {<<: [*a, *b], y: 3}\nd: {'<<': 4}\n"
    value = parse(text, "file").value
    assert value["c"] == {"x": 1, "y": 3, "z": 2}
    assert value["d"] == {"<<": 4}
    assert value == {**yaml.safe_load(text), "d": {"<<": 4}}


def test_an_empty_document_is_null():
    document = parse("# nothing\n", "file")
    assert (document.value, document.lines) == (None, {"": 1})


def test_json_has_lines_too(tmp_path):
    file = tmp_path / "parameters.json"
    file.write_text('{\n "a": [1,\n  {"b\\n": 1e3}],\n "c": "\\ud83d\\ude00 \\" {"\n}\n')
    document = load(file)
    assert document.value == {"a": [1, {"b\n": 1000.0}], "c": '😀 " {'}
    assert document.lines == {"": 1, "a": 2, "a.0": 2, "a.1": 3, "a.1.b\n": 3, "c": 4}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "the key 'a' is given twice, first on line 1"),
        ("a:\n  b: .nan\n", 2, "'.nan' is not a finite number"),
        ("a: -.inf", 1, "'-.inf' is not a finite number"),
        ("a: 1.0e+999", 1, "'1.0e+999' is not a finite number"),
        ("a: 1\nb: [1\n", 2, "not valid YAML"),
        ("a: 'b", 1, "not valid YAML"),
        ("a: \x01", 1, "not valid YAML"),
        ("a: *b", 1, "the alias *'b' has no anchor"),
        ("a: &a\n  - *a", 2, "the alias *'a' refers to what it is part of"),
        ("a: 1\n? [b]\n: 2", 2, "a key must be text"),
        ("a: 1\n---\nb: 2\n", 2, "a second document begins here"),
        ("a: !!python/object:os.system x", 1, "the tag !!python/object:os.system is not allowed"),
        ("a: !!python/object/new:os.system [x]", 1, "the tag !!python/object/new:os.system is not allowed"),
        ("a: !!binary aGVsbG8=", 1, "the tag !!binary is not allowed"),
        ("a: !mine {b: 1}", 1, "the tag !mine is not allowed"),
        ("a: !!int x", 1, "'x' is no !!int"),
        ("a: 0b_", 1, "'0b_' is no !!int"),
        ("a: !!bool maybe", 1, "'maybe' is no !!bool"),
        ("a: {<<: 1}", 1, "only mappings can be merged"),
        ("a: &a {b: 1}\nc:\n  <<: *a\n  <<: *a\n", 4, "<< is given twice"),
    ],
)
def test_yaml_mistakes(text, line, message):
    problem = problem_of(text)
    assert problem.line == line
    assert message in problem.message


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('{"a": 1,\n "a": 2}', 2, "the key 'a' is given twice, first on line 1"),
        ('{"a":\n NaN}', 2, "NaN is not a finite number"),
        ("[-Infinity]", 1, "-Infinity is not a finite number"),
        ("[1e999]", 1, "1e999 is not a finite number"),
        ("[" + "9" * 5000 + "]", 1, "is too long for a number"),
        ('["\\ud800"]', 1, "half of a character"),
        ('{"a":\n 1,}', 2, "not valid JSON"),
        ("", 1, "not valid JSON"),
        ("[" * 100_000 + "]" * 100_000, 1, "is nested deeper than 100 levels"),
    ],
)
def test_json_mistakes(text, line, message):
    problem = problem_of(text, json_syntax=True)
    assert problem.line == line
    assert message in problem.message


def test_a_tab_gets_a_hint():
    problem = problem_of("a:\n\t- b\n")
    assert (problem.line, problem.hint) == (2, "indent with spaces, not with tabs")


def test_long_digits_are_text():
    assert parse("a: " + "9" * 200, "file").value == {"a": "9" * 200}
    assert parse("a: 1" + ":59" * 200, "file").value["a"].startswith("1:59")


BOMBS = {
    "aliases": bomb(),
    "wide aliases": bomb(levels=3, width=5000),
    "long text": "a: &a " + "x" * 1_000_000 + "\nb: [" + "*a," * 100_000 + "]",
    "merges": "a: &a {" + ",".join(f"k{i}: 1" for i in range(1000)) + "}\nb: [" + "{<<: *a}," * 1000 + "]",
    "merged lists": bomb() + "\nz: {<<: *a29}",
    "long keys": "? " + "k" * 1_000_000 + "\n: [" + "1," * 1000 + "]",
    "flow depth": "[" * 10_000_000,
    "mapping depth": "{a: " * 2_000_000,
    "block depth": "- " * 5_000_000,
    "question marks": "? " * 5_000_000,
    "indented depth": "".join(" " * i + "a:\n" for i in range(3000)),
    "alias depth": "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 2000)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_cost_no_more_than_a_document_of_ordinary_size(name):
    limits = Limits(bytes=2**30)
    ordinary = "".join(f"key{i}: [1, two, 3.0]\n" for i in range(10_000))
    parse("a: 1", "file")  # imports are not what is measured

    before = time.process_time()
    parse(ordinary, "file", limits=limits)
    budget = time.process_time() - before

    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before = time.process_time()
    problem = problem_of(BOMBS[name], limits=limits)
    assert time.process_time() - before < 5 * budget
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 100_000
    assert "deeper than" in problem.message or "more than" in problem.message or "key must" in problem.message


def test_bombs_are_refused_without_the_c_parser(monkeypatch):
    monkeypatch.setattr(documents, "_LOADER", yaml.SafeLoader)
    assert "more than" in problem_of(bomb()).message
    assert "deeper than" in problem_of("[" * 3000).message


def test_a_large_file_is_refused_unread(tmp_path):
    file = tmp_path / "large.yaml"
    with file.open("wb") as out:
        out.truncate(2**40)
    with pytest.raises(SpecError, match="is larger than"):
        load(file)


@pytest.mark.parametrize("content", [b"a: \xff\n", "a: ü\n".encode("utf-16")])
def test_what_is_not_utf8(tmp_path, content):
    file = tmp_path / "a.yaml"
    file.write_bytes(content)
    with pytest.raises(SpecError, match=r"a\.yaml:1: is not UTF-8 text"):
        load(file)


def test_a_byte_order_mark_is_no_content(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_bytes("\ufeffa: ü\n".encode())
    assert load(file).value == {"a": "ü"}


@pytest.mark.parametrize(
    ("path", "message"),
    [("missing.yaml", "No such file"), (".", "not a regular file"), ("a\0b", "null byte")],
)
def test_what_cannot_be_read(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=message):
        load(Path(path))


def test_brief_values_fit_on_a_line():
    assert brief("a\nb") == r"'a\nb'"
    assert len(brief("x" * 10**6)) < 70
    assert (brief([1]), brief({}), brief(None), brief(1.5)) == ("a list", "a mapping", "null", "1.5")


def test_scalars():
    values = [scalar(text) for text in ("1", "1.5", "true", "null", "a: b", "*x", "# x", "[1]", "")]
    assert values == [1, 1.5, True, None, "a: b", "*x", "# x", "[1]", None]
    with pytest.raises(ValueError, match="not a finite number"):
        scalar(".nan")


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None, max_examples=200)
@given(JSON_VALUES)
def test_json_documents_come_back_as_they_were(value):
    document = parse(json.dumps(value, indent=1), "file", json_syntax=True)
    assert document.value == value


@settings(deadline=None, max_examples=200)
@given(JSON_VALUES)
def test_yaml_documents_come_back_as_they_were(value):
    assert parse(yaml.safe_dump(value), "file").value == value


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet="ab1:-[]{}&*!<>|?'\"\\#%@,. \n\t~", max_size=40), st.booleans())
def test_any_text_is_a_document_or_a_spec_error(text, json_syntax):
    try:
        value = parse(text, "file", json_syntax=json_syntax).value
    except SpecError:
        return
    json.dumps(value, allow_nan=False)
