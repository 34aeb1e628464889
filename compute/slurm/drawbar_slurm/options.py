"""What `drawbar.toml` and the steps of a workflow may say to Slurm."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from drawbar.batch import BatchOptions
from drawbar.batchscript import directive
from drawbar.model import Resources
from drawbar.options import Options, option

_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmOptions(BatchOptions):
    """`[backends.slurm]`. What a step says wins over what is said here."""

    partition: str | None = option(None, help="partition of jobs that name none; Slurm's default")
    account: str | None = option(None, help="account of jobs that name none")
    qos: str | None = option(None, help="quality of service of jobs that name none")
    constraint: str | None = option(None, help="node features of jobs that name none")
    reservation: str | None = option(None, help="reservation of jobs that name none")
    time: str | None = option(None, help="time limit of jobs that ask for none, as sbatch writes it")
    gpus: str = option("gres", help="how GPUs are asked for: `gres` or `gpus`, after sbatch's options")
    throttle: int | None = option(None, help="the most tasks of one array that run at once")
    allow_arguments: tuple[str, ...] = option(
        (), help="options of sbatch that steps may give by `slurm_arguments`, such as `--licenses`"
    )
    arguments: tuple[str, ...] = option((), help="options of sbatch for every job, such as `--nice=100`")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmHints(Options):
    """What a step may say."""

    partition: str | None = option(None, help="partition", aliases=("slurm_partition",))
    time: str | int | None = option(
        None, help="time limit, in minutes or as sbatch writes it", aliases=("slurm_time",)
    )
    account: str | None = option(None, help="account", aliases=("slurm_account",))
    qos: str | None = option(None, help="quality of service", aliases=("slurm_qos",))
    constraint: str | None = option(None, help="node features", aliases=("slurm_constraint",))
    reservation: str | None = option(None, help="reservation", aliases=("slurm_reservation",))
    gres: str | None = option(None, help="generic resources, such as gpu:a100:1", aliases=("slurm_gres",))
    nodes: int | None = option(None, help="nodes, for MPI", aliases=("slurm_nodes",))
    tasks: int | None = option(None, help="tasks, for MPI", aliases=("slurm_tasks", "slurm_ntasks"))
    tasks_per_node: int | None = option(
        None, help="tasks on each node, for MPI", aliases=("slurm_tasks_per_node", "slurm_ntasks_per_node")
    )
    exclusive: bool = option(False, help="whole nodes", aliases=("slurm_exclusive",))
    arguments: str | None = option(
        None,
        help="more options of sbatch, of those that the site allows",
        aliases=("slurm_arguments", "slurm_extra"),
    )


def seconds(text: str | int, what: str) -> float:
    """Seconds of a time as sbatch writes it: minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S."""
    match = _TIME.fullmatch(str(text).strip())
    if match is None:
        raise ValueError(f"{what}: {text!r} is no time; write minutes, H:M:S or D-H:M:S")
    days, a, b, c = (int(each) if each else None for each in match.groups())
    assert a is not None
    if days is not None:
        total = days * 86400 + a * 3600 + (b or 0) * 60 + (c or 0)
    elif b is None:
        total = a * 60
    elif c is None:
        total = a * 60 + b
    else:
        total = a * 3600 + b * 60 + c
    if not total:
        raise ValueError(f"{what}: {text!r} is no time at all")
    return float(total)


def arguments(
    options: SlurmOptions, hints: SlurmHints, resources: Resources, grace_s: float
) -> Iterator[str]:
    """sbatch's options for a job; ValueError says which wish cannot be passed on."""
    for name in ("partition", "account", "qos", "constraint", "reservation"):
        value = getattr(hints, name) or getattr(options, name)
        if value:
            yield f"--{name}={directive(value, f'slurm_{name}')}"
    if resources.walltime_s is not None:
        # The job's script ends it in time and says so; Slurm's own limit is for when it cannot.
        yield f"--time={math.ceil((resources.walltime_s + grace_s) / 60) + 1}"
    elif options.time:
        yield f"--time={math.ceil(seconds(options.time, 'time') / 60)}"
    yield f"--cpus-per-task={math.ceil(resources.cpus)}"
    memory = max(resources.memory_mib or 0, resources.memory_limit_mib or 0)
    if memory:
        yield f"--mem={memory}M"
    if hints.gres:
        yield f"--gres={directive(hints.gres, 'slurm_gres')}"
    elif resources.gpus:
        yield f"--gpus={resources.gpus}" if options.gpus == "gpus" else f"--gres=gpu:{resources.gpus}"
    for name, number in (
        ("nodes", hints.nodes),
        ("ntasks", hints.tasks),
        ("ntasks-per-node", hints.tasks_per_node),
    ):
        if number is not None:
            if number < 1:
                raise ValueError(f"slurm_{name}: {number} is less than one")
            yield f"--{name}={number}"
    if hints.exclusive:
        yield "--exclusive"
    yield from options.arguments
    yield from _allowed(hints.arguments or "", options.allow_arguments)


def _allowed(text: str, allowed: tuple[str, ...]) -> Iterator[str]:
    for word in shlex.split(text):
        name, _, value = word.partition("=")
        if name not in allowed:
            known = ", ".join(allowed) or "none"
            raise ValueError(f"slurm_arguments: {word!r} is not allowed here (allowed: {known})")
        yield f"{name}={directive(value, name)}" if value else name
