"""What to tell the user: about a job that failed, and what did not run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from drawbar.engine import StepFailed
from drawbar.lastlines import last_lines
from drawbar.model import JobResult, Reason

_SHOWN_NAMES = 12


def failure(name: str, command: str, result: JobResult, message: str) -> str:
    """A failed job: its name, its command, how it ended, its last words, and where to read on."""
    how = "failed" if result.reason is None else f"failed ({result.reason})"
    if message:
        how = "ran, but what it left is not right"
    elif result.reason is Reason.EXIT_CODE:
        how = f"ended with exit code {result.exit_code}"
    elif result.reason is Reason.CANCELLED:
        how = "was cancelled"
    first, *others = command.strip().splitlines() or [""]
    lines = [f"step {name!r} {how}: {first}{' …' if others else ''}"]
    lines += [text for text in (message, result.message) if text]
    for log in (result.stdout, result.stderr):
        if log is not None and (log == result.stderr or message == ""):
            lines += [f"  {line}" for line in last_lines(Path(log))]
    if result.stderr is not None:
        lines.append(f"its log: {result.stderr}")
    return "\n".join(lines)


def with_rest(failed: StepFailed, workflow: Any) -> StepFailed:
    """The failure, with the steps that were not run because of it."""
    from drawbar_yadage.driver import stage_of, stage_of_node

    nodes = (workflow.dag.nodes[each]["nodeobj"] for each in workflow.dag.nodes)
    left = [stage_of_node(node) for node in nodes if node.submit_time is None]
    left += [stage_of(rule.offset, rule.rule.name) for rule in workflow.rules]
    names = [name for name in dict.fromkeys(left) if name != failed.step]
    text = f"{failed}\nnot run: {_listed(names)}" if names else str(failed)
    return StepFailed(failed.step, text, failed.result)


def never_scheduled(workflow: Any) -> list[str]:
    """A line for each stage whose turn never came in a workflow that is done."""
    from drawbar_yadage.driver import stage_of

    stages = (stage_of(rule.offset, rule.rule.name) for rule in workflow.rules)
    return [f"stage {name!r} was not scheduled: what it depends on yielded no step" for name in stages]


def said(error: Exception) -> str:
    """An exception of a library in one line."""
    if isinstance(error, AssertionError):
        return "a selector with 'step' means exactly one step, and there is another number of them"
    text = " ".join(str(argument) for argument in error.args) or type(error).__name__
    return f"there is no {text}" if isinstance(error, KeyError) else text


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more
