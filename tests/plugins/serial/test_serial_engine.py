"""Serial workflows: REANA's semantics, and what a user is told when something is wrong."""

import json
import re
from pathlib import Path

import pytest
from drawbar.engine import Source, StepFailed
from drawbar.errors import SettingsError, SpecError
from drawbar.testing.memory import MemoryJobs
from drawbar_serial.engine import SerialEngine
from drawbar_serial.steps import HINTS


@pytest.fixture
def workspace(tmp_path):
    path = tmp_path / "workspace"
    path.mkdir()
    return path


def step(*commands, **keys):
    return {"environment": "python:3.12", "commands": list(commands), **keys}


def source(workspace, *steps, **changes):
    return Source(
        root=workspace, document=workspace / "reana.yaml", specification={"steps": list(steps)}, **changes
    )


def execute(workspace, *steps, jobs=None, **changes):
    jobs = jobs or MemoryJobs(workspace)
    SerialEngine().execute(source(workspace, *steps, **changes), jobs)
    jobs.finish()
    return jobs


def mistakes(workspace, *steps, **changes):
    with pytest.raises(SpecError) as caught:
        SerialEngine().inspect(source(workspace, *steps, **changes))
    return caught.value.problems


def warnings(workspace, *steps, **changes):
    return SerialEngine().inspect(source(workspace, *steps, **changes)).warnings


# Running


def test_each_command_is_a_job_in_the_workspace(workspace):
    jobs = execute(
        workspace, step("cd /; X=1; pwd > $${OLDPWD}/first", 'pwd; echo "<$$X>" > second', name="a")
    )
    assert jobs.executed == ["0:a.0", "0:a.1"]
    assert [spec.name for spec in jobs.specs.values()] == ["a.0", "a.1"]
    assert (workspace / "first").read_text() == "/\n"
    assert (workspace / "second").read_text() == "<>\n"


def test_a_command_of_several_lines_is_one_script_in_the_workspace(workspace):
    execute(workspace, step("# a comment first\nfor i in 1 2; do\n  echo $$i\ndone > out\nfalse\ntrue\n"))
    assert (workspace / "out").read_text() == "1\n2\n"


def test_the_workspace_is_no_part_of_a_shell_string(tmp_path):
    workspace = tmp_path / "a b; touch bad $(touch bad) 'x"
    workspace.mkdir()
    execute(workspace, step("touch out"))
    assert [path.name for path in workspace.iterdir()] == ["out"]


def test_jobs_know_the_run(workspace):
    jobs = MemoryJobs(workspace, run_id="run-7")
    execute(workspace, step("echo $$REANA_WORKSPACE $$REANA_WORKFLOW_UUID > out"), jobs=jobs)
    assert (workspace / "out").read_text() == f"{workspace} run-7\n"


def test_parameters_are_expanded_as_by_string_template(workspace):
    execute(
        workspace,
        step("echo $a ${b}x $$HOME ${list} > out"),
        parameters={"a": 1.5, "b": True, "list": "'[1]'"},
    )
    assert (workspace / "out").read_text() == "1.5 Truex [1]\n"


def test_equal_steps_and_equal_commands_all_run(workspace):
    jobs = execute(
        workspace,
        step("echo x >> out", "echo y >> out", "echo x >> out"),
        step("echo x >> out"),
        step("echo x >> out"),
    )
    assert (workspace / "out").read_text() == "x\ny\nx\nx\nx\n"
    assert len(set(jobs.keys.values())) == 5


def test_steps_without_a_name_are_numbered_and_equal_names_told_apart(workspace):
    steps = (step("true"), step("true", name="fit"), step("true", name="Fit"), step("true", name="Fit#2"))
    info = SerialEngine().inspect(source(workspace, *steps))
    assert [each.name for each in info.steps] == ["step0", "fit", "Fit#3", "Fit#2"]
    assert [each.depends_on for each in info.steps] == [(), ("step0",), ("fit",), ("Fit#3",)]
    assert "another step is called 'Fit' too" in info.warnings[0]


def test_the_first_failing_command_ends_the_run(workspace):
    jobs = MemoryJobs(workspace)
    with pytest.raises(StepFailed) as caught:
        execute(
            workspace,
            step("touch a"),
            step("true", "for i in {1..50}; do echo line $$i >&2; done; exit 4", name="fit"),
            step("touch c"),
            jobs=jobs,
        )
    message = str(caught.value)
    assert caught.value.step == "fit"
    assert caught.value.result.exit_code == 4
    assert message.startswith("step 'fit': command 2 of 2 ended with exit code 4: for i in")
    assert "line 50" in message
    assert "line 40\n" not in message
    assert "its log: " in message
    assert jobs.executed == ["0:step0.0", "1:fit.0", "1:fit.1"]


def test_a_failure_shows_nothing_that_a_terminal_would_obey(workspace):
    with pytest.raises(StepFailed) as caught:
        execute(workspace, step(r"printf 'red \033[31m\377 and bell \a\n' >&2; exit 1"))
    assert "\x1b" not in str(caught.value)
    assert "red \ufffd[31m" in str(caught.value)


def test_the_engine_log_is_that_of_reana(workspace):
    jobs = execute(
        workspace,
        step("mkdir -p results && echo ${word} > results/plot", name="a"),
        step("true"),
        parameters={"word": "code/x"},
    )
    assert jobs.log_lines == [
        "root | MainThread | INFO | Publishing step:0, cmd: mkdir -p results && echo code/x > results/plot,"
        " total steps 2 to MQ",
        "root | MainThread | INFO | Publishing step:1, cmd: true, total steps 2 to MQ",
        f"root | MainThread | INFO | Workflow test-run finished. Files available at {workspace}.",
    ]


def test_a_job_is_placed_by_its_steps_hints(workspace):
    hints = {
        "compute_backend": "slurmcern",
        "slurm_time": "60",
        "unpacked_image": True,
        "slurm_partition": "",
    }
    jobs = execute(workspace, step("true", **hints), jobs=MemoryJobs(workspace, container=True))
    (spec,) = jobs.specs.values()
    assert spec.backend == "memory"
    assert spec.hints == {
        "memory": {"compute_backend": "slurmcern", "slurm_time": "60", "unpacked_img": True}
    }
    assert (spec.image, spec.image_required) == ("python:3.12", True)


def test_every_step_is_placed_before_the_first_job(workspace):
    jobs = execute(workspace, step("true"), step("true"))
    assert [call.method for call in jobs.calls[:3]] == ["place", "place", "submit"]


def test_without_containers_the_key_is_another(workspace):
    with_container = execute(workspace, step("true"), jobs=MemoryJobs(workspace, container=True))
    without = execute(workspace, step("true"))
    (spec,) = without.specs.values()
    assert (spec.image, spec.image_required) == (None, False)
    assert with_container.keys != without.keys


# Remembering


def five(third="c"):
    return [
        step(f"echo {name} >> log; echo {name} > {number}")
        for number, name in enumerate(("a", "b", third, "d", "e"))
    ]


def test_after_an_edit_of_step_3_of_5_steps_3_to_5_are_repeated(workspace):
    first = execute(workspace, *five())
    assert execute(workspace, *five(), jobs=first.restarted()).submitted == []
    again = execute(workspace, *five("edited"), jobs=first.restarted())
    assert again.executed == ["2:step2.0", "3:step3.0", "4:step4.0"]


def test_a_longer_workflow_continues_where_the_shorter_ended(workspace):
    first = execute(workspace, *five()[:3])
    assert execute(workspace, *five(), jobs=first.restarted()).executed == ["3:step3.0", "4:step4.0"]


def test_a_resume_runs_the_rest(workspace):
    jobs = MemoryJobs(workspace, stop_after=2)
    with pytest.raises(StepFailed, match="was cancelled"):
        execute(workspace, *five(), jobs=jobs)
    assert execute(workspace, *five(), jobs=jobs.restarted()).executed == [
        "2:step2.0",
        "3:step3.0",
        "4:step4.0",
    ]


def test_what_follows_a_lost_result_is_repeated_only_where_it_was_lost(workspace):
    first = execute(workspace, *five())
    (workspace / "4").unlink()
    assert execute(workspace, *five(), jobs=first.restarted()).executed == ["4:step4.0"]


def test_a_step_that_changes_its_input_is_not_repeated(workspace):
    (workspace / "counter").write_text("1\n")
    first = execute(workspace, step("echo 2 >> counter"), step("wc -l < counter > n"), declared=("counter",))
    assert (
        execute(
            workspace,
            step("echo 2 >> counter"),
            step("wc -l < counter > n"),
            declared=("counter",),
            jobs=first.restarted(),
        ).executed
        == []
    )
    assert (workspace / "counter").read_text() == "1\n2\n"


def test_the_workspaces_path_in_a_command_is_no_part_of_the_key(tmp_path):
    keys = []
    for name in ("one", "two/three"):
        workspace = tmp_path / name
        workspace.mkdir(parents=True)
        jobs = execute(
            workspace, step("ls ${out}/x ${out} > /dev/null || true"), parameters={"out": str(workspace)}
        )
        keys.append(jobs.keys)
    assert keys[0] == keys[1]


def test_a_path_that_only_begins_like_the_workspace_is_part_of_the_key(tmp_path):
    commands = []
    for name in ("w", "v"):
        workspace = tmp_path / name
        workspace.mkdir()
        jobs = execute(
            workspace, step("true ${dir}-2 ${dir}.old /x${dir}"), parameters={"dir": str(workspace)}
        )
        commands.append(next(iter(jobs.specs.values())).canonical["command"])
    assert commands[0] != commands[1]
    assert "<workspace>" not in commands[0]


@pytest.mark.parametrize("off", ["off", "OFF", False])
def test_without_cache_results_are_kept_from_other_runs(workspace, off):
    jobs = execute(workspace, step("true"), options={"CACHE": off})
    assert not any(spec.reusable for spec in jobs.specs.values())
    assert all(spec.reusable for spec in execute(workspace, step("true")).specs.values())


def test_an_edited_script_repeats_from_the_step_that_uses_it(workspace):
    for name in ("load", "fit", "plot", "shared"):
        (workspace / f"code/{name}.sh").parent.mkdir(exist_ok=True)
        (workspace / f"code/{name}.sh").write_text(f". code/shared.sh # {name}\n" if name != "shared" else "")
    steps = [step(f"bash code/{name}.sh && echo {name} > {name}") for name in ("load", "fit", "plot")]
    first = execute(workspace, *steps, declared=("code",))
    (workspace / "code/fit.sh").write_text(". code/shared.sh # edited\n")
    again = execute(workspace, *steps, declared=("code",), jobs=first.restarted())
    assert again.executed == ["1:step1.0", "2:step2.0"]
    (workspace / "code/shared.sh").write_text("# edited\n")
    assert len(execute(workspace, *steps, declared=("code",), jobs=again.restarted()).executed) == 3


def test_inputs_are_read_where_no_job_changes_them(workspace, tmp_path):
    definition = tmp_path / "definition"
    definition.mkdir()
    (definition / "counter").write_text("1\n")
    (workspace / "counter").write_text("1\n")
    keys = set()
    for _ in range(2):
        jobs = execute(workspace, step("echo 2 >> counter"), declared=("counter",), definition=definition)
        (spec,) = jobs.specs.values()
        assert [each.path for each in spec.inputs] == [str(definition / "counter")]
        keys |= set(jobs.keys.values())
    assert len(keys) == 1


def test_what_jobs_write_into_a_declared_directory_is_no_input(workspace, tmp_path):
    definition = tmp_path / "definition"
    definition.mkdir()
    steps = [step("mkdir -p histograms && echo 1 > histograms/a"), step("ls histograms > list")]
    changes = {"declared": ("histograms",), "definition": definition}
    first = execute(workspace, *steps, **changes)
    assert all(spec.inputs == () for spec in first.specs.values())
    assert execute(workspace, *steps, jobs=first.restarted(), **changes).submitted == []


# Choosing steps


def named(*names):
    return [step(f"touch {name}", name=name) for name in names]


@pytest.mark.parametrize(
    ("options", "until", "expected"),
    [
        ({}, None, "abcd"),
        ({"FROM": "b"}, None, "bcd"),
        ({"TARGET": "B"}, None, "ab"),
        ({"FROM": "B", "TARGET": "c"}, None, "bc"),
        ({"FROM": "c", "TARGET": "c"}, None, "c"),
        ({}, "C", "abc"),
        ({"TARGET": "b"}, "c", "abc"),
    ],
)
def test_from_and_target_choose_steps(workspace, options, until, expected):
    execute(workspace, *named(*"abcd"), options=options, until=until)
    assert "".join(sorted(path.name for path in workspace.iterdir())) == expected


def test_inspect_finds_the_chosen_steps(workspace):
    info = SerialEngine().inspect(source(workspace, *named(*"abcd"), options={"FROM": "b", "TARGET": "c"}))
    assert [(each.name, each.depends_on) for each in info.steps] == [("b", ()), ("c", ("b",))]


def test_what_ran_without_its_predecessors_is_not_taken_for_the_whole(workspace):
    first = execute(workspace, *named(*"abc"), options={"FROM": "b"})
    assert not any(spec.reusable for spec in first.specs.values())
    assert execute(workspace, *named(*"abc"), jobs=first.restarted()).executed == ["0:a.0", "1:b.0", "2:c.0"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"FROM": "gathr"}, "FROM names 'gathr', but the steps are: gather, fit (did you mean 'gather'?)"),
        ({"TARGET": "plot"}, "TARGET names 'plot', but the steps are: gather, fit"),
        ({"FROM": "fit", "TARGET": "gather"}, "FROM 'fit' comes after TARGET 'gather': no step would run"),
        ({"CACHE": "sometimes"}, "CACHE is on or off, not 'sometimes'"),
    ],
)
def test_a_wrong_choice_is_an_error(workspace, options, words):
    (problem,) = mistakes(workspace, *named("gather", "fit"), options=options)
    assert str(problem).endswith(words)


def test_an_unknown_option_is_an_error(workspace):
    with pytest.raises(SettingsError, match=r"unknown option 'TARGETS'.*did you mean 'TARGET'"):
        SerialEngine().inspect(source(workspace, step("true"), options={"TARGETS": "a"}))


# Checking


def test_every_mistake_is_found_at_once_with_its_place(workspace):
    lines = {f"workflow.specification.{place}": line for place, line in {
        "steps": 3, "steps.0": 4, "steps.0.commands.0": 7, "steps.1": 9, "steps.1.environment": 10,
        "steps.1.kubernetes_memory_limit": 12, "steps.2": 14,
    }.items()}  # fmt: skip
    found = mistakes(
        workspace,
        {"name": "gather", "commands": ["echo $(date) ${inptu}"]},
        {"environment": 3, "commands": [{"echo a": "b"}, ""], "kubernetes_memory_limit": "8 Gi"},
        "fit",
        parameters={"input": "x"},
        lines=lines,
    )
    document = workspace / "reana.yaml"
    assert [str(each).replace(str(document), "reana.yaml") for each in found] == [
        "reana.yaml:4: step gather: has no 'environment' (name the container image that the step runs in)",
        "reana.yaml:7: step gather: command 1, column 6: '$(date)' is no parameter"
        " (write $$ for a literal dollar sign)",
        "reana.yaml:7: step gather: command 1, column 14: there is no parameter 'inptu'"
        " (write $$ for a literal dollar sign; did you mean 'input'?)",
        "reana.yaml:10: step step1: environment must be the name of an image, not 3",
        "reana.yaml:9: step step1: command 1 must be a text, not a mapping"
        " (a text with ': ' in it needs quotes)",
        "reana.yaml:9: step step1: command 2 is empty",
        "reana.yaml:12: step step1: kubernetes_memory_limit must be a text such as '512Mi' or '8G',"
        " not '8 Gi'",
        "reana.yaml:14: step step2: a step is a mapping, not 'fit'",
        "reana.yaml: parameter 'input' is not used by any command",
    ]
    assert found[1].pointer == "workflow.specification.steps.0.commands.0"


def test_a_mistake_in_a_command_of_several_lines_has_line_and_column(workspace):
    (problem,) = mistakes(workspace, step("echo\n  awk '{print $1}'"))
    assert "command 1, line 2, column 15: '$1}' is no parameter" in str(problem)


def test_execute_finds_the_same_mistakes_before_the_first_job(workspace):
    jobs = MemoryJobs(workspace)
    with pytest.raises(SpecError, match="there is no parameter 'x'"):
        execute(workspace, step("true"), step("echo $x"), jobs=jobs)
    assert jobs.calls == []


@pytest.mark.parametrize(
    "specification",
    [[], "steps", {}, {"steps": []}, {"steps": {}}, {"steps": "a"}, {"steps": None}],
    ids=json.dumps,
)
def test_what_is_no_specification_is_refused(workspace, specification):
    with pytest.raises(SpecError, match="steps"):
        SerialEngine().inspect(
            Source(root=workspace, document=workspace / "reana.yaml", specification=specification)
        )


@pytest.mark.parametrize(
    "commands", [None, [], "date", {"a": "b"}, [["date"]], [None], ["\0"], ["-x"], [" \n"]]
)
def test_commands_are_a_list_of_texts(workspace, commands):
    assert mistakes(workspace, {"environment": "i", "commands": commands})


RIGHT = {
    "compute_backend": ["kubernetes", "my-cluster"],
    "kerberos": [True, False],
    "kubernetes_uid": [500],
    "kubernetes_job_timeout": [60],
    "kubernetes_cpu_request": ["1", "0.5", "100m"],
    "kubernetes_memory_limit": ["1024", "8Gi", "1.5G"],
    "htcondor_max_runtime": ["espresso", "3600"],
    "htcondor_request_cpus": ["4"],
    "htcondor_request_memory": ["4000", "4 GB", "4gb"],
    "htcondor_requirements": ['(Arch =?= "aarch64")'],
    "slurm_time": ["60"],
    "c4p_cpu_cores": ["8"],
}
WRONG = {
    "compute_backend": [1, None],
    "kerberos": ["true", 1],
    "kubernetes_uid": ["500", 0, -1, 1.5, True],
    "kubernetes_cpu_request": ["0", "0m", "one", 1],
    "kubernetes_memory_limit": ["8 Gi", "8GB", "-1", 1024],
    "htcondor_max_runtime": ["soon", 3600],
    "htcondor_request_cpus": ["0", "four", 4],
    "htcondor_request_memory": ["4 Gi", "0"],
    "htcondor_requirements": [" "],
    "slurm_time": [60],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key in RIGHT for value in RIGHT[key]])
def test_a_right_hint_is_passed_on(workspace, key, value):
    info = SerialEngine().inspect(source(workspace, step("true", **{key: value})))
    assert info.steps[0].hints == {key: value}
    assert info.warnings == ()


@pytest.mark.parametrize(("key", "value"), [(key, value) for key in WRONG for value in WRONG[key]])
def test_a_wrong_hint_is_a_mistake(workspace, key, value):
    (problem,) = mistakes(workspace, step("true", **{key: value}))
    assert problem.pointer == f"workflow.specification.steps.0.{key}"


def test_a_number_where_a_text_belongs_is_easily_mended(workspace):
    (problem,) = mistakes(workspace, step("true", slurm_time=60))
    assert problem.hint == "put it in quotes"


def test_unknown_keys_old_spellings_and_unused_parameters_are_warnings(workspace):
    found = warnings(workspace, step("true", kubernets_uid=5, unpacked_image=True), parameters={"spare": 1})
    assert [each.partition("reana.yaml: ")[2] for each in found] == [
        "step step0: unknown key 'kubernets_uid', left to the backend (did you mean 'kubernetes_uid'?)",
        "step step0: 'unpacked_image' is an old spelling (write 'unpacked_img')",
        "parameter 'spare' is not used by any command",
    ]


# Files


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.yaml", "steps: [{environment: i, commands: [date]}]", True),
        ("a.yml", "steps: [{commands: [date]}]", True),
        ("a.json", '{"steps": [{"commands": ["date"]}]}', True),
        ("a.txt", "steps: [{commands: [date]}]", False),
        ("a.yaml", "steps: [{run: x.cwl}]", False),
        ("a.yaml", "workflow: {specification: {steps: [{commands: [date]}]}}", False),
        ("a.yaml", "a: &a [x, x]\nsteps: !!python/object/apply:os.system [date]", False),
    ],
)
def test_a_bare_file_is_recognised_by_its_steps(workspace, name, text, expected):
    path = workspace / name
    path.write_text(text)
    assert SerialEngine().recognises(path) is expected


def test_a_bare_file_runs_and_its_mistakes_have_its_own_lines(workspace):
    path = workspace / "flow.yaml"
    path.write_text("steps:\n- environment: i\n  commands:\n  - touch a\n  - touch ${b}\n")
    bare = Source(root=workspace, document=path, file=path)
    with pytest.raises(SpecError, match=r"flow\.yaml:5: step step0: command 2, column 7"):
        SerialEngine().inspect(bare)
    path.write_text("steps:\n- environment: i\n  commands:\n  - touch a\n")
    info = SerialEngine().inspect(bare)
    assert (info.steps[0].line, info.files) == (2, ("flow.yaml",))
    SerialEngine().execute(bare, MemoryJobs(workspace))
    assert (workspace / "a").exists()


# Documentation


def test_every_key_and_option_is_documented():
    page = (Path(__file__).parents[3] / "docs" / "reference" / "serial.md").read_text()
    documented = set(re.findall(r"`(\w+)`", page))
    assert documented >= {"name", "commands", "environment", *HINTS}
    assert documented >= {each.name for each in SerialEngine.Options.declared()}
