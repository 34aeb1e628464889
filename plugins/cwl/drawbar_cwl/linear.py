"""Constant time per element of a scatter, in place of what is quadratic or eager in cwltool.

cwltool makes every element of a scatter before the first one runs, and looks at all of them again
after each job. Here an element is made when the engine asks for another job, and looked at again
only when one of its own jobs has ended: it then `wake`s what it is part of. And for each result whose name
another one has, cwltool tries all numbers from 2 again to find it a name of its own.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, MutableSequence
from functools import partial
from logging import getLogger
from typing import Any

from cwltool import command_line_tool, workflow_job
from cwltool.errors import WorkflowException
from cwltool.pathmapper import MapperEnt, PathMapper
from cwltool.workflow_job import ReceiveScatterOutput, WorkflowJobStep

from drawbar_cwl.context import Context
from drawbar_cwl.replacing import Replacement

Order = dict[str, Any]
Jobs = Iterator[Any]
_GOOD = ("success", "skipped")

_logger = getLogger("cwltool")


def replacements() -> list[Replacement]:
    """What is here for cwltool; names of jobs are counted anew."""
    names: dict[str, int] = {}

    def uniquename(stem: str, _: set[str] | None = None) -> str:
        names[stem] = names.get(stem, 0) + 1
        return stem if names[stem] == 1 else f"{stem}_{names[stem]}"

    return [
        (command_line_tool, "uniquename", uniquename),
        (workflow_job, "uniquename", uniquename),
        (workflow_job, "dotproduct_scatter", dotproduct),
        (workflow_job, "nested_crossproduct_scatter", nested_crossproduct),
        (workflow_job, "flat_crossproduct_scatter", flat_crossproduct),
    ]


class ResultsMapper(PathMapper):
    """Says where results are put: files of one name get the numbers that cwltool would give them."""

    def setup(self, referenced_files: Any, basedir: str) -> None:
        """See `PathMapper.setup`."""
        super().setup(referenced_files, basedir)
        taken: dict[str, MapperEnt] = {}
        numbers: dict[str, int] = {}
        for key, entry in list(self.items()):
            if entry.type is None or "File" not in entry.type:
                continue
            if taken.setdefault(entry.target, entry).resolved == entry.resolved:
                continue
            number = numbers.get(entry.target, 2)
            while (target := f"{entry.target}_{number}") in taken:
                number += 1
            numbers[entry.target] = number + 1
            taken[target] = self.update(key, entry.resolved, target, entry.type, entry.staged)


def dotproduct(
    step: WorkflowJobStep,
    order: Order,
    keys: MutableSequence[str],
    callback: Callable[[Any, str], None],
    context: Context,
) -> Jobs:
    """The elements of arrays of one length, taken together."""
    lengths = {len(order[key]) for key in keys}
    if len(lengths) != 1:
        raise WorkflowException("Length of input arrays must be equal when performing dotproduct scatter.")
    (total,) = lengths

    def element(index: int) -> Order:
        return {**order, **{key: order[key][index] for key in keys}}

    return _elements(step, total, element, _numbers, callback, context)


def flat_crossproduct(
    step: WorkflowJobStep,
    order: Order,
    keys: MutableSequence[str],
    callback: Callable[[Any, str], None],
    context: Context,
) -> Jobs:
    """Every combination of elements, in one list; the last array varies fastest."""
    lengths = [len(order[key]) for key in keys]

    def numbers(index: int) -> tuple[int, ...]:
        found = []
        for length in reversed(lengths):
            index, number = divmod(index, length)
            found.append(number)
        return tuple(reversed(found))

    def element(index: int) -> Order:
        chosen = zip(keys, numbers(index), strict=True)
        return {**order, **{key: order[key][number] for key, number in chosen}}

    return _elements(step, math.prod(lengths), element, numbers, callback, context)


def nested_crossproduct(
    step: WorkflowJobStep,
    order: Order,
    keys: MutableSequence[str],
    callback: Callable[[Any, str], None],
    context: Context,
) -> Jobs:
    """Every combination of elements, in lists of lists in the order of the arrays."""
    key, *others = keys

    def element(index: int) -> Order:
        return {**order, key: order[key][index]}

    make = partial(_nested, step, others) if others else None
    return _elements(step, len(order[key]), element, _numbers, callback, context, make)


def _nested(
    step: WorkflowJobStep, keys: list[str], order: Order, callback: Callable[[Any, str], None], inner: Context
) -> Jobs:
    return nested_crossproduct(step, order, keys, callback, inner)


def _numbers(index: int) -> tuple[int, ...]:
    return (index,)


def _elements(
    step: WorkflowJobStep,
    total: int,
    element: Callable[[int], Order],
    numbers: Callable[[int], tuple[int, ...]],
    callback: Callable[[Any, str], None],
    context: Context,
    make: Callable[[Order, Callable[[Any, str], None], Context], Jobs] | None = None,
) -> Jobs:
    """The jobs of all elements: first those of elements that can go on, then those of the next new one."""
    results: dict[str, MutableSequence[Any]] = {each["id"]: [None] * total for each in step.tool["outputs"]}
    receiver = ReceiveScatterOutput(callback, results, total)  # type: ignore[arg-type]
    receiver.setTotal(total, [])
    ready: deque[int] = deque()
    blocked: dict[int, Jobs] = {}

    def wake(index: int) -> None:
        if index in blocked:
            ready.append(index)
        context.wake()

    def begin(index: int) -> Jobs:
        inner = context.copy()
        inner.indices = (*context.indices, *numbers(index))
        inner.wake = partial(wake, index)
        receive = partial(receiver.receive_scatter_output, index)
        if make is not None:
            return make(element(index), receive, inner)
        order: Any = element(index)
        if context.postScatterEval is not None:
            order = context.postScatterEval(order)
        if order is None:
            receive({}, "skipped")
            return iter(())
        return step.job(order, receive, inner)

    begun = 0
    while receiver.completed < total:
        stopped = context.on_error == "stop" and receiver.processStatus not in _GOOD
        if stopped or not (ready or begun < total):
            yield None
            continue
        if ready:
            index = ready.popleft()
            jobs = blocked.pop(index, None)
            if jobs is None:
                continue
        else:
            index, begun = begun, begun + 1
            jobs = begin(index)
        try:
            for job in jobs:
                if job is None:
                    blocked[index] = jobs
                    break
                yield job
        except WorkflowException as error:
            _logger.error("Cannot make scatter job: %s", error)
            receiver.receive_scatter_output(index, {}, "permanentFail")
