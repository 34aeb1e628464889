"""What `drawbar.toml` and the steps of a workflow may say to HTCondor."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from drawbar.batch import BatchOptions
from drawbar.model import Resources
from drawbar.options import Options, option

FLAVOURS = {
    "espresso": 1200,
    "microcentury": 3600,
    "longlunch": 7200,
    "workday": 28800,
    "tomorrow": 86400,
    "testmatch": 259200,
    "nextweek": 604800,
}
"""Seconds of CERN's names for run times."""

FAIL, RELEASE, WAIT = "fail", "release", "wait"
"""What becomes of a held job."""
RELEASES = 3
"""How often a held job is released before it fails."""
_NO_INPUT, _DAY_S = 13, 86400
"""The hold code of a job whose input cannot be sent."""
SCRIPT_S = 60
"""Seconds that a job's script has to end it at its wall time, before HTCondor does."""

ONCE = "(NumJobStarts =?= 0)"
"""HTCondor never starts a job again by itself: each start is an attempt that drawbar knows of."""

_UNITS = {"": 1, "K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 * 1024}
_SIZE = re.compile(r"(\d+)\s*([KMGT]?)i?B?", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class HTCondorOptions(BatchOptions):
    """`[backends.htcondor]`. What a step says wins over what is said here."""

    schedd: str | None = option(
        None, help="name of the schedd; this machine's, or the one of the configuration"
    )
    pool: str | None = option(None, help="address of the collector that knows the schedd, if not the default")
    accounting_group: str | None = option(None, help="accounting group of jobs that name none")
    requirements: str | None = option(None, help="ClassAd expression that every machine must meet")
    max_runtime: str | None = option(None, help="run time of jobs that ask for none: seconds or a flavour")
    attributes: Mapping[str, str] = option({}, help="more attributes of every job, as ClassAd expressions")
    allow_attributes: tuple[str, ...] = option(
        (), help="attributes that steps may set by `htcondor_attributes`"
    )
    transfer: bool = option(
        False, help="HTCondor transfers the files of jobs; for pools that share no file system with drawbar"
    )
    rank: str | None = option(None, help="ClassAd expression that is more where jobs should rather run")
    lease_s: int | None = option(
        None, help="seconds without contact after which a job's machine counts as lost; HTCondor's 40 minutes"
    )
    max_materialize: int | None = option(
        None, help="the most jobs of one cluster that HTCondor makes at a time (late materialisation)"
    )
    hold: str = option(FAIL, help="what becomes of a held job: `fail`, `release` after a time, or `wait`")
    hold_release_s: float = option(
        300.0, help="seconds after which a held job is released, or repeated if it had started"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HTCondorHints(Options):
    """What a step may say."""

    max_runtime: str | int | None = option(
        None, help="wall time: seconds, or a flavour such as longlunch", aliases=("htcondor_max_runtime",)
    )
    accounting_group: str | None = option(
        None, help="accounting group", aliases=("htcondor_accounting_group",)
    )
    request_cpus: str | int | None = option(None, help="cores", aliases=("htcondor_request_cpus",))
    request_memory: str | int | None = option(
        None, help="memory, in MB or with a unit", aliases=("htcondor_request_memory",)
    )
    request_disk: str | int | None = option(
        None, help="scratch space, in KB or with a unit", aliases=("htcondor_request_disk",)
    )
    request_gpus: str | int | None = option(None, help="GPUs", aliases=("htcondor_request_gpus",))
    requirements: str | None = option(
        None, help="ClassAd expression that the machine must meet", aliases=("htcondor_requirements",)
    )
    priority: int | None = option(
        None, help="priority among your own jobs; more is sooner", aliases=("htcondor_priority",)
    )
    attributes: Mapping[str, Any] = option(
        {}, help="more attributes, of those that the site allows", aliases=("htcondor_attributes",)
    )


def seconds(text: str | int, what: str) -> float:
    """Seconds of a run time: digits or a flavour."""
    word = str(text).strip()
    if word in FLAVOURS:
        return float(FLAVOURS[word])
    if not word.isdecimal() or not int(word):
        raise ValueError(f"{what}: {text!r} is neither seconds nor one of {', '.join(FLAVOURS)}")
    return float(word)


def mebibytes(text: str | int, what: str, *, bare: float = 1) -> int:
    """MiB of a size; `bare` is how many MiB a number without a unit counts."""
    match = _SIZE.fullmatch(str(text).strip())
    if match is None or not int(match[1]):
        raise ValueError(f"{what}: {text!r} is no size; write a number with K, M, G or T")
    return math.ceil(int(match[1]) * (_UNITS[match[2].upper()] if match[2] else bare))


def wanted(hints: HTCondorHints, resources: Resources) -> Resources:
    """The resources with what the hints change in them; ValueError when a hint makes no sense."""
    changes: dict[str, Any] = {}
    for name, what in (("cpus", "cores"), ("gpus", "GPUs")):
        if (number := getattr(hints, f"request_{name}")) is not None:
            if not str(number).isdecimal():
                raise ValueError(f"htcondor_request_{name}: {number!r} is no number of {what}")
            changes[name] = int(number)
    if hints.request_memory is not None:
        changes["memory_mib"] = mebibytes(hints.request_memory, "htcondor_request_memory")
    if hints.request_disk is not None:
        changes["disk_mib"] = mebibytes(hints.request_disk, "htcondor_request_disk", bare=1 / 1024)
    if hints.max_runtime is not None:
        changes["walltime_s"] = seconds(hints.max_runtime, "htcondor_max_runtime")
    return replace(resources, **changes)


def description(
    options: HTCondorOptions, hints: HTCondorHints, resources: Resources
) -> Iterator[tuple[str, str]]:
    """Lines of the submit description for a job; ValueError says which wish cannot be passed on."""
    yield "request_cpus", str(math.ceil(resources.cpus))
    if memory := max(resources.memory_mib or 0, resources.memory_limit_mib or 0):
        yield "request_memory", str(memory)
    if resources.disk_mib:
        yield "request_disk", str(resources.disk_mib * 1024)
    if resources.gpus:
        yield "request_gpus", str(resources.gpus)
    removals: list[str] = []
    walltime_s = resources.walltime_s
    if walltime_s is None and options.max_runtime is not None:
        walltime_s = seconds(options.max_runtime, "max_runtime")
    if walltime_s is not None:
        # The job's script ends it in time and says so; HTCondor's own limit is for when it cannot.
        limit = math.ceil(walltime_s + options.grace_s) + SCRIPT_S
        yield "My.MaxRuntime", str(limit)
        removals.append(f"(JobStatus == 2 && time() - JobCurrentStartDate > {limit})")
    if options.transfer:  # of a job that was given up, nobody removes what is left
        removals.append(f"(HoldReasonCode =?= {_NO_INPUT} && time() - EnteredCurrentStatus > {_DAY_S})")
    if removals:
        yield "periodic_remove", " || ".join(removals)
    flavour = str(hints.max_runtime if hints.max_runtime is not None else options.max_runtime)
    if flavour in FLAVOURS:
        yield "My.JobFlavour", f'"{flavour}"'
    if group := hints.accounting_group or options.accounting_group:
        if not re.fullmatch(r"[A-Za-z0-9_.@-]+", group):
            raise ValueError(f"htcondor_accounting_group: {group!r} is not the name of a group")
        yield "accounting_group", group
    needs = [
        f"({expression(each, 'htcondor_requirements')})"
        for each in (options.requirements, hints.requirements)
        if each
    ]
    yield "requirements", " && ".join([ONCE, *needs])
    if options.rank:
        yield "rank", expression(options.rank, "rank")
    if options.lease_s is not None:
        yield "job_lease_duration", str(options.lease_s)
    if hints.priority is not None:
        yield "priority", str(hints.priority)
    for name, value in options.attributes.items():
        yield f"My.{name}", value
    for name, value in hints.attributes.items():
        if name not in options.allow_attributes or not _NAME.fullmatch(name):
            allowed = ", ".join(options.allow_attributes) or "none"
            raise ValueError(f"htcondor_attributes: {name!r} is not allowed here (allowed: {allowed})")
        yield f"My.{name}", literal(value, name)
    if options.hold == RELEASE:
        yield (
            "periodic_release",
            f"NumJobStarts =?= 0 && HoldReasonCode =!= 1 && NumHolds <= {RELEASES} "
            f"&& time() - EnteredCurrentStatus > {math.ceil(options.hold_release_s)}",
        )


def expression(text: str, what: str) -> str:
    """A ClassAd expression of a specification, as it may stand in parentheses in a submit description."""
    if not text.isprintable() or "$" in text:
        raise ValueError(f"{what}: {text!r} must be one line, without '$'")
    depth = 0
    for sign in re.sub(r'"(?:[^"\\]|\\.)*"', "", text):
        depth += (sign == "(") - (sign == ")")
        if depth < 0:
            break
    if depth:
        raise ValueError(f"{what}: the parentheses of {text!r} do not match")
    if not _parses(text):
        raise ValueError(f"{what}: {text!r} is no ClassAd expression")
    return text


@cache
def _parses(text: str) -> bool:
    """Whether HTCondor's own parser takes an expression; without that nothing can be submitted either."""
    try:
        import classad2
    except ImportError:
        return True
    try:
        classad2.ExprTree(text)
    except classad2.ClassAdException:
        return False
    return True


def literal(value: Any, what: str) -> str:
    """A value of a specification as a ClassAd literal."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str) and value.isprintable() and "$" not in value:
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    raise ValueError(f"htcondor_attributes: {what} must be a number, true, false or one line without '$'")
