"""Analyses on a real HTCondor, through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.htcondor

STEPS = """
workflow:
  type: serial
  specification:
    steps:
      - name: first
        environment: docker.io/library/python:3.12
        compute_backend: htcondorcern
        htcondor_max_runtime: espresso
        htcondor_accounting_group: group_u_X.u_y
        htcondor_request_cpus: "2"
        htcondor_request_memory: "64"
        htcondor_request_disk: "2048"
        htcondor_requirements: HasWfa
        commands: ["cat $$_CONDOR_JOB_AD > first.txt"]
      - name: second
        environment: docker.io/library/python:3.12
        compute_backend: local
        commands: ["cat first.txt > second.txt"]
outputs:
  files: [second.txt]
"""
FLOW = """
cwlVersion: v1.2
class: Workflow
requirements: {ScatterFeatureRequirement: {}}
inputs: {words: "string[]", text: File}
outputs: {all: {type: File, outputSource: join/all}}
steps:
  say:
    run:
      class: CommandLineTool
      baseCommand: [sh, -c, 'test ! -e ../../../workspace/flow.cwl && cat "$0" && echo "$1"']
      inputs:
        text: {type: File, inputBinding: {position: 1}}
        word: {type: string, inputBinding: {position: 2}}
      outputs: {out: stdout}
    scatter: word
    in: {word: words, text: text}
    out: [out]
  join:
    run:
      class: CommandLineTool
      baseCommand: cat
      inputs: {parts: {type: "File[]", inputBinding: {}}}
      outputs: {all: stdout}
      stdout: all.txt
    in: {parts: say/out}
    out: [all]
"""
INPUT = "words: [one, two, three]\ntext: {class: File, location: text.txt}\n"
GATED = """
rule all:
    input: expand("out/{n}", n=range(30))
rule one:
    output: "out/{n}"
    shell: "sleep 600; touch {output}"
"""


@pytest.fixture
def analysis(shared):
    """A directory for an analysis."""
    directory = shared / "analysis"
    directory.mkdir()
    return directory


@pytest.fixture
def drawbar(pool, shared, analysis):
    """Runs drawbar as the user of the pool; `settings` are those of the backend htcondorcern."""

    def run(*arguments, settings="", place=shared, code=0):
        (shared / "drawbar.toml").write_text(
            f'[backends.htcondorcern]\nkind = "htcondor"\npoll_s = 2\n{settings}\n'
        )
        environment = {
            **os.environ,
            "HOME": str(shared),
            "DRAWBAR_HOME": str(place / "home"),
            "DRAWBAR_SYSTEM_CONFIG": str(shared / "drawbar.toml"),
        }
        done = subprocess.run(
            [*pool.as_user, sys.executable, "-m", "drawbar.cli", *map(str, arguments)],
            cwd=analysis,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return done

    return run


def test_all_four_engines(pool, shared, software, four_engines):
    settings = f'[backends.htcondor]\npoll_s = 2\nprolog = ["{software}"]\n'
    options = ("--backend", "htcondor", "--no-container")
    runs = four_engines(shared, settings, *options, prefix=pool.as_user)
    jobs = [job for run in runs.values() for job in run["jobs"]]
    assert {job["backend"] for job in jobs} == {"htcondor"}
    assert len({job["native_id"] for job in jobs}) == len(jobs) == 16


def test_steps_on_different_backends_and_reanas_keys(drawbar, shared, analysis):
    (analysis / "reana.yaml").write_text(STEPS)
    run = json.loads(drawbar("run", "--no-container", "--json", "--outputs", shared / "out").stdout)
    jobs = {job["step"]: job for job in run["jobs"]}
    assert (jobs["first"]["backend"], jobs["second"]["backend"]) == ("htcondorcern", "local")
    (text,) = (shared / "out").rglob("second.txt")
    ad = dict(line.split(" = ", 1) for line in text.read_text().splitlines() if " = " in line)
    assert f"{ad['ClusterId']}.{ad['ProcId']}" == jobs["first"]["native_id"]
    assert (ad["RequestCpus"], ad["RequestMemory"], ad["RequestDisk"]) == ("2", "64", "2048")
    assert (ad["JobFlavour"], ad["MaxRuntime"]) == ('"espresso"', str(1200 + 10 + 60))
    assert ad["AcctGroup"] == '"group_u_X.u_y"'
    assert "HasWfa" in ad["Requirements"]


def test_a_whole_run_is_cancelled_in_one_call(pool, drawbar, analysis):
    def queued():
        ids = ["condor_q", "-constraint", 'regexp("^db-", DrawbarBatch)', "-af", "GlobalJobId"]
        return set(pool.run(*ids).split())

    (analysis / "Snakefile").write_text(GATED)
    before = queued()
    process = drawbar("run", "Snakefile", "--backend", "htcondorcern", "--name", "many", "--detach")
    assert process.returncode == 0
    pool.wait_for(lambda: len(queued() - before) == 30)
    drawbar("cancel", "many")
    drawbar("wait", "many", code=130)
    jobs = json.loads(drawbar("status", "many", "--json").stdout)["jobs"]
    assert {job["reason"] for job in jobs if job["step"] == "one"} == {"cancelled"}
    assert queued() <= before


def one_step(command, *lines):
    """A serial analysis of one step."""
    more = "".join(f"        {line}\n" for line in lines)
    return (
        "workflow:\n  type: serial\n  specification:\n    steps:\n      - name: only\n"
        f"        environment: docker.io/library/python:3.12\n{more}"
        f"        commands: [{json.dumps(command)}]\n"
    )


def test_a_job_whose_shadow_is_killed_is_repeated(pool, drawbar, analysis, shared):
    """HTCondor's process that watches a job dies: the first copy has ended before the second starts."""
    ledger, gate = shared / "ledger", shared / "gate"
    script = f"echo started >> {ledger}; while [ ! -e {gate} ]; do sleep 0.1; done; echo ended >> {ledger}"
    (analysis / "reana.yaml").write_text(one_step(script))
    drawbar("run", "--no-container", "--backend", "htcondorcern", "--name", "watched", "--detach")
    pool.wait_for(ledger.exists)
    pool.kill("condor_shadow")
    pool.wait_for(lambda: ledger.read_text() == "started\nstarted\n")
    gate.touch()
    drawbar("wait", "watched")
    assert ledger.read_text() == "started\nstarted\nended\n"


def test_a_job_above_its_memory_is_repeated_with_more(drawbar, analysis, shared):
    """The pool's policy holds it; where it has more, the same job goes on for longer than that takes."""
    script = (
        "import os, re, time; "
        "has = re.search('^Memory = ([0-9]+)', open(os.environ['_CONDOR_MACHINE_AD']).read(), re.M)[1]; "
        f"open('{shared}/has', 'a').write(has + ' '); "
        "taken = b'x' * (300 << 20); time.sleep(8 if int(has) > 400 else 600)"
    )
    (analysis / "reana.yaml").write_text(one_step(f'python3 -c "{script}"', 'htcondor_request_memory: "128"'))
    (analysis / "drawbar.toml").write_text("[retry]\nout_of_memory = 1\nmemory_factor = 4\n")
    run = json.loads(drawbar("run", "--no-container", "--backend", "htcondorcern", "--json").stdout)
    assert (shared / "has").read_text() == "128 512 "
    (job,) = run["jobs"]
    assert job["attempt"] == 2


@pytest.mark.parametrize("settings", ["", "transfer = true"], ids=["shared", "transfer"])
def test_the_command_line_checks_a_pool(drawbar, settings):
    done = drawbar("backends", "check", "htcondorcern", settings=settings)
    assert done.stdout == "htcondorcern: can be used\n"


def test_the_check_says_when_machines_do_not_see_a_directory(drawbar, hidden):
    settings = f'check_directory = "{hidden}"'
    done = drawbar("backends", "check", "htcondorcern", settings=settings, code=3)
    assert "do the nodes see" in done.stderr


def test_the_check_names_what_is_wrong(drawbar, shared, monkeypatch):
    done = drawbar("backends", "check", "htcondorcern", settings='schedd = "nobody"', code=3)
    assert "knows no schedd nobody (see CONDOR_CONFIG" in done.stderr
    text = Path(os.environ["CONDOR_CONFIG"]).read_text()
    (shared / "no-token.conf").write_text(f"{text}SEC_TOKEN_DIRECTORY = {shared}\n")
    monkeypatch.setenv("CONDOR_CONFIG", str(shared / "no-token.conf"))
    done = drawbar("backends", "check", "htcondorcern", code=3)
    assert "does not say where the schedd is" in done.stderr
    assert "your token for the pool" in done.stderr


def test_who_may_not_submit_is_told_so(pool, drawbar, analysis, shared, monkeypatch):
    """By the check, and by a run, which does not wait for what will never be."""
    tokens = shared / "tokens"
    tokens.mkdir(mode=0o700)
    token = pool.run("condor_token_create", "-identity", "dbtest@dbtest.test", "-authz", "READ", root=True)
    (tokens / "token").write_text(token)
    (tokens / "token").chmod(0o600)
    for path in (tokens, tokens / "token"):
        os.chown(path, 20001, 20001)
    text = Path(os.environ["CONDOR_CONFIG"]).read_text()
    (shared / "reader.conf").write_text(f"{text}SEC_TOKEN_DIRECTORY = {tokens}\n")
    monkeypatch.setenv("CONDOR_CONFIG", str(shared / "reader.conf"))
    done = drawbar("backends", "check", "htcondorcern", code=3)
    assert "the schedd takes this user for dbtest@dbtest.test, who may not submit" in done.stderr
    (analysis / "reana.yaml").write_text(one_step("true"))
    done = drawbar("run", "--no-container", "--backend", "htcondorcern", code=1)
    assert 'Received "DENIED" from server for user dbtest@dbtest.test' in done.stderr


def test_what_the_rules_of_the_schedd_forbid_is_refused_with_their_word(drawbar, analysis):
    (analysis / "reana.yaml").write_text(one_step("true", "htcondor_accounting_group: group_closed"))
    done = drawbar("run", "--no-container", "--backend", "htcondorcern", "--name", "closed", code=1)
    assert "group_closed is closed" in done.stderr
    (job,) = json.loads(drawbar("status", "closed", "--json").stdout)["jobs"]
    assert job["reason"] == "rejected"


def test_an_expression_that_does_not_parse_is_refused_before_the_first_job(drawbar, analysis):
    (analysis / "reana.yaml").write_text(one_step("true", "htcondor_requirements: 'Foo == = 3'"))
    for verb in ("plan", "run"):
        done = drawbar(verb, "--no-container", "--backend", "htcondorcern", code=2)
        assert "step only: " in done.stderr
        assert "htcondor_requirements: 'Foo == = 3' is no ClassAd expression" in done.stderr


# images


def test_steps_in_their_images(drawbar, analysis, image):
    """With the Apptainer of the pool's machines; this one needs none."""
    text = STEPS.replace("docker.io/library/python:3.12", image).replace("compute_backend: local", "")
    text = text.replace("cat $$_CONDOR_JOB_AD", "(cat /etc/image; id -u)")
    (analysis / "reana.yaml").write_text(text)
    told = drawbar("run", "--backend", "htcondorcern", "--container", "apptainer", "--json")
    run = json.loads(told.stdout)
    assert Path(run["workspace"], "second.txt").read_text() == "drawbar\n20001\n"
    assert {job["backend"] for job in run["jobs"]} == {"htcondorcern"}


def test_an_image_that_is_not_there_is_told(drawbar, analysis, shared, image):
    (shared / "empty").mkdir()
    (analysis / "reana.yaml").write_text(
        STEPS.replace("docker.io/library/python:3.12", str(shared / "empty"))
    )
    told = drawbar("run", "--backend", "htcondorcern", "--container", "apptainer", "--json", code=1)
    (job,) = json.loads(told.stdout)["jobs"]
    assert job["reason"] == "image"


# sites that transfer files


def test_a_workflow_whose_files_are_transferred(drawbar, analysis, hidden):
    """The machines see none of them: not the run, not the other jobs."""
    (analysis / "flow.cwl").write_text(FLOW)
    (analysis / "input.yaml").write_text(INPUT)
    (analysis / "text.txt").write_text("Each says: ")
    told = drawbar(
        *("run", "flow.cwl", "--parameters", "input.yaml", "--backend", "htcondorcern", "--json"),
        settings="transfer = true",
        place=hidden,
    )
    run = json.loads(told.stdout)
    assert {job["backend"] for job in run["jobs"]} == {"htcondorcern"}
    assert (
        Path(run["workspace"], "outputs", "all.txt").read_text()
        == "Each says: one\nEach says: two\nEach says: three\n"
    )


def test_a_workflow_in_images_whose_files_are_transferred(drawbar, analysis, hidden, image):
    """Apptainer runs on the machine, inside of the view of it that the job's files are in."""
    flow = FLOW.replace(
        "requirements: {", f"hints: {{DockerRequirement: {{dockerPull: {image}}}}}\nrequirements: {{"
    )
    (analysis / "flow.cwl").write_text(flow.replace('cat "$0"', 'cat /etc/image "$0"'))
    (analysis / "input.yaml").write_text(INPUT)
    (analysis / "text.txt").write_text("Each says: ")
    told = drawbar(
        *("run", "flow.cwl", "--parameters", "input.yaml", "--backend", "htcondorcern", "--json"),
        *("--container", "apptainer"),
        settings="transfer = true",
        place=hidden,
    )
    run = json.loads(told.stdout)
    assert {job["backend"] for job in run["jobs"]} == {"htcondorcern"}
    assert Path(run["workspace"], "outputs", "all.txt").read_text() == "".join(
        f"drawbar\nEach says: {word}\n" for word in ("one", "two", "three")
    )


def test_what_cannot_be_transferred_is_refused_by_plan(drawbar, analysis):
    (analysis / "reana.yaml").write_text(STEPS)
    told = drawbar("plan", "--no-container", "--backend", "htcondorcern", settings="transfer = true", code=2)
    assert "whole workspace, and this site transfers files" in told.stdout + told.stderr
    (analysis / "flow.cwl").write_text(FLOW)
    (analysis / "input.yaml").write_text(INPUT)
    (analysis / "text.txt").touch()
    arguments = ("--parameters", "input.yaml", "--backend", "htcondorcern")
    drawbar("plan", "flow.cwl", *arguments, settings="transfer = true")
