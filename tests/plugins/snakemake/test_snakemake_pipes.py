"""Jobs that are joined by pipes, of which one ends before the other comes to its end of the pipe."""

import pytest

pytestmark = pytest.mark.slow

LATE = """\
import time
class Late:
    "Takes its time, while a command that names it is put together: after Snakemake has begun the job."
    def __format__(self, _):
        time.sleep(2)
        return "late"
LATE = Late()
"""


def pair(write: str, read: str, *, where: str = "") -> str:
    """A job that writes a pipe and one that reads it."""
    return f"""{LATE}
{where}
rule all:
    input: "read"
rule writer:
    output: pipe("pipe")
    shell: "{write}"
rule reader:
    input: "pipe"
    output: "read"
    shell: "{read}"
"""


HOST = "localrules: writer, reader"


@pytest.mark.parametrize("where", ["", HOST], ids=["nested", "host"])
@pytest.mark.parametrize(
    ("write", "read"),
    [
        ("exit 3 # {output}", "cat {input} > {output}"),
        ("exit 3 # {output}", ": {LATE}; cat {input} > {output}"),
        ("echo x > {output}", "exit 3 # {input}"),
        (": {LATE}; echo x > {output}", "exit 3 # {input}"),
    ],
    ids=["writer-fails", "writer-fails-first", "reader-fails", "reader-fails-first"],
)
def test_a_job_that_fails_before_it_opens_its_pipe_ends_the_other(execute, write, read, where):
    outcome = execute(pair(write, read, where=where))
    outcome.broke()
    assert outcome.step in ({"reader", "writer"} if where else {"reader_writer"})


@pytest.mark.parametrize("where", ["", HOST], ids=["nested", "host"])
def test_a_pipe_that_its_writer_never_opens_is_empty(execute, workspace, where):
    execute(pair(": {output}", ": {LATE}; cat {input} > {output}", where=where)).finished()
    assert (workspace / "read").read_text() == ""


@pytest.mark.parametrize("where", ["", HOST], ids=["nested", "host"])
def test_a_pipe_that_its_reader_never_opens_is_broken(execute, where):
    write = ": {LATE}; trap '' PIPE; for i in 1 2 3; do echo x; sleep 0.1; done > {output}"
    execute(pair(write, "touch {output} # {input}", where=where)).broke()


def test_jobs_that_a_pipe_joins_are_one_job_that_is_remembered(execute):
    snakefile = pair("echo x > {output}", "cat {input} > {output}")
    first = execute(snakefile, kill_at=1)
    assert first.killed
    assert len(first.jobs.executed) == 1
    jobs = execute(snakefile, after=first).finished()
    assert not jobs.executed


def test_a_service_that_starts_after_its_consumer_has_ended_is_stopped(execute):
    execute(
        LATE
        + """
rule all:
    input: "done"
rule served:
    output: service("served")
    shell: ": {LATE}; touch {output}; exec tail -f /dev/null"
rule consumer:
    input: "served"
    output: "done"
    shell: "touch {output}"
"""
    ).finished()


@pytest.mark.parametrize(
    ("end", "consume", "where"),
    [
        ("exit 3", 'shell: "exec tail -f /dev/null # {input}"', ""),
        (": {LATE}; exit 0", 'script: "wait.sh"', ""),
        ("exit 0", 'shell: "exec tail -f /dev/null # {input}"', "localrules: served, consumer"),
        ("exit 3", 'script: "wait.sh"', "localrules: served, consumer"),
    ],
    ids=["fails", "ends-script", "ends-host", "fails-script-host"],
)
def test_a_service_that_ends_too_early_ends_its_consumer(execute, end, consume, where):
    outcome = execute(
        f"""{LATE}
{where}
rule all:
    input: "done"
rule served:
    output: service("served")
    shell: "touch {{output}}; {end}"
rule consumer:
    input: "served"
    output: "done"
    {consume}
""",
        files={"wait.sh": "exec tail -f /dev/null"},
        arguments="--latency-wait 60",  # for what the service makes
    )
    outcome.broke()
    assert "the service has ended while consumer still used it" in outcome.failure
    assert ("exit status 3" in outcome.failure) == (end == "exit 3")
