"""What is kept of an attempt in its own directory, beside the job's logs.

    container    the id of its container, once there is one
    started      made by the job itself, before its command; or by a driver that found it not begun,
                 so that it cannot begin any more (then it says so)
    stop         why drawbar asked it to end, and when
    result.json  how it ended; from then on its container is not needed any more

Making the directory is the claim: who finds it made has to look for what came of it. Each file
appears whole or not at all, and `result.json` never changes.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from drawbar.codec import CodecError, decode, encode
from drawbar.model import JobResult, Reason

T = TypeVar("T")
_CONTAINER = "container"
_START = "started"
_CLOSED = "closed by a driver"
_STOP = "stop"
_RESULT = "result.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Why and when drawbar asked a job to end."""

    reason: Reason
    time: float


def claim(record: str) -> bool:
    """Take an attempt; False when it was taken before. Raises OSError when its directory cannot be made."""
    try:
        Path(record).mkdir()
    except FileExistsError:
        return False
    except FileNotFoundError:
        Path(record).parent.mkdir(parents=True, exist_ok=True)
        return claim(record)
    return True


def set_container(record: str, container: str) -> None:
    """The attempt has a container."""
    _write(record, _CONTAINER, container, os.replace)


def container(record: str) -> str | None:
    """The id of the attempt's container, if it ever had one."""
    return _read(record, _CONTAINER)


def start_of(record: str) -> str:
    """The file that the job makes when it begins."""
    return f"{record}/{_START}"


def close_start(record: str) -> bool:
    """Keep a job from beginning, whoever starts its container; False when it has begun."""
    with contextlib.suppress(FileExistsError):
        _write(record, _START, _CLOSED, os.link)
    return _read(record, _START) == _CLOSED


def set_stop(record: str, stop: Stop) -> None:
    """The attempt is going to be asked to end."""
    _write(record, _STOP, json.dumps(encode(stop)), os.replace)


def stop(record: str) -> Stop | None:
    """Why the attempt was asked to end, if it was."""
    return _decoded(Stop, _read(record, _STOP))


def set_result(record: str, result: JobResult) -> JobResult:
    """The attempt ended. The answer is what is recorded: another driver may have been first."""
    with contextlib.suppress(FileExistsError):
        _write(record, _RESULT, json.dumps(encode(result)), os.link)
    return get_result(record) or result


def get_result(record: str) -> JobResult | None:
    """How the attempt ended, once that is recorded."""
    return _decoded(JobResult, _read(record, _RESULT))


def _decoded(cls: type[T], text: str | None) -> T | None:
    if text is None:
        return None
    try:
        return decode(cls, json.loads(text))
    except (CodecError, ValueError):
        return None  # damaged: as if it were not there


def _read(record: str, name: str) -> str | None:
    try:
        return (Path(record) / name).read_text()
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None


def _write(record: str, name: str, text: str, place: Callable[[str, str], None]) -> None:
    """Write a file, durably, under a name of its own, then put it in place."""
    target, draft = f"{record}/{name}", f"{record}/.{name}.{secrets.token_hex(4)}"
    try:
        with Path(draft).open("x") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        place(draft, target)
        _sync(record)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(draft).unlink()


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
