"""`drawbar run` and what one asks about a run afterwards."""

import hashlib
import json
import os
import time

import pytest

STEPS = {"first": ["echo $word > a.txt"], "second": ["cat a.txt input.txt > b.txt; echo done; echo hm >&2"]}


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_run_says_where_it_is_what_goes_on_and_where_the_outputs_are(cli):
    cli.analysis({"only": ["echo ${word} > a.txt"]}, outputs=["a.txt"])
    done = cli("run", "analysis")
    lines = done.stderr.splitlines()
    workspace = cli.home / "runs/analysis.1/workspace"
    assert done.stdout == ""
    assert lines[0].split() == ["run", "analysis.1"]
    assert lines[1].split() == ["workspace", str(workspace)]
    assert "  only: finished [1/1]" in lines
    assert "analysis.1: finished" in lines
    assert lines[-1].split()[0] == str(workspace / "a.txt")
    assert "\x1b" not in done.stderr


def test_the_document_of_a_run(cli):
    cli.analysis({"first": ["echo ${word} > a.txt"]}, outputs=["a.txt"])
    document = cli.json("run", "analysis", "-p", "word=ten")
    content = b"ten\n"
    assert {key: document[key] for key in ("run", "state", "engine", "backend", "workspace", "outputs")} == {
        "run": "analysis.1",
        "state": "finished",
        "engine": "serial",
        "backend": "local",
        "workspace": str(cli.home / "runs/analysis.1/workspace"),
        "outputs": [{"path": "a.txt", "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}],
    }
    (job,) = document["jobs"]
    assert {
        key: job[key] for key in ("name", "step", "state", "reason", "exit_code", "backend", "cached")
    } == {
        "name": "first",
        "step": "first",
        "state": "finished",
        "reason": None,
        "exit_code": 0,
        "backend": "local",
        "cached": False,
    }
    assert job["native_id"]
    assert job["started"] <= job["finished"]
    assert cli.json("status", "analysis") == document


def test_quiet_says_nothing_when_all_goes_well(cli):
    cli.analysis({"only": ["true"]})
    done = cli("run", "analysis", "--quiet")
    assert (done.stdout, done.stderr) == ("", "")


def test_outputs_are_copied_listed_and_digested(cli):
    cli.analysis({"only": ["mkdir d; echo 1 > d/x; echo 2 > y"]}, outputs=["d/x", "y"])
    cli("run", "analysis", "--outputs", "results")
    assert (cli.directory / "results/d/x").read_text() == "1\n"
    assert (cli.directory / "results/y").read_text() == "2\n"
    cli("outputs", "analysis", "--outputs", "more")
    assert (cli.directory / "more/d/x").read_text() == "1\n"
    listed = {each["path"]: each["sha256"] for each in cli.json("outputs", "analysis")}
    assert listed == {"d/x": hashlib.sha256(b"1\n").hexdigest(), "y": hashlib.sha256(b"2\n").hexdigest()}
    assert "d/x" in cli("outputs", "analysis").stdout


def test_a_missing_output_fails_the_run_and_is_listed(cli):
    cli.analysis({"only": ["true"]}, outputs=["nowhere.txt"])
    done = cli("run", "analysis", status=1)
    assert "nowhere.txt" in done.stderr
    assert cli.json("status", "analysis")["state"] == "failed"
    assert "has no outputs" in cli("outputs", "analysis", status=1).stderr
    cli("run", "analysis", "--allow-missing-outputs")


def test_a_failed_step_is_told_and_repaired(cli):
    document = cli.analysis(
        {"first": ["echo x >> ../ledger"], "second": ["echo oops >&2; exit 7"], "third": ["echo 3 > c"]},
        outputs=["c"],
    )
    done = cli("run", "analysis", status=1)
    assert "second" in done.stderr
    assert "exit code 7" in done.stderr
    assert "drawbar resume analysis.1" in done.stderr
    status = cli("status", "analysis").stdout
    assert "exit-code 7" in status
    assert cli("logs", "analysis", "--step", "second").stdout.endswith("oops\n")
    why = cli("plan", "analysis", "--why", "third").stdout
    assert "has not run yet" in why
    document.write_text(document.read_text().replace("exit 7", "exit 0"))
    assert "a command changed" in cli("plan", "analysis", "--why", "second").stdout
    resumed = cli("resume", "analysis")
    assert "edited: reana.yaml" in resumed.stderr
    assert (cli.home / "runs/analysis.1/ledger").read_text() == "x\n"
    assert "would not repeat" in cli("plan", "analysis", "--why", "third").stdout


def test_logs_of_all_jobs_of_one_and_of_the_engine(cli):
    cli.analysis({"first": ["echo 1"], "second": ["echo 2; echo 3 >&2"]})
    cli("run", "analysis")
    assert cli("logs", "analysis").stdout.splitlines() == [
        *("==> first: first <==", "1", "", "==> second: second <==", "2", ""),
        *("==> second: second (stderr) <==", "3"),
    ]
    assert cli("logs", "analysis", "--step", "first").stdout.splitlines()[1:] == ["1"]
    assert "Publishing step:1" in cli("logs", "analysis", "--engine").stdout
    wrong = cli("logs", "analysis", "--step", "secnd", status=2)
    assert "did you mean 'second'?" in wrong.stderr


def test_tests_of_the_analysis(cli):
    file = cli.analysis({"only": ["echo 1 > a"]}, outputs=["a"], tests={"files": ["good.feature"]})
    feature = file.parent / "good.feature"
    feature.write_text('Feature: Files\n  Scenario: There\n    Then the workspace should contain "a"\n')
    done = cli("run", "analysis", "--test")
    assert "1 passed" in done.stderr
    assert "passed  Files: There" in cli("test", "analysis").stdout
    feature.write_text(feature.read_text().replace('"a"', '"b"'))
    assert "passed" in cli("test", "analysis").stdout, "a run is tested as it was"
    done = cli("run", "analysis", "--test", status=1)
    assert "good.feature:3" in done.stderr
    (result,) = cli.json("test", "analysis", status=1)
    assert result["outcome"] == "failed"


def test_a_name_is_resumed_until_it_has_finished(cli):
    cli.analysis({"only": ["test -e ../../../flag"]})
    cli("run", "analysis", "--name", "n", status=1)
    (cli.directory / "flag").touch()
    (cli.home / "flag").touch()
    done = cli("run", "analysis", "--name", "n")
    assert "n.1 has not finished; resuming it" in done.stderr
    assert "n.1: finished" in done.stderr
    assert "n.2: finished" in cli("run", "analysis", "--name", "n").stderr


def test_an_unfinished_name_stays_what_it_was(cli):
    cli.analysis({"only": ["false"]})
    cli("run", "analysis", "--name", "n", "-p", "word=x", status=1)
    assert "parameter word" in cli("run", "analysis", "--name", "n", "-p", "word=y", status=2).stderr
    cli.analysis({"only": ["true"]}, where="other")
    assert "source" in cli("run", "other", "--name", "n", status=2).stderr
    cli("run", "analysis", "--name", "n", "-p", "word=x", status=1)
    assert [row["run"] for row in cli.json("list")] == ["n.1"]


def test_a_fragment_names_a_part_of_a_workflow_file(cli):
    """The serial engine has no use for one; the run remembers it all the same."""
    file = cli.directory / "sub/steps.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"steps": [{"name": "s", "environment": "i", "commands": ["true"]}]}))
    cli("run", "sub/steps.json#main", "--name", "n")
    assert json.loads((cli.home / "runs/n.1/run.json").read_text())["fragment"] == "main"
    cli("resume", "n")


def test_parameters_from_a_file_are_kept_with_the_run(cli):
    cli.analysis({"only": ["echo ${word} > a"]}, outputs=["a"])
    (cli.directory / "p.yaml").write_text("word: filed\n")
    cli("run", "analysis", "--parameters", "p.yaml", "--outputs", "out")
    assert (cli.directory / "out/a").read_text() == "filed\n"
    (cli.directory / "p.yaml").unlink()
    cli("resume", "analysis", "--as-was")


# workspaces


def test_a_workspace_of_ones_own(cli):
    cli.analysis({"only": ["cat input.txt > a"]}, outputs=["a"])
    own = cli.directory / "own"
    own.mkdir()
    (own / "input.txt").write_text("one\n")
    cli("run", "analysis", "--workspace", "own")
    assert (own / "a").read_text() == "one\n"
    cli("delete", "analysis")
    assert (own / "a").exists()


def test_files_in_the_way_are_all_named_and_nothing_is_touched(cli):
    cli.analysis({"only": ["true"]}, inputs={"files": ["input.txt", "b.txt", "sub/c.txt"]})
    (cli.directory / "analysis/b.txt").write_text("b")
    (cli.directory / "analysis/sub").mkdir()
    (cli.directory / "analysis/sub/c.txt").write_text("c")
    own, outside = cli.directory / "own", cli.directory / "outside"
    own.mkdir()
    outside.mkdir()
    (own / "input.txt").write_text("mine\n")
    (own / "sub").symlink_to(outside)
    done = cli("run", "analysis", "--workspace", own, status=2)
    assert "'input.txt'" in done.stderr
    assert "'sub/c.txt'" in done.stderr
    assert (own / "input.txt").read_text() == "mine\n"
    assert names(own) == ["input.txt", "sub"]
    assert names(outside) == []
    assert names(cli.home / "runs") == []


def test_in_place_works_in_the_directory_of_the_analysis(cli):
    cli.analysis({"only": ["cat input.txt > a"]}, outputs=["a"])
    cli("run", "analysis", "--in-place")
    assert (cli.directory / "analysis/a").read_text() == "one\n"
    wrong = cli("run", "analysis", "--in-place", "--workspace", "x", status=2)
    assert "exclude each other" in wrong.stderr


def test_a_home_among_the_files_of_the_analysis_is_refused(cli):
    (cli.directory / "s.json").write_text(json.dumps({"steps": [{"environment": "i", "commands": ["true"]}]}))
    cli.home.mkdir()
    assert "DRAWBAR_HOME" in cli("run", "s.json", status=2).stderr


def test_a_workspace_that_holds_the_home_is_refused(cli):
    cli.analysis({"only": ["true"]})
    assert "DRAWBAR_HOME" in cli("run", "analysis", "--workspace", cli.directory, status=2).stderr


# mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nothing"], "nothing"),
        (["run", "empty"], "no reana.yaml"),
        (["run", "analysis", "-p", "wrod=1"], "did you mean 'word'?"),
        (["run", "analysis", "-p", "word"], "-p NAME=VALUE"),
        (["run", "analysis", "-o", "FORM=x"], "FORM"),
        (["run", "analysis", "-o", "TARGET=onyl"], "onyl"),
        (["run", "analysis", "--until", "onyl"], "onyl"),
        (["run", "analysis", "--backend", "lokal"], "lokal"),
        (["run", "analysis", "--engine", "cwl"], "--engine"),
        (["run", "analysis", "--name", "a/b"], "a/b"),
        (["run", "analysis", "--container", "docker", "--no-container"], "exclude each other"),
        (["run", "analysis", "--parameters", "missing.yaml"], "missing.yaml"),
        (["--set", "limits.cpu=1", "run", "analysis"], "did you mean 'cpus'?"),
        (["run", "escape"], "leaves the directory"),
        (["run", "link"], "symbolic link that leads out"),
        (["run", "types"], "reana.yaml:"),
        (["runn"], "did you mean 'run'?"),
        (["run", "--nmae", "x"], "--name"),
        (["status", "analysis"], "no run 'analysis'"),
        (["resume"], "--all"),
        (["validate", "analysis", "--backend", "lokal"], "lokal"),
        (["prune", "--older-than", "soon"], "30d"),
        (["backends", "check", "lokal"], "lokal"),
    ],
)
def test_a_mistake_is_explained_in_a_line_or_few(cli, arguments, said):
    cli.analysis({"only": ["true"]})
    (cli.directory / "empty").mkdir()
    cli.analysis({"only": ["true"]}, where="escape", inputs={"files": ["../input.txt"]})
    cli.analysis({"only": ["true"]}, where="types", outputs=["a"], version=[3])
    link = cli.analysis({"only": ["true"]}, where="link", inputs={"files": ["secret"]}).parent
    (link / "secret").symlink_to("/etc/passwd")
    done = cli(*arguments, status=2)
    assert said in done.stderr
    assert "drawbar: error: " in done.stderr
    assert len(done.stderr.splitlines()) < 12
    assert done.stdout == ""


def test_names_from_a_specification_cannot_write_on_the_terminal(cli):
    cli.analysis({"evil\x1b[2Jstep": ["exit 3"]})
    for done in (
        cli("run", "analysis", status=1),
        cli("status", "analysis"),
        cli("logs", "analysis"),
        cli("plan", "analysis"),
    ):
        assert "\x1b" not in done.stdout + done.stderr


def test_images_are_not_ignored_unasked(cli):
    cli.analysis({"only": ["true"]})
    done = cli("validate", "analysis", "--backend", "local", status=2, DRAWBAR_CONTAINERS="auto")
    assert "example.org/image:1" in done.stderr
    assert "--no-container" in done.stderr
    assert cli("validate", "analysis", "--no-container", DRAWBAR_CONTAINERS="auto").stdout
    planned = cli("plan", "analysis", "--backend", "local", status=2, DRAWBAR_CONTAINERS="auto")
    assert planned.stdout.splitlines()[1].split()[:2] == ["only", "none"]
    assert "no containers" in planned.stderr


def test_a_stack_trace_only_when_asked_for(cli):
    process = cli.start("--debug", "status", "x")
    _, said = process.communicate()
    assert process.returncode == 2
    assert "Traceback" in said


def test_a_home_that_cannot_be_written_is_an_infrastructure_failure(cli):
    cli.analysis({"only": ["true"]})
    cli.home.write_text("in the way")
    done = cli("run", "analysis", status=3)
    assert str(cli.home) in done.stderr


def test_a_reader_that_goes_away_is_no_error(cli):
    done = cli.start("config")
    done.stdout.close()
    assert "Traceback" not in done.stderr.read()
    done.stderr.close()
    assert done.wait() == 1


# looking and cleaning


def test_list_shows_name_state_and_size(cli):
    assert "no runs yet" in cli("list").stdout
    cli.analysis({"only": ["true"]})
    cli("run", "analysis")
    cli("run", "analysis", "--name", "other")
    assert [(row["run"], row["state"]) for row in cli.json("list")] == [
        ("analysis.1", "finished"),
        ("other.1", "finished"),
    ]
    assert [row["run"] for row in cli.json("list", "other")] == ["other.1"]
    assert all(row["size"] > 0 for row in cli.json("list"))
    assert cli("list").stdout.splitlines()[0].split()[:3] == ["RUN", "STATE", "ENGINE"]


def test_prune_goes_by_age_and_keeps_what_is_to_be_kept(cli):
    cli.analysis({"only": ["mkdir -m 500 locked; echo 1 > a; echo 2 > b"]}, outputs=["a"])
    cli("run", "analysis")
    cli("prune", "--older-than", "1h")
    workspace = cli.home / "runs/analysis.1/workspace"
    assert (workspace / "b").exists()
    cli("prune", "--older-than", "0s", "--keep", "outputs", "--dry-run")
    assert (workspace / "b").exists()
    cli("prune", "--older-than", "0s", "--keep", "outputs")
    assert names(workspace) == ["a"]
    assert "analysis.1" in cli("prune", "--older-than", "0s", "--dry-run").stderr
    cli("prune", "--older-than", "0s")
    assert names(cli.home / "runs") == []


@pytest.mark.parametrize(("keep", "left"), [("all", ["a", "b"]), ("outputs", ["a"]), ("none", None)])
def test_what_stays_of_a_workspace_is_a_setting(cli, keep, left):
    cli.analysis({"only": ["echo 1 > a; echo 2 > b"]}, outputs=["a"], inputs={})
    cli("--set", f"keep={keep}", "run", "analysis", "--outputs", "results")
    workspace = cli.home / "runs/analysis.1/workspace"
    assert (names(workspace) if workspace.exists() else None) == left
    assert (cli.directory / "results/a").read_text() == "1\n"


def test_prune_clears_what_a_killed_run_or_delete_left(cli):
    runs = cli.home / "runs"
    for name in ("half.1", "young.1", "gone.1.abcd.deleted"):
        (runs / name).mkdir(parents=True)
    old = time.time() - 7 * 86400
    os.utime(runs / "half.1", (old, old))
    cli("prune", "--older-than", "30d")
    assert names(runs) == ["young.1"]


def test_the_installation(cli):
    engines = {row["name"]: row for row in cli.json("engines")}
    assert "until" in engines["serial"]["features"]
    assert "serial" in cli("engines").stdout
    (local,) = [row for row in cli.json("backends") if row["name"] == "local"]
    assert local["default"]
    assert "can be used" in cli("backends", "check", "local").stdout
    assert cli.json("backends", "check", "local")["usable"]
    assert {"local", "serial"} <= {row["name"] for row in cli.json("plugins")}


def test_config_tells_value_and_origin(cli):
    file = cli.directory / "config/drawbar/drawbar.toml"
    file.parent.mkdir(parents=True)
    file.write_text("[limits]\ncpus = 3\njobs_in_flight = 7\n")
    rows = {row["name"]: row for row in cli.json("--set", "limits.cpus=2", "config")}
    assert (rows["limits.cpus"]["value"], rows["limits.cpus"]["origin"]) == (2.0, "command line")
    assert rows["limits.jobs_in_flight"]["origin"] == str(file)
    assert rows["home"]["origin"] == "environment DRAWBAR_HOME"
    assert rows["backend"]["origin"] == "default"
    assert "limits.cpus" in cli("config").stdout


def test_validate_tells_everything_at_once(cli):
    file = cli.analysis({"only": ["echo ${nothing}"]}, tests={"files": ["bad.feature"]}, outputs=["a"])
    (file.parent / "bad.feature").write_text("Feature: F\n  Scenario: S\n    Then nonsense\n")
    report = cli.json("validate", "analysis", status=2)
    texts = " ".join(problem["message"] for problem in report["problems"])
    assert not report["valid"]
    assert "nothing" in texts
    assert "nonsense" in texts
    assert {problem["severity"] for problem in report["problems"]} == {"error", "warning"}


def test_validate_and_plan_of_what_is_right(cli):
    cli.analysis(STEPS)
    assert "valid (serial, 2 steps)" in cli("validate", "analysis").stdout
    assert cli.json("validate", "analysis", "--no-exec")["inspected"] is True
    plan = cli.json("plan", "analysis")
    assert [(step["step"], step["backend"], step["jobs"]) for step in plan["steps"]] == [
        ("first", "local", 1),
        ("second", "local", 1),
    ]
    assert cli("plan", "analysis", "--mermaid").stdout.startswith('flowchart TD\n  s0["')
    assert "run without their images" in cli("plan", "analysis").stderr
