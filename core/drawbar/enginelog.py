"""The lines of a run's engine log.

Published feature files search the log for whole lines as REANA writes them, so the format is
REANA's: that of Python's `logging` with time, logger, thread, level and message between bars.
"""

from __future__ import annotations

import time
from functools import lru_cache

MAIN_THREAD = "MainThread"


def log_line(seconds: float, logger: str, level: str, message: str, thread: str = MAIN_THREAD) -> str:
    """One entry of the engine log, with its final newline.

    `seconds` is a time since the epoch, written in local time. The lines of a longer message follow
    as they are, so that a text of several lines is found in the log.
    """
    milliseconds = int(seconds % 1 * 1000)
    names = _names(logger, thread, level)
    return f"{_stamp(int(seconds))},{milliseconds:03} | {names} | {message.rstrip()}\n"


@lru_cache(1)
def _stamp(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


@lru_cache
def _names(*names: str) -> str:
    return " | ".join(" ".join(name.split()) for name in names)
