"""The language: schedulers, conditions, selectors, processes, publishers, environments, initial data."""

import zipfile

import pytest
from drawbar.errors import SpecError, Unsupported
from drawbar.model import Resources

LOCAL = {"environment_type": "localproc-env"}
NUMBERS = {"step": "init", "output": "numbers"}


def zipped(*names, **more):
    return {"scatter": {"method": "zip", "parameters": list(names)}, **more}


# Schedulers.


def test_zip_goes_through_lists_side_by_side_and_cartesian_through_all_pairs(flow, stage):
    lists = {"a": NUMBERS, "b": ["x", "y", "z"]}
    publisher = {"publisher_type": "interpolated-pub", "publish": "{a}{b}"}
    both = {"scatter": {"method": "cartesian", "parameters": ["a", "b"]}}
    found = flow.run(
        [
            stage("zip", "true", needs=["init"], parameters=lists, publisher=publisher, **zipped("a", "b")),
            stage("all", "true", needs=["init"], parameters=lists, publisher=publisher, **both),
        ],
        numbers=[1, 2],
    )
    assert [found[f"zip/{n}"].rpartition("/")[2] for n in range(2)] == ["1x", "2y"]
    assert [found[f"all/{n}"] for n in range(6)] == ["1x", "1y", "1z", "2x", "2y", "2z"]
    assert "zip/2" not in found


@pytest.mark.parametrize(
    ("size", "groups"),
    [({"batchsize": 2}, [[1, 2], [3, 4], [5]]), ({"partitionsize": 2}, [[1, 2], [3, 4, 5]])],
)
def test_a_scatter_takes_batches(flow, stage, size, groups):
    publisher = {"publisher_type": "frompar-pub", "outputmap": {"x": "x"}}
    scatter = stage("s", "echo {x} > {out}", needs=["init"], parameters={"x": NUMBERS}, publisher=publisher)
    scatter["scheduler"] |= {"scheduler_type": "multistep-stage", **zipped("x"), **size}
    found = flow.run([scatter], numbers=[1, 2, 3, 4, 5])
    assert [found[f"s/{n}"]["x"] for n in range(len(groups))] == groups
    assert flow.text("s_0/out") == "1 2\n"


def test_a_jq_stage_makes_its_own_parameter_sets(flow, stage):
    made = stage("made", needs=["init"])
    step = made["scheduler"]["step"]
    made["scheduler"] = {
        "scheduler_type": "jq-stage",
        "bindings": {"n": {"$wflowref": [".init[]", ".numbers"]}},
        "stepscript": '.n[][] | map({n: ., out: "{workdir}/out"})',
        "postscript": ". + {n: (.n * 10)}",
        "step": {**step, "process": {"process_type": "string-interpolated-cmd", "cmd": "echo {n} > {out}"}},
    }
    found = flow.run([made], numbers=[1, 2])
    assert found["made/1"] == {"out": "<work>/made_1/out"}
    assert flow.text("made_1/out") == "20\n"


def test_the_first_case_that_is_true_is_taken_and_none_is_no_step(flow, stage):
    def choosing(name, value):
        body = stage("x", "echo one > {out}")["scheduler"]["step"]
        inner = stage(
            "inner", "echo two > {out}", parameters={"out": {"step": "init", "output": "out"}}, needs=["init"]
        )
        cases = [{"if": ".n == 1", "step": body}, {"if": ".n == 2", "workflow": {"stages": [inner]}}]
        return stage(name, needs=["init"], parameters={"n": value}, cases=cases)

    after = stage("after", needs=["three"])
    found = flow.run([choosing("one", 1), choosing("two", 2), choosing("three", 3), after], numbers=1)
    assert flow.text("one/out") == "one\n"
    # {workdir} in a parameter of a sub-workflow is the directory of the step that uses it
    assert found["two/0/inner/0"] == {"out": "<work>/two/inner/out"}
    assert flow.text("two/inner/out") == "two\n"
    assert not any(key.startswith(("three", "after")) for key in found)
    assert any("stage 'after' was not scheduled" in line for line in flow.jobs.log_lines)


def test_sub_workflows_in_sub_workflows_are_waited_for_as_a_whole(flow, stage):
    glob = {"publisher_type": "fromglob-pub", "globexpression": "o*", "outputkey": "out"}
    leaf = stage(
        "leaf",
        "echo {x} > {out}",
        needs=["init"],
        parameters={"x": {"step": "init", "output": "x"}},
        publisher=glob,
    )
    collected = {
        "expression_type": "stage-output-selector",
        "stages": "leaf",
        "output": "out",
        "unwrap": True,
    }
    leaf["scheduler"]["register_values"] = {"leaves": collected}
    inner = {"stages": [leaf]}
    middle = stage(
        "middle",
        needs=["init"],
        parameters={"x": {"step": "init", "output": "x"}},
        workflow=inner,
        **zipped("x"),
    )
    outer = stage(
        "outer", needs=["init"], parameters={"x": NUMBERS}, workflow={"stages": [middle]}, **zipped("x")
    )
    paths = {"stages": "outer[*].middle[*].leaf", "output": "out", "flatten": True}
    add = stage("add", "cat {all} > {out}", needs=["outer"], parameters={"all": paths})
    flow.run([outer, add], numbers=[[1, 2], [3]])
    assert flow.text("add/out") == "1\n2\n3\n"
    assert sorted(flow.jobs.executed)[1:] == [f"outer/{n}/leaf/0" for n in ()] + sorted(
        ["outer/0/middle/0/leaf/0", "outer/0/middle/1/leaf/0", "outer/1/middle/0/leaf/0"]
    )


def test_values_are_registered_in_a_scope(flow, stage):
    one = {"expression_type": "stage-output-selector", "step": "a", "output": "out"}
    inner = stage("a", "echo in > {out}", register_values={"kept": one})
    found = flow.run(
        [
            stage("sub", workflow={"stages": [inner]}),
            stage(
                "b",
                "cat {x} > {out}",
                needs=["sub"],
                parameters={"x": {"stages": "sub", "output": "kept", "unwrap": True}},
            ),
            stage(
                "c",
                "cat {x} > {out}",
                needs=["sub"],
                parameters={"x": {"expression_type": "fromvalue", "key": "kept", "scope": "sub"}},
            ),
        ]
    )
    assert (flow.text("b/out"), flow.text("c/out")) == ("in\n", "in\n")
    assert found["c/0"] == {"out": "<work>/c/out"}


def test_a_stage_can_wait_for_expressions(flow, stage):
    glob = {"publisher_type": "fromglob-pub", "globexpression": "*", "outputkey": "files"}
    files = {"expression_type": "stage-output-selector", "stages": "a", "output": "files", "flatten": True}
    condition = {"dependency_type": "expressions_fulfilled", "expressions": [files]}
    found = flow.run(
        [stage("a", publisher=glob), stage("b", "cat {x} > {out}", needs=condition, parameters={"x": files})]
    )
    assert found["b/0"] == {"out": "<work>/b/out"}


def test_a_stage_can_wait_for_paths_by_their_full_form(flow, stage):
    condition = {"dependency_type": "jsonpath_ready", "expressions": ["a"]}
    files = {"expression_type": "stage-output-selector", "stages": "a", "output": "out"}
    flow.run(
        [
            stage("a", "echo first > {out}"),
            stage("b", "cat {x} > {out}", needs=condition, parameters={"x": files}),
        ]
    )
    assert flow.text("b/out") == "first\n"


def test_a_stage_that_depends_on_the_initial_data_runs_without_any(flow, stage):
    assert "a/0" in flow.run([stage("a", needs=["init"])])


# Processes and environments.


def test_a_script_is_read_by_its_interpreter(flow, stage):
    script = "import sys\nprint({x}, file=open('{out}', 'w'))\n"
    process = {"process_type": "interpolated-script-cmd", "script": script, "interpreter": "python3"}
    flow.run([stage("a", process=process, parameters={"x": [4, 2]})][:1])
    assert flow.failure is not None  # a list is joined by blanks, which is no Python
    flow.run([stage("b", process=process, parameters={"x": 42})])
    assert flow.text("b/out") == "42\n"


def test_an_environment_sets_variables_sources_a_script_and_has_hints(flow, stage):
    (flow.workspace / "setup.sh").write_text("export GREETING=hello\n")
    environment = {
        "environment_type": "docker-encapsulated",
        "image": "busybox",
        "envscript": "./setup.sh",
        "env": {"NAME": "you"},
        "resources": ["CVMFS", "GRIDProxy", {"kubernetes_memory_limit": "1Gi"}],
    }
    flow.run([stage("a", 'echo "$GREETING $NAME" > {out}', environment=environment)])
    assert flow.text("a/out") == "hello you\n"
    spec = flow.spec("a/0")
    assert spec.hints == {"memory": {"voms_proxy": True, "kubernetes_memory_limit": "1Gi"}}
    assert spec.resources.memory_limit_mib == 1024
    assert spec.directory == str(flow.workspace)
    assert spec.image is None


def test_a_step_works_in_its_own_directory_or_where_it_says(flow, stage):
    image = {"environment_type": "docker-encapsulated", "image": "busybox", "workdir": "{workdir}"}
    flow.run([stage("a", "pwd > {out}"), stage("b", "pwd > {out}", environment=image)])
    assert flow.text("a/out") == f"{flow.workspace}/a\n"
    assert flow.text("b/out") == f"{flow.workspace}/b\n"


def test_in_a_container_what_a_step_only_reads_is_read_only(flow, stage):
    flow.container = True
    image = {"environment_type": "docker-encapsulated", "image": "busybox", "imagetag": "1"}
    mounted = {**image, "par_mounts": [{"mountpath": "/pars/x", "jqscript": ".x"}]}
    flow.run(
        [
            stage("a", environment=image),
            stage("b", needs=["a"], environment=mounted, parameters={"x": {"step": "a", "output": "out"}}),
        ]
    )
    spec = flow.spec("b/0")
    assert spec.image == "busybox:1"
    first, second = spec.mounts
    assert (first.source, first.target, first.read_only) == (
        f"{flow.workspace}/a",
        f"{flow.workspace}/a",
        True,
    )
    assert (second.target, second.read_only) == ("/pars/x", True)
    with open(second.source) as file:  # noqa: PTH123
        assert file.read() == f'"{flow.workspace}/a/out"'


def test_reanas_keys_are_resources_on_every_backend(flow, stage):
    keys = {"cpu_request": "1500m", "memory_request": "1G", "memory_limit": "0.5Gi", "job_timeout": 60}
    items = [{f"kubernetes_{key}": value} for key, value in keys.items()]
    image = {"environment_type": "docker-encapsulated", "image": "busybox", "resources": items}
    flow.run([stage("a", environment=image)])
    assert flow.spec("a/0").resources == Resources(
        cpus=1.5, memory_mib=954, memory_limit_mib=512, walltime_s=60
    )


def test_in_a_container_a_script_and_what_it_asks_for_can_be_seen(flow, stage):
    flow.container = True
    image = {"environment_type": "docker-encapsulated", "image": "busybox", "resources": ["CVMFS"]}
    process = {"process_type": "interpolated-script-cmd", "script": "touch {out}", "interpreter": "sh"}
    flow.run([stage("a", process=process, environment=image)])
    spec = flow.spec("a/0")
    private = str(flow.jobs.directory("a/0"))
    seen = [(mount.source, mount.target, mount.read_only) for mount in spec.mounts]
    assert seen == [("/cvmfs", "/cvmfs", True), (private, private, True)]
    assert spec.stdin == f"{private}/script"


def test_parameter_mounts_take_a_container(flow, stage):
    image = {"environment_type": "docker-encapsulated", "image": "busybox"}
    mounted = {**image, "par_mounts": [{"mountpath": "/pars/x", "jqscript": ".out"}]}
    with pytest.raises(Unsupported, match="par_mounts want /pars/x"):
        flow.run([stage("a", environment=mounted)])


def test_an_environment_that_does_nothing_publishes(flow, stage):
    found = flow.run([stage("a", environment={"environment_type": "noop-env"})])
    assert found == {"a/0": {"out": "<work>/a/out"}}
    assert flow.jobs.submitted == []


# Publishers.


def published(flow, stage, cmd, publisher, **parameters):
    return flow.run([stage("a", cmd, publisher=publisher, parameters=parameters)])["a/0"]


def test_globs_are_sorted_and_go_deep(flow, stage):
    publisher = {"publisher_type": "fromglob-pub", "globexpression": "**/*.x", "outputkey": "found"}
    found = published(flow, stage, "mkdir d; touch c.x d/a.x b.x", publisher)
    assert found == {"found": ["<work>/a/b.x", "<work>/a/c.x", "<work>/a/d/a.x"]}


def test_a_step_publishes_what_it_wrote_as_yaml(flow, stage):
    publisher = {"publisher_type": "fromyaml-pub", "yamlfile": "r.yml"}
    assert published(flow, stage, "echo 'x: [1, {{y: two}}]' > r.yml", publisher) == {"x": [1, {"y": "two"}]}


def test_interpolated_texts_can_be_patterns(flow, stage):
    publisher = {
        "publisher_type": "interpolated-pub",
        "publish": {"files": "{name}*", "fixed": 3},
        "glob": True,
        "relative_paths": True,
    }
    found = published(flow, stage, "touch r1 r2", publisher, name="r")
    assert found == {"files": ["<work>/a/r1", "<work>/a/r2"], "fixed": 3}


def test_parameters_go_through_jq_and_name_files(flow, stage):
    publisher = {
        "publisher_type": "fromparjq-pub",
        "script": "{a: .x, b: .y, c: .z}",
        "glob": True,
        "relative_paths": True,
    }
    found = published(flow, stage, "touch here p1 p2", publisher, x="here", y="p*", z=1)
    assert found == {"a": "<work>/a/here", "b": ["<work>/a/p1", "<work>/a/p2"], "c": 1}


def test_nothing_published_is_no_failure(flow, stage):
    publisher = {"publisher_type": "constant-pub", "publish": {}}
    found = flow.run([stage("a", "true", publisher=publisher), stage("b", needs=["a"])])
    assert found == {"a/0": {}, "b/0": {"out": "<work>/b/out"}}
    assert flow.failure is None


def test_braces_that_mean_nothing_stay_in_parameters(flow, stage):
    flow.run([stage("a", "echo '{x}' > {out}", parameters={"x": '{"key": {workdir}}'})])
    assert flow.text("a/out") == f'{{"key": {flow.workspace}/a}}\n'


# Initial data.


def test_initial_texts_that_name_files_become_their_paths(flow, stage):
    (flow.workspace / "data").mkdir()
    for name in ("one.txt", "two.txt"):
        (flow.workspace / "data" / name).write_text(name)
    values = {"one": "data/one.txt", "all": "data/*.txt", "text": "nothing"}
    found = flow.run([stage("a", needs=["init"])], **values)
    assert found["init/0"] == {
        "one": "<work>/data/one.txt",
        "all": ["<work>/data/one.txt", "<work>/data/two.txt"],
        "text": "nothing",
    }


def test_what_a_run_made_is_no_initial_data_of_its_replay(flow, stage):
    stages = [
        stage(
            "results",
            "echo {x} > {out}",
            needs=["init"],
            parameters={"x": {"step": "init", "output": "name"}},
        )
    ]
    first = flow.run(stages, name="results", pattern="*")
    assert first["init/0"] == {"name": "results", "pattern": ["<work>/workflow.yml"]}
    assert flow.run(stages, name="results", pattern="*") == first
    assert flow.jobs.submitted == []


def test_initial_data_comes_from_files_directories_and_archives(flow, stage):
    (flow.workspace / "more.yml").write_text("name: f.dat\nother: 1\n")
    with zipfile.ZipFile(flow.workspace / "in.zip", "w") as archive:
        archive.writestr("top/f.dat", "packed")
        archive.writestr("top/", "")
    flow.options = {"initfiles": ["more.yml"], "dataopts": {"inputarchive": "in.zip", "archivematch": "t*/"}}
    stages = [
        stage("a", "cat {f} > {out}", needs=["init"], parameters={"f": {"step": "init", "output": "name"}})
    ]
    found = flow.run(stages, other=2)
    assert found["init/0"] == {"name": "<work>/init/f.dat", "other": 2}
    assert flow.text("a/out") == "packed"


def test_an_archive_cannot_write_outside(flow, stage):
    with zipfile.ZipFile(flow.workspace / "in.zip", "w") as archive:
        archive.writestr("../evil", "x")
    flow.options = {"dataopts": {"inputarchive": "in.zip"}}
    with pytest.raises(SpecError, match="inputarchive"):
        flow.run([stage("a")], x=1)
    assert not (flow.workspace.parent / "evil").exists()


def test_references_are_relative_to_the_toplevel_then_to_their_file(flow, stage):
    (flow.workspace / "flows/steps").mkdir(parents=True)
    (flow.workspace / "flows/main.yml").write_text("stages: [{$ref: 'steps/all.yml#/first'}]\n")
    (flow.workspace / "flows/steps/all.yml").write_text(
        "first:\n  name: a\n  scheduler:\n    scheduler_type: singlestep-stage\n"
        "    parameters: {out: '{workdir}/o'}\n"
        "    step: {$ref: 'one.yml#/s~1t'}\n"
    )
    (flow.workspace / "flows/steps/one.yml").write_text(
        "s/t:\n  process: {process_type: string-interpolated-cmd, cmd: 'echo hi > {out}'}\n"
        "  environment: {environment_type: localproc-env}\n"
        "  publisher: {publisher_type: frompar-pub, outputmap: {o: out}}\n"
    )
    source = flow.source([stage("x")])
    from dataclasses import replace

    from drawbar.testing.memory import MemoryJobs
    from drawbar_yadage.engine import YadageEngine

    source = replace(source, file=flow.workspace / "main.yml", options={"toplevel": "flows"})
    info = YadageEngine().inspect(source)
    assert info.files == ("flows/main.yml", "flows/steps/all.yml", "flows/steps/one.yml")
    YadageEngine().execute(source, MemoryJobs(flow.workspace))
    assert flow.text("a/o") == "hi\n"


# Running.


def test_log_lines_are_those_that_published_tests_look_for(flow, stage):
    inner = {"stages": [stage("hello", needs=["init"])]}
    flow.run([stage("sub", needs=["init"], workflow=inner)], par=1)
    for line in (
        "yadage.creators | MainThread | INFO | initializing workflow",
        "yadage.wflowview | MainThread | INFO | added </init:0|defined|unknown>",
        "yadage.wflowview | MainThread | INFO | added </sub/0/hello:0|defined|unknown>",
        "adage.pollingexec | MainThread | INFO | submitting nodes [</init:0|defined|known>]",
        "adage.node | MainThread | INFO | node ready </sub/0/hello:0|success|known>",
        "adage | MainThread | INFO | workflow completed successfully.",
        "adage | MainThread | INFO | execution valid. (in terms of execution order)",
    ):
        assert any(line in each for each in flow.jobs.log_lines), f"{line} is not among {flow.jobs.log_lines}"


def test_a_failure_names_step_command_log_and_what_did_not_run(flow, stage):
    flow.run(
        [
            stage("a"),
            stage(
                "b", "echo oh no >&2; exit 3", needs=["a"], parameters={"x": {"step": "a", "output": "out"}}
            ),
            stage("c", needs=["b"], parameters={"x": {"step": "b", "output": "out"}}),
            stage("d", needs=["c"], parameters={"x": {"step": "c", "output": "out"}}),
        ]
    )
    assert flow.failure.step == "b"
    message = str(flow.failure)
    for part in (
        "step 'b' ended with exit code 3: echo oh no >&2; exit 3",
        "  oh no",
        "its log: ",
        "not run: c, d",
    ):
        assert part in message


def test_a_result_that_differs_from_the_announced_one_fails_the_step(flow, stage, monkeypatch):
    import drawbar_yadage.driver as driver

    monkeypatch.setattr(driver, "expected", lambda *_: driver.Values({"out": "elsewhere"}))
    flow.run([stage("a")])
    assert "announced {'out': 'elsewhere'} before it ran" in str(flow.failure)


def test_a_stage_does_not_write_into_the_users_directories(flow, stage):
    (flow.workspace / "data").mkdir()
    (flow.workspace / "data/one.txt").write_text("precious")
    with pytest.raises(SpecError, match="directory data, which is part of the analysis"):
        flow.run([stage("data")])
    assert flow.text("data/one.txt") == "precious"


def test_what_an_attempt_left_is_cleared_before_the_next(flow, stage):
    publisher = {"publisher_type": "fromglob-pub", "globexpression": "*", "outputkey": "files"}
    flow.run([stage("a", "touch left; exit 1", publisher=publisher)])
    found = flow.run([stage("a", "touch right", publisher=publisher)])
    assert found["a/0"] == {"files": ["<work>/a/right"]}


def test_equal_jobs_elsewhere_have_equal_keys(flow, stage, tmp_path):
    stages = [
        stage("a", "echo 1 > {out}"),
        stage("b", "cat {x} > {out}", needs=["a"], parameters={"x": {"step": "a", "output": "out"}}),
    ]
    flow.run(stages)
    other = type(flow)(tmp_path / "another/place")
    other.workspace.mkdir(parents=True)
    other.run(stages)
    assert other.jobs.keys == flow.jobs.keys


def test_a_diagram_is_drawn_on_request(flow, stage):
    flow.options = {"diagram": "dag.mmd"}
    flow.run([stage("a"), stage("b", needs=["a"], parameters={"x": {"step": "a", "output": "out"}})])
    assert flow.text("dag.mmd") == 'flowchart TD\n  n0["a 0"]\n  n1["b 0"]\n  n0 --> n1\n'
