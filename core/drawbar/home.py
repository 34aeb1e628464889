"""Where runs live: one directory per run under `DRAWBAR_HOME/runs`, and nothing else to keep in step.

    runs/NAME.N/
        run.json      what was asked for (RunSpec); written once
        state.json    the run's state for `list`, replaced at every change of it; the store is the truth
        store.sqlite  the store
        definition/   the run's own copy of the analysis
        workspace/    unless the user named another one
        attempts/     a directory for every attempt: its logs and its completion record
        jobs/         private directories of jobs, for engines that use them
        engine/       the engine's log, and what the engine process keeps
        requests/     what other processes ask of the driver

A run's id is NAME.N; N counts the runs of that name. Making the directory is what takes an id, so
several processes on several hosts may use one home. The list of runs is the list of directories.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drawbar.codec import CodecError, decode, encode
from drawbar.errors import InfrastructureError, StoreError, UsageError
from drawbar.lease import Lease
from drawbar.model import RunSpec, RunState
from drawbar.options import did_you_mean
from drawbar.store import Store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]*[A-Za-z_-][A-Za-z0-9_-]*)*")
_LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The directory of one run, and the names of what is in it."""

    path: Path

    @property
    def id(self) -> str:
        """The run's id."""
        return self.path.name

    @property
    def store(self) -> Path:
        """The store."""
        return self.path / "store.sqlite"

    @property
    def definition(self) -> Path:
        """The run's own copy of the analysis."""
        return self.path / "definition"

    @property
    def engine(self) -> Path:
        """What the engine process keeps."""
        return self.path / "engine"

    @property
    def engine_log(self) -> Path:
        """The run's log in REANA's format."""
        return self.engine / "engine.log"

    @property
    def engine_output(self) -> Path:
        """What the engine process printed."""
        return self.engine / "output.txt"

    @property
    def attempts(self) -> Path:
        """Directories of attempts."""
        return self.path / "attempts"

    @property
    def jobs(self) -> Path:
        """Private directories of jobs."""
        return self.path / "jobs"

    @property
    def manifest(self) -> Path:
        """What the run yielded and from what, once it is finished."""
        return self.path / "manifest.json"

    @property
    def cancel_request(self) -> Path:
        """Exists when somebody asked for the run to be cancelled."""
        return self.path / "requests" / "cancel"

    def spec(self) -> RunSpec:
        """What was asked for; `StoreError` when the file is damaged."""
        path = self.path / "run.json"
        try:
            return decode(RunSpec, json.loads(path.read_text()))
        except (OSError, ValueError, CodecError) as error:
            raise StoreError(f"cannot read {path}: {error}") from error

    def state(self) -> Mapping[str, Any]:
        """What `list` shows: state, message, times, number of jobs. Empty when the run never started."""
        try:
            value = json.loads((self.path / "state.json").read_text())
            RunState(value["state"])
        except (OSError, ValueError, TypeError, KeyError):
            return {}
        return value  # type: ignore[no-any-return]

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Replace what `list` shows."""
        write_json(self.path / "state.json", state)

    def lease(self) -> Lease | None:
        """The lease as it is stored; None when the run was never driven."""
        if not self.store.exists():
            return None
        with Store(self.store, read_only=True) as store:
            return store.lease()

    def interrupted(self) -> bool:
        """Whether the run is in the middle of things and its driver is gone."""
        state = self.state().get("state", RunState.CREATED)
        if RunState(state).terminal:
            return False
        lease = self.lease()
        return lease is None or not lease.pid or lease.alive is False


class Home:
    """The directory that `DRAWBAR_HOME` names; made when the first run is."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def runs_path(self) -> Path:
        """The directory of all runs."""
        return self.path / "runs"

    def create(self, name: str) -> RunDirectory:
        """A new, empty run directory under the next number of `name`.

        `UsageError` when the name cannot be one, `InfrastructureError` when the home cannot be written.
        """
        if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
            raise UsageError(
                f"{name!r} cannot name a run: letters, digits, '-', '_' and '.' (but no number after "
                f"the last '.'), at most {_LONGEST_NAME}"
            )
        try:
            self.runs_path.mkdir(parents=True, exist_ok=True, mode=0o700)
            number = max((each for found, each in self._ids() if found == name), default=0) + 1
            while True:
                directory = RunDirectory(self.runs_path / f"{name}.{number}")
                try:
                    directory.path.mkdir(mode=0o700)
                except FileExistsError:
                    number += 1
                    continue
                for part in (directory.engine, directory.attempts, directory.jobs, directory.definition):
                    part.mkdir()
                directory.cancel_request.parent.mkdir()
                return directory
        except OSError as error:
            raise InfrastructureError(f"cannot make a run under {self.path}: {error}") from error

    def runs(self) -> Iterator[RunDirectory]:
        """Every run that was made completely, by name and number."""
        for name, number in sorted(self._ids()):
            directory = RunDirectory(self.runs_path / f"{name}.{number}")
            if (directory.path / "run.json").exists():
                yield directory

    def find(self, text: str) -> RunDirectory:
        """A run by its id, or the newest of a name; `UsageError` names the nearest when there is none."""
        known = {run.id: run for run in self.runs()}
        if text in known:
            return known[text]
        named = [run for run in known.values() if run.id.rpartition(".")[0] == text]
        if named:
            return named[-1]
        hint = did_you_mean(text, {*known, *(each.rpartition(".")[0] for each in known)})
        raise UsageError(f"there is no run {text!r}" + (f" ({hint})" if hint else " (see `drawbar list`)"))

    def newest(self, name: str) -> RunDirectory | None:
        """The newest run of a name."""
        return max(
            (run for run in self.runs() if run.id.rpartition(".")[0] == name),
            key=lambda run: int(run.id.rpartition(".")[2]),
            default=None,
        )

    def _ids(self) -> Iterator[tuple[str, int]]:
        try:
            entries = os.listdir(self.runs_path)  # noqa: PTH208 (names are all that is needed)
        except FileNotFoundError:
            return
        except OSError as error:
            raise InfrastructureError(f"cannot read {self.runs_path}: {error}") from error
        for entry in entries:
            name, _, number = entry.rpartition(".")
            if name and number.isdecimal():
                yield name, int(number)


def write_run(directory: RunDirectory, spec: RunSpec) -> None:
    """Make the run known; before this, its directory counts as an unfinished attempt to make one."""
    write_json(directory.path / "run.json", encode(spec))


def _pieces(value: Mapping[str, Any]) -> Iterator[str]:
    """JSON text with a line for each member, and for each item of a list: the encoder in C cannot indent."""
    start = "{\n"
    for name, member in value.items():
        yield f"{start}{json.dumps(name)}: "
        start = ",\n"
        if isinstance(member, list | Iterator):
            yield from _items(member)
        else:
            yield json.dumps(member)
    yield "\n}\n"


def _items(items: Iterable[Any]) -> Iterator[str]:
    start = "["
    for item in items:
        yield f"{start}\n{json.dumps(item)}"
        start = ","
    yield "[]" if start == "[" else "\n]"


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file, durably and all at once. Members that are iterators become lists."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w") as file:
            file.writelines(_pieces(value))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise InfrastructureError(f"cannot write {path}: {error}") from error
