"""Source files that a rule uses without declaring them, such as the script that its command names.

Snakemake does not look at them. Here they enter the keys of the rule's jobs, and when one has been
edited since a rule's outputs may have been made, the rule is run again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from drawbar.closure import Closure
from drawbar.engine import Source
from drawbar.model import Input
from drawbar.paths import walk

_RECORD = Path(".snakemake", "drawbar-sources.json")


class Sources:
    """The source files of one workflow. Made when its Snakefiles have been read, in its directory."""

    def __init__(self, source: Source, workflow: Any) -> None:
        self._root = source.definition or source.root
        own = {os.path.relpath(each.get_path_or_uri(True), source.root) for each in workflow.included}
        files = {file for name in _declared(source, self._root) for file in _files(self._root, name)} - own
        self._texts = {rule.name: text_of(rule) for rule in workflow.rules}
        # All files count as mentioned somewhere, so that each belongs only to those that mention it.
        self._closure = Closure(self._root, files, [*self._texts.values(), *files])
        self._now = {name: self._state(text) for name, text in self._texts.items()}

    def inputs_of(self, text: str, known: Iterable[str]) -> Iterator[Input]:
        """The files that a job uses with such a command, without those that are `known` otherwise."""
        for name in self._closure.inputs_of([text]):
            if name not in known:
                yield Input(path=str(self._root / name), name=f"source:{name}")

    def edited(self) -> set[str]:
        """Rules whose files are not what they were when outputs of theirs may have been made.

        From now on, outputs may be made with the files as they are.
        """
        before = json.loads(_RECORD.read_text()) if _RECORD.exists() else {}
        states = {rule: before.get(rule, []) for rule in self._now}
        edited = {rule for rule, known in states.items() if known and known != [self._now[rule]]}
        self._write({rule: sorted({*known, self._now[rule]}) for rule, known in states.items()})
        return edited

    def settle(self) -> None:
        """The workflow has come to its end: all outputs are made with the files as they are."""
        self._write({rule: [state] for rule, state in self._now.items()})

    def _state(self, text: str) -> str:
        found = []
        for name in self._closure.inputs_of([text]):
            status = (self._root / name).stat()
            found.append(f"{name} {status.st_size} {status.st_mtime_ns}")
        return "\n".join(found)

    def _write(self, record: dict[str, list[str]]) -> None:
        _RECORD.parent.mkdir(exist_ok=True)
        temporary = _RECORD.with_suffix(".new")
        temporary.write_text(json.dumps(record))
        temporary.replace(_RECORD)


def _declared(source: Source, root: Path) -> Iterable[str]:
    """What the analysis declares; of a bare workflow file, all that came with it."""
    if source.declared or source.definition is None:
        return source.declared
    return [entry.name for entry in root.iterdir() if not entry.name.startswith(".")]


def _files(root: Path, name: str) -> Iterator[str]:
    if (root / name).is_dir():
        for entry in walk(root, name, "inputs.directories"):
            if not entry.directory:
                yield entry.path
    elif (root / name).exists():
        yield name


def text_of(rule: Any) -> str:
    """What a rule says of the files that it uses."""
    texts = (rule.shellcmd, rule.run_func_src, rule.script, rule.notebook)
    return "\n".join(str(text) for text in texts if text)
