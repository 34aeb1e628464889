"""The arguments of the sentences: what each may look like, and what it means.

A converter raises ValueError, with what would be right, for an argument that makes no sense. Names
and numbers may stand in double quotes; a text to be searched for must, in the sentence itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

CHECKSUM_DIGITS = MappingProxyType({"sha256": 64, "sha512": 128, "md5": 32, "adler32": 8})
"""The checksums that can be tested, with how many hexadecimal digits each has."""

# REANA's states; drawbar never reports `pending` and `deleted`.
_STATES = ("created", "queued", "pending", "running", "finished", "failed", "stopped", "deleted")
_SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0}
_BYTES = {"": 1, "bytes": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50}


def _bare(value: str) -> str:
    return value.strip().strip('"').strip()


def _status(value: str) -> str:
    status = _bare(value).lower()
    if status not in _STATES:
        raise ValueError(f"no run is ever {status!r}; a status is one of {', '.join(_STATES)}")
    return status


def file_name(value: str) -> str:
    """The name, relative to the workspace, of a file, a directory, or a pattern of them."""
    name = _bare(value).removeprefix("./").lstrip("/")
    parts = PurePosixPath(name).parts
    if not parts or "\0" in name:
        raise ValueError(f"{value} names no file of the workspace")
    if '"' in name or "\n" in name:
        raise ValueError(f"{value} names more than one file; use a step for each")
    if ".." in parts:
        raise ValueError(f"{value} leads out of the workspace")
    if any("**" in part and part != "**" for part in parts):
        raise ValueError(f"{value}: ** stands for whole directories only")
    return name


def _step(value: str) -> str:
    if not _bare(value):
        raise ValueError(f"{value} names no step of the workflow")
    return _bare(value)


def _number(value: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", _bare(value), re.ASCII):
        raise ValueError(f"{value} is not a number")
    return float(_bare(value))


def _unit(value: str) -> float:
    seconds = _SECONDS.get(_bare(value).lower().removesuffix("s"))
    if seconds is None:
        raise ValueError(f"{value} is no unit of time; use seconds, minutes or hours")
    return seconds


def _size(value: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", _bare(value), re.ASCII)
    if match is None:
        raise ValueError(f"{value} is not a size such as 59770, 30B or 1.5 MiB")
    if match[2] not in _BYTES:
        raise ValueError(f"{match[2]} is no unit of size; use {', '.join(filter(None, _BYTES))}")
    return int(float(match[1]) * _BYTES[match[2]])


def _algorithm(value: str) -> str:
    name = _bare(value).lower()
    if name not in CHECKSUM_DIGITS:
        raise ValueError(f"{value} is no checksum that can be tested; use {', '.join(CHECKSUM_DIGITS)}")
    return name


_SIZE = r"\S+(?: \S+)?"

ARGUMENTS: Mapping[str, tuple[str, Callable[[str], Any]]] = MappingProxyType(
    {
        "status": (r"\S+", _status),
        "file": (r".+?", file_name),
        "step": (r".+?", _step),
        "text": (r".+", str),
        "algorithm": (r"\S+", _algorithm),
        "checksum": (r".+", _bare),
        "number": (r"\S+", _number),
        "unit": (r"\S+", _unit),
        "size": (_SIZE, _size),
        "low": (_SIZE, _size),
        "high": (_SIZE, _size),
    }
)
"""For each placeholder of a sentence, the regular expression that finds it and its converter.

At most one lazy expression per sentence is followed by free text, so matching is never worse than
quadratic in the length of a line.
"""
