"""The language: what a workflow means, by small documents of each kind."""

import json
import os
from pathlib import Path

import pytest
from drawbar.engine import StepFailed
from drawbar.errors import SpecError, Unsupported
from drawbar.model import WorkspaceNeed

EXPRESSIONS = {"InlineJavascriptRequirement": {}, "StepInputExpressionRequirement": {}}
SCATTER = {"ScatterFeatureRequirement": {}, **EXPRESSIONS}
FILE = {"type": "File"}


def tool(command, inputs=None, outputs=None, **others):
    return {
        "class": "CommandLineTool",
        "baseCommand": command,
        "inputs": inputs or {},
        "outputs": outputs or {},
        **others,
    }


def flow(steps, inputs=None, outputs=None, requirements=SCATTER):
    return {
        "class": "Workflow",
        "requirements": requirements,
        "inputs": inputs or {},
        "outputs": outputs or {},
        "steps": steps,
    }


ECHO = tool("echo", {"x": {"type": "string", "inputBinding": {}}}, {"out": {"type": "stdout"}})
PAIR = tool(
    "true",
    {"a": "string", "b": "string"},
    {"both": {"type": "string", "outputBinding": {"outputEval": "$(inputs.a)$(inputs.b)"}}},
)
TOUCH = tool(
    "touch",
    {"name": {"type": "string", "inputBinding": {}}},
    {"out": {"type": "File", "outputBinding": {"glob": "*"}}},
)


class TestScatter:
    def pairs(self, execute, method, a, b):
        steps = {
            "pair": {
                "run": PAIR,
                "scatter": ["a", "b"],
                "scatterMethod": method,
                "in": {"a": "a", "b": "b"},
                "out": ["both"],
            }
        }
        document = flow(
            steps,
            {"a": "string[]", "b": "string[]"},
            {"all": {"type": "Any", "outputSource": "pair/both"}},
        )
        return execute(document, {"a": a, "b": b})

    def test_dotproduct(self, execute):
        done = self.pairs(execute, "dotproduct", ["a", "b"], ["x", "y"])
        assert done.value["all"] == ["ax", "by"]
        assert sorted(done.jobs.submitted) == ["pair[0]", "pair[1]"]

    def test_dotproduct_of_unequal_lengths_fails(self, execute):
        with pytest.raises(StepFailed, match="equal"):
            self.pairs(execute, "dotproduct", ["a", "b"], ["x"])

    def test_flat_crossproduct(self, execute):
        done = self.pairs(execute, "flat_crossproduct", ["a", "b"], ["x", "y", "z"])
        assert done.value["all"] == ["ax", "ay", "az", "bx", "by", "bz"]
        assert "pair[1,2]" in done.jobs.submitted

    def test_nested_crossproduct(self, execute):
        done = self.pairs(execute, "nested_crossproduct", ["a", "b"], ["x", "y", "z"])
        assert done.value["all"] == [["ax", "ay", "az"], ["bx", "by", "bz"]]
        assert "pair[1,2]" in done.jobs.submitted

    @pytest.mark.parametrize(
        ("method", "a", "b", "expected"),
        [
            ("dotproduct", [], [], []),
            ("flat_crossproduct", ["a"], [], []),
            ("nested_crossproduct", [], ["x"], []),
            ("nested_crossproduct", ["a", "b"], [], [[], []]),
        ],
    )
    def test_over_nothing(self, execute, method, a, b, expected):
        done = self.pairs(execute, method, a, b)
        assert done.value["all"] == expected
        assert done.jobs.submitted == []

    def test_of_scattered_subworkflows_with_conditions(self, execute):
        inner = flow(
            {
                "each": {
                    "run": ECHO,
                    "scatter": "x",
                    "in": {"x": "words"},
                    "when": "$(inputs.x != 'skip')",
                    "out": ["out"],
                }
            },
            {"words": "string[]"},
            {"outs": {"type": {"type": "array", "items": ["null", "File"]}, "outputSource": "each/out"}},
        )
        outer = flow(
            {"lines": {"run": inner, "scatter": "words", "in": {"words": "texts"}, "out": ["outs"]}},
            {"texts": {"type": {"type": "array", "items": {"type": "array", "items": "string"}}}},
            {"all": {"type": "Any", "outputSource": "lines/outs"}},
            {**SCATTER, "SubworkflowFeatureRequirement": {}},
        )
        done = execute(outer, {"texts": [["a", "skip"], [], ["b"]]})
        first, second, third = done.value["all"]
        assert Path(first[0]["path"]).read_text() == "a\n"
        assert first[1] is None
        assert second == []
        assert Path(third[0]["path"]).read_text() == "b\n"
        assert sorted(done.jobs.submitted) == ["lines[0]/each[0]", "lines[2]/each[0]"]

    def test_elements_are_made_when_they_are_needed(self, execute, monkeypatch):
        """A scatter of many has few jobs at a time, and the first runs before the last is made."""
        from drawbar_cwl import execution

        monkeypatch.setattr(execution, "MOST_IN_FLIGHT", 5)
        monkeypatch.setattr(execution, "_BATCH", 5)
        most = 0
        jobs = []

        def look(call):
            nonlocal most
            if jobs:
                most = max(most, len(jobs[0]._in_flight))

        steps = {"say": {"run": ECHO, "scatter": "x", "in": {"x": "words"}, "out": ["out"]}}
        document = flow(steps, {"words": "string[]"}, {"outs": {"type": "File[]", "outputSource": "say/out"}})
        done = execute(document, {"words": [str(number) for number in range(23)]}, on_call=look)
        methods = [call.method for call in done.jobs.calls]
        assert methods.index("succeeded") < len(methods) - methods[::-1].index("submit") - 1
        assert [Path(each["path"]).read_text() for each in done.value["outs"]] == [
            f"{n}\n" for n in range(23)
        ]


class TestExpressions:
    def test_javascript_with_a_library(self, execute):
        document = tool(
            "echo",
            {"x": "int"},
            {"out": {"type": "stdout"}},
            requirements={
                "InlineJavascriptRequirement": {"expressionLib": ["function twice(n) { return 2 * n; }"]}
            },
            arguments=["${ return twice(inputs.x); }"],
        )
        assert execute(document, {"x": 21}).text("out") == "42\n"

    def test_expression_tools_make_no_job(self, execute):
        document = {
            "class": "ExpressionTool",
            "requirements": {"InlineJavascriptRequirement": {}},
            "inputs": {"x": "int"},
            "outputs": {"y": "int"},
            "expression": "${ return {y: inputs.x + 1}; }",
        }
        done = execute(document, {"x": 1})
        assert done.value == {"y": 2}
        assert done.jobs.submitted == []

    def test_a_wrong_expression_names_its_place(self, execute):
        document = tool("echo", {"x": "int"}, arguments=["$(inputs.y.z)"])
        with pytest.raises(StepFailed, match=r"inputs\.y\.z"):
            execute(document, {"x": 1})

    def test_pick_value_and_link_merge(self, execute):
        never = {"run": ECHO, "in": {"x": {"default": "never"}}, "when": "$(false)", "out": ["out"]}
        always = {"run": ECHO, "in": {"x": {"default": "always"}}, "out": ["out"]}
        document = flow(
            {"never": never, "always": always},
            outputs={
                "found": {
                    "type": "File",
                    "outputSource": ["never/out", "always/out"],
                    "pickValue": "the_only_non_null",
                }
            },
            requirements={**EXPRESSIONS, "MultipleInputFeatureRequirement": {}},
        )
        done = execute(document)
        assert done.text("found") == "always\n"
        assert done.jobs.submitted == ["always"]


class TestFiles:
    def test_secondary_files_come_along(self, execute):
        document = tool(
            ["sh", "-c", 'cat "$0" "$0.idx"; cp "$0" "$0.idx" .'],
            {"x": {"type": "File", "secondaryFiles": [".idx"], "inputBinding": {}}},
            {
                "out": {"type": "stdout"},
                "kept": {"type": "File", "secondaryFiles": [".idx"], "outputBinding": {"glob": "x.txt"}},
            },
        )
        inputs = {"x": {"class": "File", "location": "x.txt"}}
        done = execute(document, inputs, files={"x.txt": "text\n", "x.txt.idx": "index\n"})
        assert done.text("out") == "text\nindex\n"
        assert [each["basename"] for each in done.value["kept"]["secondaryFiles"]] == ["x.txt.idx"]

    def test_an_edited_secondary_file_runs_the_job_again(self, execute):
        document = tool(
            ["sh", "-c", 'cat "$0.idx"'],
            {"x": {"type": "File", "secondaryFiles": [".idx"], "inputBinding": {}}},
            {"out": {"type": "stdout"}},
        )
        inputs = {"x": {"class": "File", "location": "x.txt"}}
        first = execute(document, inputs, files={"x.txt": "text\n", "x.txt.idx": "index\n"})
        again = execute(document, inputs, files={"x.txt.idx": "other\n"}, after=first.jobs)
        assert again.text("out") == "other\n"

    def test_literals(self, execute):
        document = tool("cat", {"x": {"type": "File", "inputBinding": {}}}, {"out": {"type": "stdout"}})
        inputs = {"x": {"class": "File", "basename": "a.txt", "contents": "literal"}}
        first = execute(document, inputs)
        assert first.text("out") == "literal"
        assert execute(document, inputs, after=first.jobs).jobs.submitted == []
        other = {"x": {"class": "File", "basename": "a.txt", "contents": "other"}}
        assert execute(document, other, after=first.jobs).text("out") == "other"

    def test_directories_in_and_out(self, execute):
        document = tool(
            ["sh", "-c", 'mkdir made; cp -r "$0"/* made'],
            {"d": {"type": "Directory", "inputBinding": {}}},
            {"made": {"type": "Directory", "outputBinding": {"glob": "made"}}},
        )
        inputs = {"d": {"class": "Directory", "location": "data"}}
        done = execute(document, inputs, files={"data/a": "1", "data/sub/b": "2"})
        made = Path(done.value["made"]["path"])
        assert (made / "sub/b").read_text() == "2"
        assert made == done.workspace / "outputs/made"

    def test_the_same_name_twice(self, execute):
        steps = {
            "each": {
                "run": ECHO | {"stdout": "same.txt"},
                "scatter": "x",
                "in": {"x": "words"},
                "out": ["out"],
            }
        }
        document = flow(
            steps, {"words": "string[]"}, {"outs": {"type": "File[]", "outputSource": "each/out"}}
        )
        done = execute(document, {"words": ["a", "b"]})
        assert [Path(each["path"]).name for each in done.value["outs"]] == ["same.txt", "same.txt_2"]
        assert [Path(each["path"]).read_text() for each in done.value["outs"]] == ["a\n", "b\n"]

    def test_initial_work_directory(self, execute):
        document = tool(
            ["sh", "-c", "cat conf/settings.json; echo more >> copy.txt; cat copy.txt"],
            {"x": "File", "n": "int"},
            {"out": {"type": "stdout"}},
            requirements={
                "InlineJavascriptRequirement": {},
                "InitialWorkDirRequirement": {
                    "listing": [
                        {"entryname": "conf/settings.json", "entry": '{"n": $(inputs.n)}'},
                        {"entryname": "copy.txt", "entry": "$(inputs.x)", "writable": True},
                    ]
                },
            },
        )
        inputs = {"x": {"class": "File", "location": "x.txt"}, "n": 3}
        first = execute(document, inputs, files={"x.txt": "x\n"})
        assert first.text("out") == '{"n": 3}x\nmore\n'
        assert (first.workspace / "x.txt").read_text() == "x\n"
        assert execute(document, inputs, after=first.jobs).jobs.submitted == []
        assert execute(document, inputs | {"n": 4}, after=first.jobs).text("out") == '{"n": 4}x\nmore\n'

    def test_standard_streams(self, execute):
        document = tool(
            ["sh", "-c", "cat; echo problem >&2"],
            {"x": {"type": "stdin"}},
            {"out": {"type": "stdout"}, "err": {"type": "stderr"}},
            stderr="log/err.txt",
        )
        inputs = {"x": {"class": "File", "location": "x.txt"}}
        done = execute(document, inputs, files={"x.txt": "text\n"})
        assert done.text("out") == "text\n"
        assert done.text("err") == "problem\n"

    def test_cwl_output_json(self, execute):
        script = """echo '{"n": 5, "f": {"class": "File", "path": "a"}}' > cwl.output.json; echo text > a"""
        document = tool(["sh", "-c", script], None, {"n": "int", "f": "File"})
        done = execute(document)
        assert done.value["n"] == 5
        assert done.text("f") == "text\n"

    def test_an_output_must_not_lead_elsewhere(self, execute, tmp_path):
        (tmp_path / "secret").write_text("secret")
        document = tool(
            ["ln", "-s", str(tmp_path / "secret"), "out"],
            None,
            {"out": {"type": "File", "outputBinding": {"glob": "out"}}},
        )
        with pytest.raises(StepFailed, match=r"outside|link"):
            execute(document)

    @pytest.mark.parametrize("place", ["../outside.txt", "/etc/hostname", "http://localhost:1/x"])
    def test_inputs_are_in_the_analysis(self, execute, tmp_path, place):
        (tmp_path / "outside.txt").write_text("outside")
        document = tool("cat", {"x": {"type": "File", "inputBinding": {}}})
        with pytest.raises(
            (SpecError, StepFailed), match=r"outside of the analysis|not a file of the analysis"
        ):
            execute(document, {"x": {"class": "File", "location": place}})

    def test_documents_are_in_the_analysis(self, execute, tmp_path):
        (tmp_path / "outside.cwl").write_text(json.dumps({"cwlVersion": "v1.2", **TOUCH}))
        document = flow({"a": {"run": "../outside.cwl", "in": {"name": {"default": "x"}}, "out": ["out"]}})
        with pytest.raises(SpecError, match="outside of the analysis"):
            execute(document)
        assert execute(document, options={"outside": True}).jobs.submitted == ["a"]


class TestCommands:
    def test_exit_codes(self, execute):
        document = tool(
            ["sh", "-c", 'exit "$0"'],
            {"code": {"type": "int", "inputBinding": {}}},
            successCodes=[3],
            permanentFailCodes=[0],
            temporaryFailCodes=[4],
        )
        assert execute(document, {"code": 3}).value == {}
        with pytest.raises(StepFailed, match="exit code 0"):
            execute(document, {"code": 0})
        with pytest.raises(StepFailed) as failed:
            execute(document, {"code": 4})
        assert failed.value.result.reason == "temporary"

    def test_temporary_failures_may_be_repeated(self, execute):
        document = tool("true", temporaryFailCodes=[4])
        done = execute(document, options={"retries": 2})
        (spec,) = done.jobs.specs.values()
        assert spec.retry.temporary == 2
        assert spec.temporary_codes == (4,)

    def test_a_failure_shows_what_the_command_said(self, execute):
        document = flow(
            {"bad": {"run": tool(["sh", "-c", "echo no such luck >&2; exit 5"]), "in": {}, "out": []}}
        )
        with pytest.raises(StepFailed) as failed:
            execute(document)
        assert failed.value.step == "bad"
        assert "exit code 5" in str(failed.value)
        assert "no such luck" in str(failed.value)

    def test_others_go_on_when_asked_to(self, execute):
        steps = {
            "bad": {"run": tool("false"), "in": {}, "out": []},
            "good": {"run": TOUCH, "in": {"name": {"default": "made"}}, "out": ["out"]},
            "after": {"run": tool("cat", {"x": {"type": "File"}}), "in": {"x": "good/out"}, "out": []},
        }
        seen = []
        with pytest.raises(StepFailed, match="bad"):
            execute(flow(steps), options={"on_error": "continue"}, on_call=seen.append)
        assert {call.identity for call in seen if call.method == "accept"} == {"good", "after"}

    def test_resources(self, execute):
        document = tool(
            ["sh", "-c", "echo $0"],
            {"n": "int"},
            {"out": {"type": "stdout"}},
            arguments=["$(runtime.cores)"],
            requirements={
                "InlineJavascriptRequirement": {},
                "ResourceRequirement": {
                    "coresMin": "$(inputs.n)",
                    "ramMin": 300,
                    "tmpdirMin": 10,
                    "outdirMin": 20,
                },
                "ToolTimeLimit": {"timelimit": 20},
            },
        )
        done = execute(document, {"n": 2})
        (spec,) = done.jobs.specs.values()
        assert done.text("out") == "2\n"
        assert (spec.resources.cpus, spec.resources.memory_mib, spec.resources.disk_mib) == (2, 300, 30)
        assert spec.resources.walltime_s == 20

    def test_nothing_is_asked_for_by_default(self, execute):
        done = execute(tool("true", requirements={"ToolTimeLimit": {"timelimit": 0}}))
        (spec,) = done.jobs.specs.values()
        assert (spec.resources.memory_mib, spec.resources.walltime_s) == (None, None)

    def test_shell_commands_and_environment(self, execute):
        document = tool(
            "echo",
            {"x": "string"},
            {"out": {"type": "stdout"}},
            requirements={
                "ShellCommandRequirement": {},
                "EnvVarRequirement": {"envDef": {"WORD": "$(inputs.x)"}},
            },
            arguments=[{"valueFrom": "$WORD | tr a-z A-Z", "shellQuote": False}],
        )
        assert execute(document, {"x": "word"}).text("out") == "WORD\n"

    def test_odd_names_stay_words(self, execute):
        name = "a b;$(touch pwned)'\"#.txt"
        done = execute(TOUCH, {"name": name})
        assert [path.name for path in Path(done.jobs.directory("main")).glob("out/*")] == [name]


class TestImages:
    HINT = {"DockerRequirement": {"dockerPull": "debian:stable"}}  # noqa: RUF012

    def document(self, where, **docker):
        return tool("true", **{where: {"DockerRequirement": {"dockerPull": "debian:stable", **docker}}})

    def test_a_hint_and_a_requirement(self, execute):
        (hint,) = execute(self.document("hints"), inspect=True).value.steps
        (required,) = execute(self.document("requirements"), inspect=True).value.steps
        assert (hint.image, hint.image_required) == ("debian:stable", False)
        assert (required.image, required.image_required) == ("debian:stable", True)

    def test_in_a_container_and_without(self, execute):
        (inside,) = execute(self.document("hints"), container=True).jobs.specs.values()
        (outside,) = execute(self.document("hints")).jobs.specs.values()
        assert inside.image == "debian:stable"
        assert outside.image is None
        assert inside.canonical["image"] == outside.canonical["image"] == "debian:stable"
        assert inside.canonical != outside.canonical
        assert any(
            not mount.read_only and mount.target == str(Path(inside.directory).parent)
            for mount in inside.mounts
        )

    def test_the_output_directory_of_an_image(self, execute):
        document = tool(
            "true",
            {"x": "File"},
            requirements={
                "DockerRequirement": {"dockerPull": "i", "dockerOutputDirectory": "/data"},
                "InitialWorkDirRequirement": {
                    "listing": [{"entryname": "/etc/own.conf", "entry": "text"}, "$(inputs.x)"]
                },
            },
        )
        seen = []
        inputs = {"x": {"class": "File", "location": "x.txt"}}
        with pytest.raises(StepFailed):
            execute(document, inputs, files={"x.txt": ""}, container=True, on_call=seen.append)
        source = [call for call in seen if call.method == "submit"]
        assert len(source) == 1

    def test_is_refused_without_containers(self, execute):
        options = {"no_container": True}
        with pytest.raises(Unsupported, match="debian:stable"):
            execute(self.document("requirements"), options=options, inspect=True)
        with pytest.raises(Unsupported, match="DockerRequirement"):
            execute(self.document("requirements"), options=options, container=True)
        (spec,) = execute(self.document("hints"), options=options, container=True).jobs.specs.values()
        assert spec.image is None

    def test_a_container_sees_copies_of_what_is_outside(self, execute, tmp_path):
        """One copy for all the jobs of a run, and another one when the file has changed."""
        outside = tmp_path / "outside.txt"
        outside.write_text("text\n")
        each = {
            "run": {**tool("cat", {"x": {"type": "File", "inputBinding": {}}}), "hints": self.HINT},
            "scatter": "x",
            "in": {"x": "xs"},
            "out": [],
        }
        file = {"class": "File", "location": str(outside)}
        options = {"outside": True}
        document = flow({"each": each}, {"xs": "File[]"})
        done = execute(document, {"xs": [file, file]}, options=options, container=True)
        seen = {os.path.realpath(spec.argv[1]) for spec in done.jobs.specs.values()}
        (copy,) = seen
        assert Path(copy).is_relative_to(done.jobs.directory("-"))
        assert Path(copy).read_text() == "text\n"
        outside.write_text("changed\n")
        done = execute(document, {"xs": [file]}, options=options, container=True, after=done.jobs)
        (spec,) = done.jobs.specs.values()
        assert Path(spec.argv[1]).read_text() == "changed\n"
        assert all(spec.entry_point for spec in done.jobs.specs.values())


class TestDocuments:
    def test_fragments_of_a_packed_document(self, execute):
        graph = [
            {"id": "one", **tool("touch", arguments=["one"])},
            {"id": "two", **tool("touch", arguments=["two"])},
        ]
        packed = json.dumps({"cwlVersion": "v1.2", "$graph": graph})
        assert execute(packed, fragment="two").jobs.submitted == ["two"]
        with pytest.raises(SpecError, match="one"):
            execute(packed)

    def test_main_of_a_packed_document(self, execute):
        main = {"id": "main", **flow({"a": {"run": "#one", "in": {}, "out": []}})}
        packed = {"$graph": [{"id": "one", **tool("true")}, main]}
        assert execute(packed).jobs.submitted == ["a"]

    def test_imports(self, execute):
        document = {
            "class": "CommandLineTool",
            "inputs": {"$import": "inputs.yml"},
            "outputs": {},
            "baseCommand": "echo",
        }
        done = execute(document, {"x": 1}, files={"inputs.yml": "- {id: x, type: int, inputBinding: {}}\n"})
        (spec,) = done.jobs.specs.values()
        assert spec.argv == ("echo", "1")

    def test_includes_and_mixins(self, execute):
        document = {
            "class": "CommandLineTool",
            "requirements": {"InlineJavascriptRequirement": {"expressionLib": [{"$include": "twice.js"}]}},
            "inputs": [{"$mixin": "input.yml", "inputBinding": {"valueFrom": "$(twice(self))"}}],
            "outputs": {},
            "baseCommand": "echo",
        }
        files = {"twice.js": "function twice(n) { return 2 * n; }", "input.yml": "{id: x, type: int}"}
        done = execute(document, {"x": 21}, files=files)
        (spec,) = done.jobs.specs.values()
        assert spec.argv == ("echo", "42")

    def test_what_is_included_is_in_the_analysis(self, execute, tmp_path):
        (tmp_path / "outside.js").write_text("var x = 1;")
        library = {"InlineJavascriptRequirement": {"expressionLib": [{"$include": "../outside.js"}]}}
        with pytest.raises(SpecError, match="outside of the analysis"):
            execute(tool("true", requirements=library))

    def test_old_versions_without_ids_keep_their_keys(self, execute):
        document = {
            "cwlVersion": "v1.0",
            **flow({"a": {"run": ECHO, "in": {"x": {"default": "word"}}, "out": ["out"]}}),
            "requirements": [],
        }
        first = execute(document)
        again = execute(document, after=first.jobs)
        assert again.jobs.submitted == []

    def test_an_input_object_with_its_tool(self, execute):
        document = json.dumps({"cwl:tool": "echo.cwl", "x": "word"})
        done = execute(document, files={"echo.cwl": json.dumps({"cwlVersion": "v1.2", **ECHO})})
        assert done.text("out") == "word\n"

    def test_overrides(self, execute):
        document = tool("echo", {"x": {"type": "string", "inputBinding": {}}}, {"out": {"type": "stdout"}})
        overrides = {"main.cwl": {"requirements": {"EnvVarRequirement": {"envDef": {"WORD": "over"}}}}}
        inputs = {
            "x": "word",
            "cwltool:overrides": overrides,
            "$namespaces": {"cwltool": "http://commonwl.org/cwltool#"},
        }
        (spec,) = execute(document, inputs).jobs.specs.values()
        assert spec.environment["WORD"] == "over"

    @pytest.mark.parametrize(
        ("inputs", "problem"),
        [
            ({}, "x"),
            ({"x": 3}, "x"),
            ({"x": {"class": "File", "location": "missing.txt"}}, "missing.txt"),
        ],
    )
    def test_wrong_inputs_are_found_before_anything_runs(self, execute, inputs, problem):
        document = tool("cat", {"x": {"type": "File", "inputBinding": {}}})
        with pytest.raises(SpecError, match=problem):
            execute(document, inputs, inspect=True)

    def test_an_unknown_input_is_a_warning(self, execute):
        info = execute(ECHO, {"x": "a", "xy": "b"}, inspect=True).value
        assert any("'xy'" in warning for warning in info.warnings)

    def test_mistakes_have_places(self, execute):
        document = "cwlVersion: v1.2\nclass: CommandLineTool\ninputs: {}\noutputs: {}\nbaseCommnd: echo\n"
        with pytest.raises(SpecError) as error:
            execute(document, inspect=True)
        assert [(each.file, each.line) for each in error.value.problems] == [("main.cwl", 5)]
        assert "baseCommnd" in str(error.value)

    def test_steps_of_nested_workflows(self, execute):
        inner = flow(
            {
                "b": {"run": tool("cat", {"x": "File"}), "in": {"x": "a/out"}, "out": []},
                "a": {"run": TOUCH, "in": {"name": "n"}, "out": ["out"]},
            },
            {"n": "string"},
        )
        first = {"run": ECHO, "in": {"x": "w"}, "out": ["out"]}
        sub = {
            "run": inner,
            "in": {"n": {"source": "first/out", "valueFrom": "x"}},
            "out": [],
            "scatter": "n",
        }
        document = flow(
            {"first": first, "sub": sub},
            {"w": "string"},
            requirements={**SCATTER, "SubworkflowFeatureRequirement": {}},
        )
        steps = execute(document, {"w": "x"}, inspect=True).value.steps
        assert {step.name: step.jobs for step in steps} == {"first": 1, "sub/b": None, "sub/a": None}
        depends = {step.name: set(step.depends_on) for step in steps}
        assert depends["sub/b"] == {"first", "sub/a"}
        assert depends["sub/a"] == {"first"}


ADD = {
    "class": "CommandLineTool",
    "requirements": {
        "InlineJavascriptRequirement": {},
        "InplaceUpdateRequirement": {"inplaceUpdate": True},
        "InitialWorkDirRequirement": {"listing": [{"entry": "$(inputs.x)", "writable": True}]},
    },
    "inputs": {"x": "File"},
    "baseCommand": ["sh", "-c", 'echo added >> "$0"'],
    "arguments": ["$(inputs.x.basename)"],
    "outputs": {"y": {"type": "File", "outputBinding": {"glob": "$(inputs.x.basename)"}}},
}
READ = tool("cat", {"x": {"type": "stdin"}}, {"out": {"type": "stdout"}})


class TestUpdateInPlace:
    def document(self):
        steps = {
            "make": {"run": ECHO, "in": {"x": {"default": "made"}}, "out": ["out"]},
            "add": {"run": ADD, "in": {"x": "make/out"}, "out": ["y"]},
            "again": {"run": ADD, "in": {"x": "add/y"}, "out": ["y"]},
            "read": {"run": READ, "in": {"x": "again/y"}, "out": ["out"]},
        }
        return flow(steps, outputs={"out": {"type": "File", "outputSource": "read/out"}})

    def test_every_start_gives_the_same(self, execute):
        done = execute(self.document())
        for _ in range(3):
            assert done.text("out") == "made\nadded\nadded\n"
            done = execute(self.document(), after=done.jobs)
        assert "read" not in done.jobs.submitted

    def test_what_the_user_gave_is_not_changed(self, execute):
        document = flow(
            {"add": {"run": ADD, "in": {"x": "given"}, "out": ["y"]}},
            {"given": "File"},
            {"out": {"type": "File", "outputSource": "add/y"}},
        )
        inputs = {"given": {"class": "File", "location": "x.txt"}}
        done = execute(document, inputs, files={"x.txt": "x\n"})
        assert done.text("out") == "x\nadded\n"
        assert (done.workspace / "x.txt").read_text() == "x\n"
        assert execute(document, inputs, after=done.jobs).jobs.submitted == []

    def test_only_such_a_tool_needs_the_whole_workspace(self, execute):
        """The others are for backends that share no files: they see their inputs and their own directory."""
        steps = {step.name: step.workspace for step in execute(self.document(), inspect=True).value.steps}
        assert steps.pop("add") == steps.pop("again") == WorkspaceNeed.SHARED
        assert set(steps.values()) == {WorkspaceNeed.DECLARED}
        for (identity, _), spec in execute(self.document()).jobs.specs.items():
            assert spec.workspace is (steps.get(identity) or WorkspaceNeed.SHARED)
            own = [mount.source for mount in spec.mounts if not mount.read_only]
            assert spec.collection_root == f"{own[0]}/out"


def test_an_input_among_the_results_of_an_earlier_run_may_be_a_result_again(execute):
    document = {
        "class": "ExpressionTool",
        "requirements": EXPRESSIONS,
        "inputs": {"file": "File", "directory": "Directory"},
        "outputs": {"out": "File", "all": "Directory"},
        "expression": "${return {out: inputs.file, all: inputs.directory};}",
    }
    inputs = {
        "file": {"class": "File", "location": "outputs/a.txt"},
        "directory": {"class": "Directory", "location": "outputs/all"},
    }
    done = execute(document, inputs, files={"outputs/a.txt": "kept", "outputs/all/b.txt": "too"})
    assert done.text("out") == "kept"
    assert (done.workspace / "outputs/all/b.txt").read_text() == "too"
