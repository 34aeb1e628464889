"""What Snakemake's language can say, done through drawbar's jobs."""

import os
import stat
from pathlib import Path

import pytest

SLOW = pytest.mark.slow


def text(path: Path) -> str:
    return path.read_text()


# Shell commands, rendered here.


def test_commands_have_directories_strict_mode_and_thread_variables(execute, workspace):
    execute(
        """\
rule a:
    output: "deep/er/a.txt"
    log: "logs/a.log"
    threads: 2
    shell: "echo {threads} $OMP_NUM_THREADS > {output}; set -o | grep pipefail >> {output} 2> {log}"
""",
        arguments="--cores 4",
    ).finished()
    assert text(workspace / "deep/er/a.txt").split() == ["2", "2", "pipefail", "on"]
    assert (workspace / "logs/a.log").exists()


def test_a_failure_inside_a_pipe_is_a_failure(execute):
    outcome = execute('rule a:\n    output: "a"\n    shell: "false | cat > {output}"\n')
    assert outcome.step == "a"


def test_functions_f_strings_and_modules_render_as_they_do_for_snakemake(execute, workspace):
    module = """\
rule made:
    output: "{name}.made"
    params: twice=lambda wildcards: wildcards.name * 2
    shell: f"echo {{params.twice}} {config['word']} {1 + 1} > {{output}}"
"""
    execute(
        """\
module other:
    snakefile: "other.smk"
    config: {"word": "from-module"}
use rule * from other as other_*
rule all:
    default_target: True
    input: "x.made"
""",
        files={"other.smk": module},
    ).finished()
    assert text(workspace / "x.made") == "xx from-module 2\n"


def test_prefix_and_long_commands(execute, workspace):
    outcome = execute(
        """\
shell.prefix("WORD=hi; ")
rule a:
    output: "a"
    params: text="x" * 70000
    shell: "echo $WORD > {output}; : {params.text}"
"""
    )
    assert text(workspace / "a") == "hi\n"
    (spec,) = outcome.finished().specs.values()
    assert len(spec.argv[-1]) < 1000


def test_parameters_of_the_analysis_are_the_config(execute, workspace):
    execute(
        'rule a:\n    output: "a"\n    shell: "echo {config[events][low]} > {output}"\n',
        parameters={"events": {"low": 7}},
    ).finished()
    assert text(workspace / "a") == "7\n"


# What outputs are marked with.


def test_touch_protected_directory_and_ensure(execute, workspace):
    outcome = execute(
        """\
rule all:
    input: "t", "p", "d", "e"
rule t:
    output: touch("t")
    shell: "true"
rule p:
    output: protected("p")
    shell: "echo p > {output}"
rule d:
    output: directory("d")
    shell: "mkdir {output}; echo 1 > {output}/1"
rule e:
    output: ensure("e", non_empty=True)
    shell: "echo e > {output}"
"""
    )
    jobs = outcome.finished()
    assert (workspace / "t").exists()
    assert not (workspace / "p").stat().st_mode & stat.S_IWUSR
    assert text(workspace / "d/1") == "1\n"
    assert sorted(jobs.executed) == ["d", "e", "p", "t"]


def test_an_output_that_is_not_as_ensured_fails_the_rule(execute):
    outcome = execute('rule e:\n    output: ensure("e", non_empty=True)\n    shell: "touch {output}"\n')
    outcome.broke()
    assert outcome.step == "e"
    assert "empty" in outcome.failure


def test_temporary_files_are_deleted_and_consumed(execute, workspace):
    snakefile = """\
rule all:
    input: "b"
rule a:
    output: temp("a")
    shell: "echo a > {output}"
rule b:
    input: "a"
    output: "b"
    shell: "cat {input} > {output}"
"""
    first = execute(snakefile)
    assert not (workspace / "a").exists()
    assert ("consumed", str(workspace / "a")) in [(call.method, call.identity) for call in first.jobs.calls]
    again = execute(snakefile, after=first)
    assert again.finished().submitted == []
    edited = execute(snakefile.replace("cat {input}", "cat {input} {input}"), after=again)
    assert edited.finished().executed == ["a", "b"]
    assert text(workspace / "b") == "a\na\n"


def test_shadow_directories_are_left_behind_clean(execute, workspace):
    execute(
        """\
rule a:
    input: "word"
    output: "sub/a"
    shadow: "minimal"
    shell: "cat {input} > {output}; touch litter"
""",
        files={"word": "w\n"},
    ).finished()
    assert text(workspace / "sub/a") == "w\n"
    assert not (workspace / "litter").exists()
    assert list((workspace / ".snakemake/shadow").iterdir()) == []


# Which jobs there are.


def test_checkpoints_decide_on_what_was_made(execute, workspace):
    jobs = execute(
        """\
checkpoint many:
    output: directory("many")
    shell: "mkdir {output}; for i in 1 2 3; do echo $i > {output}/$i; done"
def found(wildcards):
    directory = Path(checkpoints.many.get().output[0])
    return [f"done/{path.name}" for path in sorted(directory.glob("[0-9]"))]
rule one:
    input: "many/{n}"
    output: "done/{n}"
    shell: "cat {input} > {output}"
rule all:
    default_target: True
    input: found
    output: "all"
    shell: "cat {input} > {output}"
"""
    ).finished()
    assert text(workspace / "all") == "1\n2\n3\n"
    assert sorted(jobs.executed) == ["all", "many", "one:n=1", "one:n=2", "one:n=3"]


def test_scatter_and_gather(execute, workspace):
    jobs = execute(
        """\
scattergather: split=3
rule all:
    input: "all"
rule scatter:
    output: scatter.split("part/{scatteritem}")
    shell: "for f in {output}; do echo $f > $f; done"
rule gather:
    input: gather.split("part/{scatteritem}")
    output: "all"
    shell: "cat {input} > {output}"
"""
    ).finished()
    assert text(workspace / "all").split() == [f"part/{n}-of-3" for n in (1, 2, 3)]
    assert jobs.executed == ["scatter", "gather"]


def test_retries_are_tries_with_resources_of_their_own(execute, workspace):
    snakefile = """\
rule a:
    output: "a"
    retries: 2
    resources: mem_mb=lambda wildcards, attempt: attempt * 100
    shell: "test {resources.mem_mb} -ge 300 && echo {resources.mem_mb} > {output}"
"""
    first = execute(snakefile)
    jobs = first.finished()
    assert [number for _, number in jobs.specs] == [1, 2, 3]
    assert [spec.resources.memory_mib for spec in jobs.specs.values()] == [96, 191, 287]
    assert text(workspace / "a") == "300\n"
    (workspace / "a").unlink()
    for file in (workspace / ".snakemake/metadata").iterdir():
        file.unlink()
    again = execute(snakefile, after=first).finished()
    assert again.executed == ["a"], "the two failures are remembered, and the third try is repeated"


def test_local_rules_run_while_others_are_awaited(execute, workspace):
    jobs = execute(
        """\
localrules: here
rule all:
    input: "here", "there"
rule here:
    output: "here"
    shell: "echo 1 > {output}"
rule there:
    output: "there"
    shell: "echo 2 > {output}"
"""
    ).finished()
    assert jobs.executed == ["there"]
    assert text(workspace / "here") == "1\n"


def test_an_edit_repeats_what_depends_on_it(execute, workspace):
    snakefile = """\
rule c:
    input: "b"
    output: "c"
    shell: "cat {input} > {output}"
rule b:
    output: "b"
    params: word="old"
    shell: "echo {params.word} > {output}"
"""
    first = execute(snakefile)
    again = execute(snakefile.replace("old", "new"), after=first).finished()
    assert again.executed == ["b", "c"]
    assert text(workspace / "c") == "new\n"


# What needs a Snakemake of its own.


@SLOW
def test_code_and_scripts(execute, workspace):
    snakefile = """\
rule all:
    input: "script"
def helper(text):
    return text.upper()
rule code:
    output: "code"
    run:
        with open(output[0], "w") as file:
            file.write(helper("from code\\n"))
rule script:
    input: "code"
    output: "script"
    params: word="script"
    script: "scripts/script.py"
"""
    script = (
        "with open(snakemake.input[0]) as read, open(snakemake.output[0], 'w') as file:\n"
        "    file.write(read.read() + snakemake.params.word)\n"
    )
    first = execute(snakefile, files={"scripts/script.py": script})
    assert first.finished().executed == ["code", "script"]
    assert text(workspace / "script") == "FROM CODE\nscript"
    keys = first.jobs.keys
    (workspace / "code").unlink()
    (workspace / "script").unlink()
    edited = execute(
        snakefile.replace("upper", "lower"), files={"scripts/script.py": script}, after=first
    ).finished()
    assert edited.keys["code"] != keys["code"], "a function that the code calls is part of the key"


@SLOW
def test_groups_pipes_services_and_benchmarks(execute, workspace):
    jobs = execute(
        """\
rule all:
    input: "grouped", "piped", "served", "measured"
rule first:
    output: temp("first")
    group: "pair"
    shell: "echo 1 > {output}"
rule second:
    input: "first"
    output: "grouped"
    group: "pair"
    shell: "cat {input} > {output}"
rule source:
    output: pipe("pipe")
    shell: "echo through > {output}"
rule sink:
    input: "pipe"
    output: "piped"
    shell: "cat {input} > {output}"
rule service:
    output: service("socket")
    shell: "echo ready > {output}; sleep 1000"
rule client:
    input: "socket"
    output: "served"
    shell: "cat {input} > {output}"
rule measured:
    output: "measured"
    benchmark: "times.tsv"
    shell: "echo 1 > {output}"
"""
    ).finished()
    assert text(workspace / "grouped") == "1\n"
    assert not (workspace / "first").exists()
    assert text(workspace / "piped") == "through\n"
    assert text(workspace / "served") == "ready\n"
    assert text(workspace / "times.tsv").startswith("s\th:m:s")
    assert len(jobs.executed) == 4


# Failures.


def test_a_failure_names_rule_log_and_last_words(execute):
    outcome = execute(
        """\
rule a:
    output: "a"
    log: "a.log"
    shell: "echo in the log > {log}; echo on stderr >&2; exit 7"
"""
    )
    outcome.broke()
    assert outcome.step == "a"
    for words in ("rule a", "exit code 7", "a.log", "in the log", "on stderr"):
        assert words in outcome.failure


@pytest.mark.parametrize(
    "rule",
    [
        'input: "in"\n    output: "a"\n    shell: "echo {nothing} > {output}"',
        'output: "a"\n    params: x=lambda wildcards: 1 / 0\n    shell: "echo {params.x} > {output}"',
        'input: "in"\n    output: "/a-file-that-is-elsewhere"\n    shell: "touch {output}"',
    ],
    ids=["unknown name", "exception", "outside"],
)
def test_what_cannot_be_submitted_ends_the_run(execute, rule):
    outcome = execute(f"rule a:\n    {rule}\n", files={"in": ""})
    assert outcome.failure or outcome.error
    assert not outcome.jobs.executed


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is protected from root")
def test_a_protected_output_is_not_overwritten(execute, workspace):
    snakefile = 'rule a:\n    output: protected("a")\n    shell: "echo 1 > {output}"\n'
    first = execute(snakefile)
    first.finished()
    outcome = execute(snakefile.replace("echo 1", "echo 2"), after=first)
    assert outcome.failure or outcome.error
    assert text(workspace / "a") == "1\n"


def test_a_local_rule_that_fails_fails_the_run(execute):
    outcome = execute('localrules: a\nrule a:\n    output: "a"\n    shell: "exit 3"\n')
    assert outcome.step == "a"


def test_another_snakemake_in_the_directory_is_an_error(execute, workspace):
    snakefile = 'rule a:\n    output: "a"\n    shell: "echo 1 > {output}"\n'
    locks = workspace / ".snakemake/locks"
    locks.mkdir(parents=True)
    (locks / "0.output.lock").write_text("a\n")
    outcome = execute(snakefile)
    assert "lock" in (outcome.error or "").lower()


# Kills.

KILLED = """\
rule all:
    input: "sum", "shadowed", "touched", "directory"
rule part:
    output: temp("part/{n}")
    shell: "echo {wildcards.n} > {output}"
rule sum:
    input: expand("part/{n}", n=range(2))
    output: protected("sum")
    shell: "cat {input} > {output}"
rule shadowed:
    input: "sum"
    output: "shadowed"
    shadow: "full"
    shell: "cat {input} > {output}"
checkpoint directory:
    output: directory("directory")
    shell: "mkdir {output}; touch {output}/1"
def found(wildcards):
    return [str(path) for path in Path(checkpoints.directory.get().output[0]).glob("[0-9]")]
rule touched:
    input: found
    output: touch("touched")
    shell: "true"
"""


@SLOW
def test_killed_at_any_call_nothing_that_ended_is_repeated(execute, tmp_path, workspace):
    whole = execute(KILLED)
    expected = sorted(whole.finished().executed)
    places = sum(call.method in ("submit", "accept") for call in whole.jobs.calls)
    for place in range(places):
        workspace.rename(tmp_path / f"workspace-{place}")
        killed = execute(KILLED, kill_at=place)
        if not killed.killed:  # the order of ends decides how many calls of submit there are
            continue
        again = execute(KILLED, after=killed)
        ran = sorted(killed.jobs.executed + again.finished().executed)
        assert ran == expected, f"killed at call {place}"
        assert text(workspace / "sum") == "0\n1\n"


def test_an_edit_of_a_script_that_no_rule_declares_repeats_its_rule(execute, workspace):
    snakefile = """\
rule all:
    input: "b", "other"
rule a:
    output: "a"
    shell: "sh code/a.sh > {output}"
rule b:
    input: "a"
    output: "b"
    shell: "cat {input} > {output}"
rule other:
    output: "other"
    shell: "echo other > {output}"
"""
    declared = ("code",)
    first = execute(snakefile, files={"code/a.sh": "echo 1\n"}, declared=declared)
    assert sorted(first.finished().executed) == ["a", "b", "other"]
    edited = execute(snakefile, files={"code/a.sh": "echo two\n"}, declared=declared, after=first)
    assert edited.finished().executed == ["a", "b"]
    assert text(workspace / "b") == "two\n"
    again = execute(snakefile, files={"code/a.sh": "echo two\n"}, declared=declared, after=edited)
    assert again.finished().executed == []


def test_what_a_snakefile_sets_in_its_environment_reaches_its_jobs(execute, workspace):
    snakefile = """\
import os
os.environ["WORD"] = "hello"
rule a:
    output: "a"
    shell: "echo $WORD > {output}"
"""
    execute(snakefile).finished()
    assert text(workspace / "a") == "hello\n"


# Progress.


@SLOW
def test_progress_is_what_snakemake_logs_with_groups_local_rules_and_a_growing_graph(execute):
    jobs = execute(
        """\
localrules: own
rule all:
    input: "grouped", "copied", "own"
rule own:
    output: "own"
    run:
        Path(output[0]).touch()
rule first:
    output: "first"
    group: "pair"
    shell: "touch {output}"
rule second:
    input: "first"
    output: "grouped"
    group: "pair"
    shell: "touch {output}"
checkpoint many:
    output: directory("many")
    shell: "mkdir {output}; touch {output}/1 {output}/2 {output}/3"
def made(wildcards):
    return [f"copy{path.name}" for path in sorted(Path(checkpoints.many.get().output[0]).glob("[0-9]"))]
rule copy:
    input: "many"
    output: "copy{n}"
    shell: "cp many/{wildcards.n} {output}"
rule copied:
    input: made
    output: "copied"
    shell: "touch {output}"
"""
    ).finished()
    totals, done = zip(*jobs.progressed, strict=True)
    assert totals[0] == 6
    assert done[0] == 0
    assert list(done) == sorted(done)
    assert list(totals) == sorted(totals)
    assert jobs.progressed[-1] == (9, 9)
    first = next(place for place, each in enumerate(totals) if each == 9)
    assert done[first] < 9 - 4, "it grows before the jobs that the checkpoint brings run"
    assert len(jobs.executed) == 6, "a group is one job here, and rules that Snakemake runs itself are none"
