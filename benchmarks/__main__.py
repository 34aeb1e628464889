"""`python -m benchmarks [NAME...]`: measures, prints tables, and with `--record` writes them down."""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
from datetime import date
from importlib.metadata import version
from pathlib import Path

from benchmarks.core import BENCHMARKS, Row

RECORD = Path(__file__).resolve().parent.parent / "docs" / "results" / "benchmarks.md"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--record", action="store_true", help=f"write docs/results/{RECORD.name}")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    parts = [
        "# Benchmarks of the core\n",
        f"`python -m benchmarks --record`, {date.today().isoformat()}: drawbar {version('drawbar')}, "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {platform.system()} "
        f"{platform.release()}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the start. "
        "CPU seconds are a process's own, without those of jobs; medians of runs in turns.\n",
    ]
    for name in options.names or BENCHMARKS:
        print(f"{name} ...", flush=True)
        parts.append(table(name, BENCHMARKS[name]()))
        print(parts[-1], flush=True)
    if options.record:
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        RECORD.write_text("\n".join(parts))


def table(name: str, rows: list[Row]) -> str:
    """Rows as Markdown, under what the benchmark is about."""
    marks = {True: "yes", False: "**no**", None: ""}
    lines = [f"## {name}", "", BENCHMARKS[name].__doc__ or "", "", "| what | measured | goal | reached |"]
    lines.append("|---|---|---|---|")
    lines += [f"| {row.what} | {row.value} | {row.goal} | {marks[row.reached]} |" for row in rows]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
