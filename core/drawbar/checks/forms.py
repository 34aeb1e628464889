"""The sentences of feature files and what each checks.

A *condition* (Given, When) says when a scenario applies; an *expectation* (Then) is what it tests.
Their meaning is REANA's; docs/reference/tests.md says where drawbar differs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from drawbar.checks.arguments import ARGUMENTS, CHECKSUM_DIGITS, file_name
from drawbar.checks.evidence import Check, Evidence, Failed, NotApplicable
from drawbar.checks.search import checksum as checksum_of
from drawbar.checks.search import disk_usage, entries, expect_text, instead, listed, only_file

_ENDED = ("finished", "failed", "stopped")


class Kind(StrEnum):
    """What a sentence is for."""

    CONDITION = "condition"
    EXPECTATION = "expectation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A sentence that is understood; `make` turns its arguments into a check, or raises ValueError."""

    kind: Kind
    template: str
    pattern: re.Pattern[str]
    make: Callable[..., Check]


FORMS: list[Form] = []
"""Every sentence that is understood, in the order in which they are tried."""


def understand(text: str) -> tuple[Form, Check] | None:
    """The form and the check of a sentence; its doc-string, if any, stands at its end in double quotes.

    None when no form fits. Raises ValueError when one does and its arguments make no sense.
    """
    for form in FORMS:
        if match := form.pattern.fullmatch(text):
            values = {name: ARGUMENTS[name][1](value) for name, value in match.groupdict().items()}
            return form, form.make(**values)
    return None


_Make = Callable[..., Check]


def _form(kind: Kind, *templates: str) -> Callable[[_Make], _Make]:
    def register(make: _Make) -> _Make:
        for template in templates:
            pattern = ""
            for index, part in enumerate(re.split(r"\{(\w+)\}", template)):
                pattern += f"(?P<{part}>{ARGUMENTS[part][0]})" if index % 2 else re.escape(part)
            compiled = re.compile(pattern, re.IGNORECASE | re.DOTALL)
            FORMS.append(Form(kind=kind, template=template, pattern=compiled, make=make))
        return make

    return register


@_form(Kind.CONDITION, "the workflow execution completes")
def _completes() -> Check:
    def check(run: Evidence) -> None:
        if run.state not in _ENDED:
            raise NotApplicable(f"the run has not ended, it is {run.state}")

    return check


@_form(Kind.CONDITION, "the workflow is {status}", "the workflow status is {status}")
def _has_status(status: str) -> Check:
    def check(run: Evidence) -> None:
        if run.state != status:
            raise NotApplicable(f"the run is {run.state}, not {status}")

    return check


@_form(Kind.EXPECTATION, "the workflow should be {status}", "the workflow status should be {status}")
def _should_have_status(status: str) -> Check:
    def check(run: Evidence) -> None:
        if run.state != status:
            raise Failed(f"expected the run to be {status}, it is {run.state}")

    return check


@_form(
    Kind.EXPECTATION,
    "the outputs should be included in the workspace",
    "all the outputs should be included in the workspace",
)
def _outputs_exist() -> Check:
    def check(run: Evidence) -> None:
        missing = [name for name in run.outputs if not entries(run.workspace, file_name(name))]
        if missing:
            raise Failed(
                f"expected {len(run.outputs)} declared outputs in the workspace, missing: {listed(missing)}"
            )

    return check


@_form(
    Kind.EXPECTATION,
    "the workspace should not include {file}",
    "the workspace should not contain {file}",
    "{file} should not be in the workspace",
)
def _does_not_exist(file: str) -> Check:
    def check(run: Evidence) -> None:
        if found := entries(run.workspace, file):
            raise Failed(f"expected no {file} in the workspace, found {listed(found)}")

    return check


@_form(
    Kind.EXPECTATION,
    "the workspace should include {file}",
    "the workspace should contain {file}",
    "{file} should be in the workspace",
)
def _exists(file: str) -> Check:
    def check(run: Evidence) -> None:
        if not entries(run.workspace, file):
            raise Failed(f"expected {file} in the workspace, {instead(run.workspace, file)}")

    return check


@_form(Kind.EXPECTATION, 'the logs should contain "{text}"')
def _logs_contain(text: str) -> Check:
    return lambda run: expect_text([*run.engine_log(), *run.job_logs()], text, "the logs")


@_form(Kind.EXPECTATION, 'the engine logs should contain "{text}"')
def _engine_logs_contain(text: str) -> Check:
    return lambda run: expect_text(run.engine_log(), text, "the engine log")


@_form(Kind.EXPECTATION, 'the job logs should contain "{text}"')
def _job_logs_contain(text: str) -> Check:
    return lambda run: expect_text(run.job_logs(), text, "the job logs")


@_form(
    Kind.EXPECTATION,
    'the job logs for the step {step} should contain "{text}"',
    'the job logs for the {step} step should contain "{text}"',
)
def _step_logs_contain(step: str, text: str) -> Check:
    def check(run: Evidence) -> None:
        logs = run.job_logs(step)
        if not logs:
            raise Failed(f"expected job logs of a step {step!r}, the run has none")
        expect_text(logs, text, f"the job logs of step {step!r}")

    return check


@_form(
    Kind.EXPECTATION,
    'the file {file} should include "{text}"',
    'the file {file} should contain "{text}"',
)
def _file_contains(file: str, text: str) -> Check:
    return lambda run: expect_text([only_file(run.workspace, file)], text, file)


@_form(Kind.EXPECTATION, "the {algorithm} checksum of the file {file} should be {checksum}")
def _has_checksum(algorithm: str, file: str, checksum: str) -> Check:
    digits, expected = CHECKSUM_DIGITS[algorithm], checksum.lower()
    if algorithm == "adler32":  # REANA writes it without leading zeros, with or without 0x
        expected = expected.removeprefix("0x").zfill(digits)
    if not re.fullmatch(f"[0-9a-f]{{{digits}}}", expected):
        raise ValueError(f"{checksum!r} is no {algorithm} checksum, which has {digits} hexadecimal digits")

    def check(run: Evidence) -> None:
        found = checksum_of(only_file(run.workspace, file), algorithm)
        if found != expected:
            raise Failed(f"expected {algorithm} {expected} of {file}, found {found}")

    return check


@_form(Kind.EXPECTATION, "the workflow run duration should be less than {number} {unit}")
def _run_is_short(number: float, unit: float) -> Check:
    def check(run: Evidence) -> None:
        if run.started is None or run.finished is None:
            raise Failed(f"expected the run to take less than {number * unit:g} s, it has not ended")
        _expect_duration(run.finished - run.started, number * unit, "the run")

    return check


@_form(Kind.EXPECTATION, "the duration of the step {step} should be less than {number} {unit}")
def _step_is_short(step: str, number: float, unit: float) -> Check:
    def check(run: Evidence) -> None:
        times = run.step_times(step)
        if times is None:
            raise Failed(f"expected the times of a step {step!r}, the run has none")
        _expect_duration(times[1] - times[0], number * unit, f"step {step!r}")

    return check


def _expect_duration(found: float, limit: float, what: str) -> None:
    if found >= limit:
        raise Failed(f"expected {what} to take less than {limit:g} s, it took {found:.3f} s")


@_form(Kind.EXPECTATION, "the size of the file {file} should be exactly {size}")
def _has_size(file: str, size: int) -> Check:
    def check(run: Evidence) -> None:
        found = only_file(run.workspace, file).stat().st_size
        if found != size:
            raise Failed(f"expected {file} to have {size} bytes, it has {found}")

    return check


@_form(Kind.EXPECTATION, "the size of the file {file} should be between {low} and {high}")
def _has_size_between(file: str, low: int, high: int) -> Check:
    low, high = min(low, high), max(low, high)

    def check(run: Evidence) -> None:
        found = only_file(run.workspace, file).stat().st_size
        if not low <= found <= high:
            raise Failed(f"expected {file} to have between {low} and {high} bytes, it has {found}")

    return check


@_form(Kind.EXPECTATION, "the workspace size should be less than {size}")
def _workspace_is_small(size: int) -> Check:
    def check(run: Evidence) -> None:
        found = disk_usage(run.workspace)
        if found > size:
            raise Failed(f"expected the workspace to occupy at most {size} bytes, it occupies {found}")

    return check


@_form(Kind.EXPECTATION, "the workspace size should be more than {size}")
def _workspace_is_large(size: int) -> Check:
    def check(run: Evidence) -> None:
        found = disk_usage(run.workspace)
        if found < size:
            raise Failed(f"expected the workspace to occupy at least {size} bytes, it occupies {found}")

    return check
