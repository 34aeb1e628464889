"""Stands for qsub, qstat and qdel: the first argument says which. State is in the directory FAKE_PBS.

Files in it make it misbehave: `down` (cannot be reached), `deaf` (qsub never answers, and `deaf` says
whether the batch is taken), `silent` (qstat never answers), `refusing`, `full` (qsub takes no job now),
`paused` (jobs wait), `forgetful` (ended jobs are not listed), `stuck` (all jobs are said to run, for ever).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

STATE = Path(os.environ.get("FAKE_PBS", "."))
RUN = """
trap : TERM
while [ -e "$1/paused" ] && [ ! -e "$2.deleted" ]; do sleep 0.05; done
if [ ! -e "$2.deleted" ]; then
  : >"$2.started"
  "$3" >>"$4" 2>&1 &
  wait $!
  code=$?
  while kill -0 $! 2>/dev/null; do wait $!; code=$?; done
fi
echo "$code" >"$2.new" && mv "$2.new" "$2.exit"
"""


def qsub(arguments: list[str]) -> None:
    if (STATE / "refusing").exists():
        sys.exit("qsub: Unknown queue")
    if (STATE / "full").exists():
        sys.exit("qsub: would exceed queue generic's per-user limit")
    name = arguments[arguments.index("-N") + 1]
    count = int(arguments[arguments.index("-J") + 1].split("-")[1]) if "-J" in arguments else 0
    deaf = STATE / "deaf"
    if not deaf.exists() or deaf.read_text() == "taken":
        number = len(list(STATE.glob("*.batch"))) + 1
        (STATE / f"{number}.batch").write_text(name)
        for index in range(1, count + 1) if count else [0]:
            task = STATE / f"{number}.{index}"
            log = Path(arguments[arguments.index("-o") + 1], "log")
            process = subprocess.Popen(
                ["/bin/sh", "-c", RUN, "sh", STATE, task, arguments[-1], log],
                env={**os.environ, "PBS_ARRAY_INDEX": str(index or "")} if index else None,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            (STATE / f"{number}.{index}.pid").write_text(str(process.pid))
        if not deaf.exists():
            print(f"{number}[].fake" if count else f"{number}.fake")
    while deaf.exists():
        time.sleep(0.05)


def qstat(arguments: list[str]) -> None:
    while (STATE / "silent").exists():
        time.sleep(0.05)
    jobs = {}
    for pid in STATE.glob("*.pid"):
        number, index, _ = pid.name.split(".")
        task = STATE / f"{number}.{index}"
        name = f"{number}[{index}].fake" if index != "0" else f"{number}.fake"
        state = "R" if Path(f"{task}.started").exists() else "Q"
        job = {"Job_Name": (STATE / f"{number}.batch").read_text(), "job_state": state}
        if (STATE / "stuck").exists():
            job["job_state"] = "R"
            jobs[name] = job
            continue
        with contextlib.suppress(FileNotFoundError):
            code = Path(f"{task}.exit").read_text().strip()
            if (STATE / "forgetful").exists():
                continue
            job["job_state"] = "F"
            if Path(f"{task}.deleted").exists():
                job["Exit_status"] = 271
            elif code:
                job["Exit_status"] = int(code)
        jobs[name] = job
    print(json.dumps({"Jobs": jobs}))


def qdel(arguments: list[str]) -> None:
    for name in arguments[1:]:
        number, index = re.fullmatch(r"(\d+)(?:\[(\d+)\])?\.fake", name).groups()
        task = STATE / f"{number}.{index or 0}"
        if Path(f"{task}.exit").exists():
            continue
        Path(f"{task}.deleted").touch()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(Path(f"{task}.pid").read_text()), signal.SIGTERM)


if __name__ == "__main__":
    with (STATE / "calls").open("a") as log:
        log.write(f"{sys.argv[1]}\n")
    if (STATE / "down").exists():
        sys.exit(f"{sys.argv[1]}: cannot connect to server fake")
    {"qsub": qsub, "qstat": qstat, "qdel": qdel}[sys.argv[1]](sys.argv[2:])
