"""What is kept of an attempt in its own directory, beside the job's logs.

    job      what to run, made by the driver; the directory itself is the driver's claim
    started  which pod began it, made by the pod; or by a driver that found it not begun, so that it
             cannot begin any more
    stop     why drawbar asked it to end
    end      how the command ended, made by the pod; complete when its last line says so
    unable   why the command could not be started

`started` is made by exactly one. Files are read anew each time: another machine may write them.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drawbar.model import Reason

SIGNAL, WALLTIME = "signal", "walltime"
"""Values of `why`: the pod was asked to stop; above the wall time."""

_CLOSED = "closed by a driver"
_NUMBER = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The `started` record; `closed` when a driver made it. `pod` is None while it is being written."""

    pod: str | None = None
    time: float | None = None
    closed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The `end` record; None is what the script could not know."""

    exit_code: int
    why: str = ""
    started: float | None = None
    finished: float | None = None
    cpu_s: float | None = None
    peak_memory_mib: float | None = None
    oom_kills: int = 0


def claim(record: str, mode: int = 0o777) -> bool:
    """Take an attempt; False when it was taken before. Raises OSError when its directory cannot be made."""
    try:
        Path(record).mkdir(mode=mode)
    except FileExistsError:
        return False
    except FileNotFoundError:
        Path(record).parent.mkdir(parents=True, exist_ok=True)
        return claim(record, mode)
    return True


def set_job(record: str, text: str) -> None:
    """What the attempt is to run. Raises OSError."""
    data = text.encode("utf-8", "surrogateescape")
    _write(record, "job", data, os.replace)


def close(record: str) -> bool:
    """Keep a job from beginning, wherever its pod is; False when it has begun."""
    with contextlib.suppress(FileExistsError):
        _write(record, "started", _CLOSED.encode(), os.link)
    found = start(record)
    return found is not None and found.closed


def start(record: str) -> Start | None:
    """Who began the attempt, if anybody did."""
    text = _read(record, "started")
    if text is None:
        return None
    values = _values(text)
    return Start(pod=values.get("pod"), time=_number(values.get("started")), closed=text == _CLOSED)


def set_stop(record: str, reason: Reason) -> None:
    """The attempt is going to be asked to end. Raises OSError."""
    _write(record, "stop", reason.value.encode(), os.replace)


def stop(record: str) -> Reason | None:
    """Why the attempt was asked to end, if it was."""
    text = _read(record, "stop")
    return next((reason for reason in Reason if reason.value == text), None)


def end(record: str) -> End | None:
    """How the command ended, once that is recorded."""
    values = _values(_read(record, "end") or "")
    code = _number(values.get("exit"))
    if "complete" not in values or code is None:
        return None
    peak, micro, nano = (_number(values.get(name)) for name in ("peak_bytes", "cpu_us", "cpu_ns"))
    return End(
        exit_code=int(code),
        why=values.get("why", ""),
        started=_number(values.get("started")),
        finished=_number(values.get("finished")),
        cpu_s=micro / 1e6 if micro is not None else nano / 1e9 if nano is not None else None,
        peak_memory_mib=peak / 2**20 if peak is not None else None,
        oom_kills=int(_number(values.get("oom_kills")) or 0),
    )


def end_anew(record: str) -> End | None:
    """The same, also where a network file system remembers that it was not there a moment ago.

    A change of our own in a directory makes such a client ask for what others have made in it.
    """
    with contextlib.suppress(OSError):
        _write(record, "seen", b"", lambda *_: None)
    return end(record)


def unable(record: str) -> str:
    """Why the command could not be started, or an empty text."""
    return (_read(record, "unable") or "").strip()


def _values(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _number(text: str | None) -> float | None:
    match = _NUMBER.match(text or "")
    return float(match[0]) if match else None


def _read(record: str, name: str) -> str | None:
    try:
        return (Path(record) / name).read_text(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None


def _write(record: str, name: str, data: bytes, place: Callable[[str, str], None]) -> None:
    """Write a file under a name of its own, then put it in place."""
    target, draft = f"{record}/{name}", f"{record}/.{name}.{secrets.token_hex(4)}"
    try:
        Path(draft).write_bytes(data)
        place(draft, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(draft).unlink()
