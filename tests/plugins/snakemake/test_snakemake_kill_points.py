"""An engine that is killed anywhere between the end of a job and the last that is done about it.

Each kind of rule at each place: nothing that ended is repeated, nothing is lost, and no mark is left.
"""

from __future__ import annotations

import functools

import pytest
from drawbar.testing.memory import MemoryJobs
from drawbar.testing.sample import Outcome
from drawbar_snakemake.engine import SnakemakeEngine

SnakemakeEngine.preload()

from drawbar_snakemake.executor import Executor  # noqa: E402
from snakemake.dag import DAG  # noqa: E402
from snakemake.jobs import Job  # noqa: E402
from snakemake.persistence.file import FilePersistence  # noqa: E402

pytestmark = pytest.mark.slow

AFTER = """\
rule after:
    default_target: True
    input: "target"
    output: "after"
    shell: "ls -d {input} > {output}"
"""
KINDS = {
    "shell": 'output: "target"\n    shell: "echo 1 > {output}"',
    "script": 'output: "target"\n    script: "script.py"',
    "temp": 'output: temp("target")\n    shell: "echo 1 > {output}"',
    "shadow": 'output: "target"\n    shadow: "minimal"\n    shell: "echo 1 > {output}; touch litter"',
    "directory": 'output: directory("target")\n    shell: "mkdir {output}; touch {output}/1"',
}
CHECKPOINT = """\
checkpoint target:
    output: directory("target")
    shell: "mkdir {output}; touch {output}/1"
rule copy:
    input: "target/{n}"
    output: "copy/{n}"
    shell: "cp {input} {output}"
def found(wildcards):
    return [f"copy/{path.name}" for path in Path(checkpoints.target.get().output[0]).glob("[0-9]")]
rule after:
    default_target: True
    input: found
    output: "after"
    shell: "echo target > {output}"
"""
WORKFLOWS = {kind: f"{AFTER}rule target:\n    {body}\n" for kind, body in KINDS.items()} | {
    "checkpoint": CHECKPOINT
}
SCRIPT = "open(snakemake.output[0], 'w').write('1')\n"

PLACES = {
    "ended": (Executor, "_report", False),
    "collecting": (Job, "postprocess", False),
    "collected": (DAG, "handle_storage", False),
    "recorded": (FilePersistence, "_write_record", True),
    "unmarked": (FilePersistence, "_unmark_incomplete", True),
    "accepting": (MemoryJobs, "accept", False),
    "accepted": (MemoryJobs, "accept", True),
    "finishing": (DAG, "finish", False),
    "deleting": (DAG, "handle_temp", True),
}
"""Where the process is killed: at a call that is about the rule's job, before or after it takes effect."""


def about_target(*values: object) -> bool:
    """Whether a call is about the job of the rule `target`."""
    for value in values:
        job = getattr(value, "job", value)
        rule = getattr(job, "rule", None)
        if "target" in (job, getattr(rule, "name", rule), getattr(job, "identity", None)):
            return True
    return False


def killer(place: str):
    """What has the process killed at a place."""
    owner, name, afterwards = PLACES[place]

    def arrange(jobs, leave):
        real = getattr(owner, name)

        def die():
            jobs.on_call = None
            leave(Outcome(jobs, killed=True))

        if place in ("collecting", "collected", "finishing", "deleting"):

            @functools.wraps(real)
            async def call(*values, **named):
                if not afterwards and about_target(*values):
                    die()
                await real(*values, **named)
                if about_target(*values):
                    die()
        else:

            @functools.wraps(real)
            def call(*values, **named):
                if not afterwards and about_target(*values):
                    die()
                result = real(*values, **named)
                if about_target(*values):
                    die()
                return result

        setattr(owner, name, call)

    return arrange


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", WORKFLOWS)
def test_killed_after_a_job_nothing_is_repeated(execute, workspace, kind, place):
    files = {"script.py": SCRIPT} if kind == "script" else {}
    killed = execute(WORKFLOWS[kind], files=files, arrange=killer(place))
    assert killed.killed
    again = execute(WORKFLOWS[kind], files=files, after=killed)
    jobs = again.finished()
    ran = sorted(killed.jobs.executed + jobs.executed)
    assert ran == sorted({"target", "after", *(["copy:n=1"] if kind == "checkpoint" else [])})
    assert (workspace / "after").read_text() == "target\n"
    assert (workspace / "target").exists() == (kind != "temp")
    assert not (workspace / "litter").exists()
    left = [path for path in (workspace / ".snakemake").rglob("*") if path.is_file()]
    assert [path for path in left if path.parts[-2] in ("incomplete", "locks")] == []
    assert list((workspace / ".snakemake/shadow").glob("*")) == []
    last = execute(WORKFLOWS[kind], files=files, after=again).finished()
    assert last.executed == []
