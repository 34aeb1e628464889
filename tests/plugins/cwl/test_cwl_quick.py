"""What stands in place of slow parts of cwltool and schema-salad does what they do."""

import copy
import json
import re

import pytest
from cwltool.load_tool import jobloaderctx
from cwltool.pathmapper import PathMapper
from cwltool.process import relocateOutputs
from cwltool.stdfsaccess import StdFsAccess
from cwltool.utils import visit_class as plain_visit_class
from drawbar_cwl import linear, shortcuts
from drawbar_cwl.inputobject import InputObjectLoader
from drawbar_cwl.linear import ResultsMapper
from drawbar_cwl.replacing import replaced
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.scalarfloat import ScalarFloat
from schema_salad.exceptions import ValidationException
from schema_salad.ref_resolver import Loader, file_uri
from schema_salad.utils import yaml_no_ts

NUMBERS = "[1.10, 1e5, -0.5, 1E+10, 2.50e-3, 0.0, 0, 10, -3, 123456789012345678901234567890]"
VALUES = '["é", "\\u00e9\\n\\"\\/", true, false, null, {}, [], "1.10", "yes", "a: b"]'
FILES = '[{"class": "File", "location": "a.txt"}, {"class": "File", "path": "../b c.txt"}]'
SPACES = '{"$namespaces": {"e": "http://example.org/"}, "e:x": 1, "cwl:tool": "tool.cwl#main", "id": "i"}'
DOCUMENTS = [f'{{"n": {NUMBERS}, "v": {VALUES}, "f": {FILES}}}', SPACES, "{}", '{"a": {"b": [[[{"c": 1}]]]}}']
FAULTS = ['{"a": 1, "a": 2}', '{"a": [1}', '{"a": {"$import": "b.json", "c": 1}}', '{"a": "', ""]


@pytest.fixture
def read(tmp_path):
    def read(loader, text):
        path = tmp_path / "job.json"
        path.write_text(text)
        return loader(jobloaderctx).resolve_ref(file_uri(str(path)), checklinks=False)[0]

    return read


def written(value):
    """A value with its types, as far as somebody asks for them; numbers as they were written."""
    if isinstance(value, dict):
        return type(value), [(key, written(each)) for key, each in value.items()]
    if isinstance(value, list):
        return type(value), [written(each) for each in value]
    if isinstance(value, ScalarFloat):
        return vars(value), float(value)
    return str(value), value


@pytest.mark.parametrize("text", DOCUMENTS)
def test_an_input_object_in_json_is_what_it_is_in_yaml(read, text):
    assert written(read(InputObjectLoader, text)) == written(read(Loader, text))


@pytest.mark.parametrize("text", ['{"a": [NaN]}', "{a: 1.10, b: yes}", "[1, 2]", "# nothing\n{}"])
def test_what_is_no_json_object_is_read_as_yaml(read, text):
    assert written(read(InputObjectLoader, text)) == written(read(Loader, text))


@pytest.mark.parametrize("text", FAULTS)
def test_mistakes_are_told_in_the_same_words(read, text):
    told = []
    for loader in (InputObjectLoader, Loader):
        with pytest.raises((ValidationException, StopIteration)) as error:
            read(loader, text)
        told.append(re.sub(r"\(\d+\)", "(which loader)", str(error.value)))
    assert told[0] == told[1]


def test_characters_beyond_the_basic_plane_are_read_from_escapes(read):
    assert read(InputObjectLoader, json.dumps({"a": "\U0001f600"}))["a"] == "\U0001f600"


def test_a_copy_shares_nothing_but_lines():
    described = yaml_no_ts().load("a: [1.10, {b: c}] # why\nd: &x {class: File}\ne: *x\n")
    described["plain"] = {"a": [1, (2, [3])]}
    made = shortcuts.deepcopy(described)
    assert written(made) == written(copy.deepcopy(described)) == written(described)
    assert made["d"] is made["e"] is not described["d"]
    assert made["plain"]["a"][1][1] is not described["plain"]["a"][1][1]
    assert made.lc.data == described.lc.data
    made["a"][1]["b"] = made["new"] = 1
    assert described["a"][1]["b"] == "c"
    assert "new" not in described


def test_visits_come_in_the_same_order():
    inner = {"class": "File", "basename": "b"}
    value = CommentedMap(
        {"x": [{"class": "Directory", "listing": [inner, 1, "text"]}], "y": (inner,), "z": inner}
    )
    for classes in (("File",), ("File", "Directory"), "Directory"):
        found, expected = [], []
        shortcuts.visit_class(value, classes, found.append)
        plain_visit_class(value, classes, expected.append)
        assert found == expected


def test_only_a_text_with_expressions_is_evaluated():
    arguments = ({"x": "y"}, [], "/out", "/tmp", {})
    for value in ("$(inputs.x)-$(runtime.outdir)", "a$b", "plain", 3, None, ["$(inputs.x)"]):
        assert shortcuts.do_eval(value, *arguments) == shortcuts._evaluate(value, *arguments)


def test_results_of_one_name_get_the_same_numbers(tmp_path):
    names = ["a", "a", "a_2", "b", "a", "a_2", "a_3", "b", "a"]
    for number, name in enumerate(names):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / name).write_text(str(number))
    placed = []
    for mapper in (PathMapper, ResultsMapper):
        outputs = {
            "all": [
                {"class": "File", "location": file_uri(str(tmp_path / str(number) / name)), "basename": name}
                for number, name in enumerate([*names, names[0]])
            ]
        }
        outputs["all"][-1]["location"] = outputs["all"][0]["location"]
        place = tmp_path / mapper.__name__
        relocateOutputs(outputs, str(place), set(), "copy", StdFsAccess(""), path_mapper=mapper)
        placed.append([each["location"].rpartition("/")[2] for each in outputs["all"]])
        assert {path.name: path.read_text() for path in place.iterdir()} == {
            name: str(number) for number, name in enumerate(placed[-1][:-1])
        }
    assert placed[0] == placed[1]
    assert len(set(placed[0])) == len(names)


def test_cwltool_is_as_it_was_once_a_workflow_is_over():
    replacements = [*linear.replacements(), *shortcuts.replacements()]
    before = [getattr(module, name) for module, name, _ in replacements]
    wanted = [new for _, _, new in replacements]
    with replaced(replacements):
        assert [getattr(module, name) for module, name, _ in replacements] == wanted
    assert [getattr(module, name) for module, name, _ in replacements] == before
    assert not any(old is new for old, new in zip(before, wanted, strict=True))
