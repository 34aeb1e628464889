"""What Slurm says about jobs: its states, and the lines of squeue and sacct. All pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from drawbar.batchresults import Seen
from drawbar.model import JobState, Reason

QUEUE_FIELDS = (
    "ArrayJobID:|,ArrayTaskID:|,JobID:|,State:|,Reason:|,RestartCnt:|,exit_code:|,NodeList:|,Name:|"
)
"""For `squeue -O`; the name comes last since other people's may hold anything."""
HISTORY_FIELDS = "JobID,State,ExitCode,NodeList,JobName"
"""For `sacct -o`."""

_OURS = re.compile(r"db-[0-9a-f]{32}")
_RANGE = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")

_ALIVE = {
    "PENDING": JobState.SUBMITTED,
    "RESV_DEL_HOLD": JobState.SUBMITTED,
    "CONFIGURING": JobState.SUBMITTED,
    "POWER_UP_NODE": JobState.SUBMITTED,
    "REQUEUED": JobState.SUBMITTED,
    "REQUEUE_FED": JobState.SUBMITTED,
    "REQUEUE_HOLD": JobState.SUBMITTED,
    "SPECIAL_EXIT": JobState.SUBMITTED,
}
"""States before the start; what is in no table here counts as running, and is shown as it is called."""

_ENDS: dict[str, tuple[JobState, Reason | None, str]] = {
    "COMPLETED": (JobState.FINISHED, None, ""),
    "FAILED": (JobState.FAILED, None, ""),
    "TIMEOUT": (JobState.FAILED, Reason.TIMEOUT, "Slurm ended it at its time limit"),
    "DEADLINE": (JobState.FAILED, Reason.TIMEOUT, "Slurm ended it at its deadline"),
    "OUT_OF_MEMORY": (JobState.FAILED, Reason.OUT_OF_MEMORY, "Slurm ended it above its memory"),
    "NODE_FAIL": (JobState.FAILED, Reason.NODE_LOST, "its node failed"),
    "BOOT_FAIL": (JobState.FAILED, Reason.NODE_LOST, "its node did not boot"),
    "LAUNCH_FAILED": (JobState.FAILED, Reason.NODE_LOST, "its node could not launch it"),
    "PREEMPTED": (JobState.FAILED, Reason.EVICTED, "it was preempted"),
    "REVOKED": (JobState.FAILED, Reason.LOST, "it was revoked"),
    "CANCELLED": (JobState.CANCELLED, Reason.CANCELLED, "it was cancelled"),
}

_UNLESS_BEGUN = {
    Reason.CANCELLED: Reason.NODE_LOST,  # by Slurm: the node could not launch it, and it may not be requeued
    Reason.KILLED: Reason.LOST,  # the node could not open the files in the job's directory
}
"""What really happened to a job that had a node, but whose script did not begin."""

_NEVER = re.compile(r"PartitionTimeLimit|PartitionNodeLimit|(QOS|Assoc)Max\w+PerJob\w*")
"""Why Slurm keeps a job pending that asks for more than one job may have, so that waiting does not help."""

_REQUEUED = frozenset({"REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"})


def queued(text: str) -> Iterator[Seen]:
    """The jobs of drawbar in the output of `squeue -h -O QUEUE_FIELDS`, each task of an array by itself."""
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) < 9 or not _OURS.fullmatch(fields[8].strip()):
            continue
        array, task, job, state, why, restarts, code, nodes, name = (each.strip() for each in fields[:9])
        in_array = task not in ("", "N/A", "0xfffffffe", "4294967294")
        for index in _indices(task) if in_array else (0,):
            native_id = f"{array}_{index}" if in_array else job
            yield _seen(name, index, native_id, state, why, restarts, code, nodes)


def accounted(text: str) -> Iterator[Seen]:
    """The jobs of drawbar that have ended, in the output of `sacct -n -P -X -o HISTORY_FIELDS`."""
    for line in text.splitlines():
        fields = line.split("|")
        match = re.fullmatch(r"\d+(?:_(\d+))?", fields[0])
        if match and len(fields) >= 5 and _OURS.fullmatch(fields[4]):
            seen = _seen(fields[4], int(match[1] or 0), fields[0], fields[1], "", "", fields[2], fields[3])
            if seen.state.terminal:
                yield seen


def exit_code(text: str) -> int | None:
    """The exit code in `CODE:SIGNAL` or in a wait status; None when a signal ended the job."""
    if match := re.fullmatch(r"(\d+):(\d+)", text):
        return int(match[1]) if match[2] == "0" else None
    if re.fullmatch(r"\d+", text):
        return int(text) >> 8 if not int(text) & 0x7F else None
    return None


def together(native_ids: Iterable[str]) -> list[str]:
    """Ids of jobs as scancel takes them, those of one array as one word: `4_[1-3,7]`."""
    words: dict[str, list[int]] = {}
    for native_id in native_ids:
        job, _, index = native_id.partition("_")
        words.setdefault(job, []).extend([int(index)] if index else [])
    return [f"{job}_[{_ranges(sorted(tasks))}]" if tasks else job for job, tasks in words.items()]


def _ranges(numbers: Sequence[int]) -> str:
    """`1-3,7`: the reverse of `_indices`."""
    parts = []
    for _, pairs in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in pairs]
        parts.append(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]))
    return ",".join(parts)


def _seen(
    name: str, index: int, native_id: str, state: str, why: str, restarts: str, code: str, nodes: str
) -> Seen:
    word, _, rest = state.partition(" ")
    word = word.rstrip("+")
    why = "" if why in ("None", "(null)", "") else why
    host = nodes if nodes not in ("", "None assigned", "(null)") else None
    if word in _ENDS:
        end, reason, message = _ENDS[word]
        number = exit_code(code)
        if why == "DeadLine":
            end, reason, message = _ENDS["DEADLINE"]
        if why == "BadConstraints":
            end, reason, message = JobState.FAILED, Reason.UNSCHEDULABLE, "no node can ever run it"
        message = " ".join(each for each in (message, rest, f"({why})" if reason and why else "") if each)
        if number is None and reason is None:
            message = message or f"it was killed{f' ({why})' if why else ''}"
            reason = Reason.KILLED if end is JobState.FAILED else None
        return Seen(
            batch=name,
            index=index,
            native_id=native_id,
            state=end,
            native_state=state,
            message=message,
            reason=reason,
            unless_begun=_UNLESS_BEGUN.get(reason) if reason and host else None,
            exit_code=number,
            host=host,
        )
    again = word in _REQUEUED or (word == "PENDING" and restarts not in ("", "0"))
    never = word == "PENDING" and bool(_NEVER.fullmatch(why))
    stuck = ""
    if again:
        stuck = f"Slurm wants to start it again ({' '.join(filter(None, (state, why)))})"
    elif never:
        stuck = f"it asks for more than one job may have, and Slurm keeps it pending for ever ({why})"
    return Seen(
        batch=name,
        index=index,
        native_id=native_id,
        state=_ALIVE.get(word, JobState.RUNNING),
        native_state=state,
        message=why,
        reason=Reason.EVICTED if again else Reason.UNSCHEDULABLE if never else None,
        host=host,
        stuck=stuck,
    )


def _indices(tasks: str) -> Iterator[int]:
    """The numbers in `1-3,7,10-20:2%4`."""
    for part in tasks.partition("%")[0].split(","):
        if match := _RANGE.fullmatch(part):
            first = int(match[1])
            yield from range(first, int(match[2] or first) + 1, int(match[3] or 1))
