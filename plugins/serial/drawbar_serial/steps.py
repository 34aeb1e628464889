"""The steps of a serial specification, checked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from drawbar.documents import brief
from drawbar.errors import Problem, Severity
from drawbar.options import did_you_mean

from drawbar_serial.expand import expand

_MEMORY = r"\d+|(\d+\.)?\d+[EPTGMK]i?"
_CPUS = r"[1-9]\d*m|0*[1-9]\d*(\.\d+)?|0*\.\d*[1-9]\d*"
_QUANTITY = r"(?i:[1-9]\d*\s*(K|KB|M|MB|G|GB|T|TB)?)"
_FLAVOURS = "espresso|microcentury|longlunch|workday|tomorrow|testmatch|nextweek"


@dataclass(frozen=True, slots=True)
class _Key:
    """What a key of a step takes: a type, perhaps a pattern of its text, and both in words."""

    kind: type
    words: str
    pattern: str | None = None

    def accepts(self, value: Any) -> bool:
        if type(value) is not self.kind:
            return False
        return self.pattern is None or re.fullmatch(self.pattern, str(value)) is not None


_TEXT = _Key(str, "a text")
_FLAG = _Key(bool, "true or false")
_COUNT = _Key(int, "a positive whole number", r"0*[1-9]\d*")
_MEMORY_TEXT = _Key(str, "a text such as '512Mi' or '8G'", _MEMORY)
_CPU_TEXT = _Key(str, "a text such as '2' or '500m'", _CPUS)
_QUANTITY_TEXT = _Key(str, "a text such as '4000' or '4 GB'", _QUANTITY)

HINTS: Mapping[str, _Key] = {
    "compute_backend": _TEXT,
    "kerberos": _FLAG,
    "voms_proxy": _FLAG,
    "rucio": _FLAG,
    "unpacked_img": _FLAG,
    "kubernetes_uid": _COUNT,
    "kubernetes_job_timeout": _COUNT,
    "kubernetes_cpu_request": _CPU_TEXT,
    "kubernetes_cpu_limit": _CPU_TEXT,
    "kubernetes_memory_request": _MEMORY_TEXT,
    "kubernetes_memory_limit": _MEMORY_TEXT,
    "htcondor_max_runtime": _Key(
        str, f"a text: a number of seconds, or one of {_FLAVOURS.replace('|', ', ')}", rf"\d+|{_FLAVOURS}"
    ),
    "htcondor_accounting_group": _TEXT,
    "htcondor_request_cpus": _Key(str, "a text with a positive whole number", r"0*[1-9]\d*"),
    "htcondor_request_memory": _QUANTITY_TEXT,
    "htcondor_request_disk": _QUANTITY_TEXT,
    "htcondor_requirements": _Key(str, "a text with a ClassAd expression", r"(?s:.*\S.*)"),
    "slurm_partition": _TEXT,
    "slurm_time": _Key(str, "a text with a number of minutes, such as '60'"),
    "c4p_cpu_cores": _TEXT,
    "c4p_memory_limit": _TEXT,
    "c4p_additional_requirements": _TEXT,
}
"""Keys of a step that say where and how it shall run, with what each takes."""

_COLON = "a text with ': ' in it needs quotes"
_OLD_NAMES = {"unpacked_image": "unpacked_img"}
_KNOWN = ("name", "commands", "environment", *HINTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step. `name` is unique; `commands` have their parameters filled in."""

    index: int
    name: str
    image: str
    commands: tuple[str, ...]
    hints: Mapping[str, Any]
    line: int | None


class Reader:
    """Reads a specification; `problems` is every mistake and warning found.

    `lines` gives the line of a place in `file`; `prefix` is the specification's own place in it.
    """

    def __init__(self, file: str, lines: Mapping[str, int], prefix: str) -> None:
        self.file = file
        self.lines = lines
        self.prefix = prefix
        self.problems: list[Problem] = []
        self.step: str | None = None
        self._used: set[str] = set()

    def read(self, specification: Any, parameters: Mapping[str, Any]) -> tuple[Step, ...]:
        """The steps, in order, as far as they are right."""
        if not isinstance(specification, Mapping):
            self.wrong("", "a serial specification is a mapping with a list of 'steps'")
            return ()
        for key in specification:
            if key != "steps":
                self.warn(str(key), f"unknown key {brief(key)}", did_you_mean(str(key), ["steps"]))
        items = specification.get("steps")
        if not isinstance(items, Sequence) or isinstance(items, str) or not items:
            self.wrong("steps", "'steps' must be a list of at least one step")
            return ()
        steps = [self._step(index, item, parameters) for index, item in enumerate(items)]
        self.step = None
        for name in sorted(parameters.keys() - self._used):
            self.warn("", f"parameter {name!r} is not used by any command")
        return tuple(self._unique([step for step in steps if step is not None]))

    def wrong(self, place: str, message: str, hint: str | None = None) -> None:
        """Note a mistake at a place of the specification."""
        self._note(place, message, hint, Severity.ERROR)

    def warn(self, place: str, message: str, hint: str | None = None) -> None:
        """Note something that does not stop a run."""
        self._note(place, message, hint, Severity.WARNING)

    def line(self, place: str) -> int | None:
        """The line of a place, or of the nearest one around it."""
        pointer = self._pointer(place)
        while pointer and pointer not in self.lines:
            pointer = pointer.rpartition(".")[0]
        return self.lines.get(pointer)

    def _note(self, place: str, message: str, hint: str | None, severity: Severity) -> None:
        self.problems.append(
            Problem(
                message=message,
                file=self.file,
                line=self.line(place),
                pointer=self._pointer(place),
                step=self.step,
                hint=hint,
                severity=severity,
            )
        )

    def _pointer(self, place: str) -> str:
        return ".".join(part for part in (self.prefix, place) if part)

    def _step(self, index: int, item: Any, parameters: Mapping[str, Any]) -> Step | None:
        place = f"steps.{index}"
        self.step = f"step{index}"
        if not isinstance(item, Mapping):
            self.wrong(place, f"a step is a mapping, not {brief(item)}")
            return None
        if "name" in item and not (isinstance(item["name"], str) and item["name"].strip()):
            self.wrong(f"{place}.name", f"name must be a text, not {brief(item['name'])}")
        elif "name" in item:
            self.step = item["name"]
        image = item.get("environment")
        if "environment" not in item:
            self.wrong(place, "has no 'environment'", "name the container image that the step runs in")
        elif not isinstance(image, str) or not image.strip():
            self.wrong(
                f"{place}.environment", f"environment must be the name of an image, not {brief(image)}"
            )
        return Step(
            index=index,
            name=self.step,
            image=str(image).strip(),
            commands=tuple(self._commands(place, item, parameters)),
            hints=self._hints(place, item),
            line=self.line(place),
        )

    def _commands(self, place: str, item: Mapping[str, Any], parameters: Mapping[str, Any]) -> Iterator[str]:
        commands = item.get("commands")
        if "commands" not in item:
            self.wrong(place, "has no 'commands'", "a list of at least one is needed")
            return
        if not isinstance(commands, Sequence) or isinstance(commands, str) or not commands:
            self.wrong(f"{place}.commands", "commands must be a list of at least one command")
            return
        for number, command in enumerate(commands):
            where, called = f"{place}.commands.{number}", f"command {number + 1}"
            if not isinstance(command, str):
                hint = "put it in quotes" if not isinstance(command, Mapping | Sequence) else _COLON
                self.wrong(where, f"{called} must be a text, not {brief(command)}", hint)
            elif not command.strip():
                self.wrong(where, f"{called} is empty")
            elif "\0" in command:
                self.wrong(where, f"{called} has a NUL character, which no command can be given")
            elif command[0] in "-+":
                self.wrong(where, f"{called} starts with {command[0]!r}, which is no command")
            else:
                expansion = expand(command, parameters)
                self._used |= expansion.used
                for message, hint in expansion.mistakes:
                    self.wrong(where, f"{called}, {message}", hint)
                yield expansion.text

    def _hints(self, place: str, item: Mapping[str, Any]) -> dict[str, Any]:
        hints = {}
        for name, value in item.items():
            if name in ("name", "commands", "environment"):
                continue
            key = name
            if name in _OLD_NAMES:
                key = _OLD_NAMES[name]
                self.warn(f"{place}.{name}", f"{name!r} is an old spelling", f"write {key!r}")
            if key not in HINTS:
                self.warn(
                    f"{place}.{name}",
                    f"unknown key {brief(name)}, left to the backend",
                    did_you_mean(str(name), _KNOWN),
                )
            elif value != "" and not HINTS[key].accepts(value):
                quotes = isinstance(value, int | float) and HINTS[key].accepts(str(value))
                self.wrong(
                    f"{place}.{name}",
                    f"{name} must be {HINTS[key].words}, not {brief(value)}",
                    "put it in quotes" if quotes else None,
                )
            if value != "":  # REANA's own word for "not given"
                hints[key] = value
        return hints

    def _unique(self, steps: Sequence[Step]) -> Iterator[Step]:
        """REANA allows equal names: the second `fit` is called `fit#2` here."""
        taken = {step.name.casefold() for step in steps}
        seen: set[str] = set()
        for step in steps:
            name, number = step.name, 1
            while name.casefold() in seen or (number > 1 and name.casefold() in taken):
                number += 1
                name = f"{step.name}#{number}"
            if number > 1:
                self.warn(
                    f"steps.{step.index}",
                    f"another step is called {step.name!r} too; this one is called {name!r} in the run",
                )
            seen.add(name.casefold())
            yield replace(step, name=name)
