"""The script that runs one attempt on a node of a batch system, and the records that it leaves.

In the attempt's directory:

    submission   which batch it belongs to, and its place there; made before the batch is submitted
    job          the script
    claim/       made by the first copy of the script that starts, or by a driver that gives the
                 attempt up: whoever comes later does nothing
    again        a second copy was started and did nothing
    start, end   what the script knows of the job, each complete from the moment it exists
    stdout, stderr

`submission`, `start` and `end` are lines of `name=value`. `end` says how the command ended, and with `why`
that it was made to: `walltime`, or `signal` when the scheduler asked the script itself to stop. `start`
repeats what `submission` says, so that a job that began is known even if this machine crashed and lost
the other (docs/adr/0061).

The script needs bash (4 or newer) and coreutils. Everything that a specification says stands in it
as one quoted word.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from drawbar import mounts
from drawbar.backend import Attempt
from drawbar.runtime import Runtime, mark_of

WALLTIME, SIGNAL, FAILED = "walltime", "signal", "failed"
"""Values of `why`: above its wall time, asked to stop, never started because of its surroundings."""

_CLAIM, _SUBMISSION = "claim", "submission"
_TIMES = re.compile(r"^(\d+)m([\d.,]+)s (\d+)m([\d.,]+)s$", re.MULTILINE)
_MOST_BYTES = 64 * 1024

_HEAD = r"""
finish() { # finish CODE MESSAGE
  local ended container=
  ended=$(date +%s.%N)
  if [[ -n $scratch ]]; then
    container=made
    [[ -e $mark ]] || container=unmade
  fi
  {
    printf '%s=%s\n' exit "$1" why "$why" message "$2" started "$started" finished "$ended" host "$host" \
      container "$container"
    usage
    times
  } >"$record/.end" && mv -f -- "$record/.end" "$record/end"
  : >"$notice"
  [[ -z $scratch ]] || rm -rf -- "$scratch"
  exit "$1"
}
usage() { # what the kernel counted for this job, where it has a control group of its own
  local controllers path place kills
  while IFS=: read -r _ controllers path; do
    [[ $path == $own_group ]] || continue
    place=/sys/fs/cgroup/memory$path
    [[ -n $controllers ]] || place=/sys/fs/cgroup$path
    [[ -z $controllers || ,$controllers, == *,memory,* ]] || continue
    cat -- "$place"/memory.{max_usage_in_bytes,peak} 2>/dev/null | sed 's/^/peak_bytes=/'
    sed -n 's/^oom_kill /oom_kills=/p' "$place"/memory.{oom_control,events} 2>/dev/null
  done </proc/self/cgroup
}
stop() { # ask the command to end, and make it after the grace
  why=${why:-$1}
  [[ -n $child ]] || return 0
  kill -TERM -- "-$child" 2>/dev/null
  [[ -n $killer ]] || { { sleep "$grace"; kill -KILL -- "-$child"; } </dev/null &>/dev/null & killer=$!; }
}

export PATH HOME=${HOME:-~} # some schedulers give a job no environment at all
why= child= watch= killer= scratch=
host=${SLURMD_NODENAME:-$HOSTNAME}
if ! mkdir -- "$record/claim" 2>/dev/null; then
  [[ -d $record/claim ]] && : >"$record/again" && exit 0
  echo "drawbar: cannot write $record on $host" >&2
  exit 74
fi
started=$(date +%s.%N)
printf '%s=%s\n' started "$started" host "$host" batch "$batch" index "$index" directory "$batch_directory" \
  >"$record/.start"
mv -f -- "$record/.start" "$record/start"
trap 'stop signal' TERM INT
trap 'stop walltime' USR1
"""

_TAIL = r"""
[[ -n $why ]] && finish 143 'it was asked to stop before the command was started'
unable=$( { cd -- "$directory" && : <"$in" && : >"$out" && : >"$err"; } 2>&1) || {
  why=failed
  unable=${unable#*: line } # bash tells where in this script
  unable=${unable#*: }
  finish 126 "cannot start on $host: ${unable//$'\n'/ }"
}
cd -- "$directory"
if [[ -n $scratch_variable ]]; then # a job in an image: room for its own /tmp, and which GPUs it has
  scratch=$(mktemp -d) || {
    why=failed
    finish 126 "no temporary directory can be made on $host"
  }
  export "$scratch_variable=$scratch"
  for name in CUDA_VISIBLE_DEVICES NVIDIA_VISIBLE_DEVICES GPU_DEVICE_ORDINAL; do
    [[ -z ${!name-} ]] || export "$inside_prefix$name=${!name}"
  done
fi
set -m # each command below is a process group of its own
run_job <"$in" >"$out" 2>REDIRECT &
child=$!
if [[ -n $walltime ]]; then
  { sleep "$walltime" && kill -USR1 $$; } </dev/null &>/dev/null &
  watch=$!
fi
[[ -z $why ]] || stop "$why" # a signal that came before there was a child
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do # a signal ended the wait, not the job
  wait "$child"
  code=$?
done
for group in "$child" $watch $killer; do
  kill -KILL -- "-$group" 2>/dev/null
done
trap '' TERM INT USR1
finish "$code" ''
"""
_WHOLE = "# This line says that the script is whole."


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a site says about where jobs run; its lines are trusted, and are shell.

    `own_group` is a shell pattern of the control groups that the batch system makes for one job.
    `runtime` is what jobs with an image are run with; without it, they are run without.
    """

    prolog: Sequence[str] = ()
    modules: Sequence[str] = ()
    grace_s: float = 10.0
    own_group: str = ""
    runtime: Runtime | None = None

    def command(self, attempt: Attempt) -> Attempt:
        """The attempt as a plain command. ValueError for what cannot be one."""
        if self.runtime is None or attempt.spec.image is None:
            return attempt
        if problem := mounts.refusal(attempt, self.runtime.shared):
            raise ValueError(problem)
        return self.runtime.wrap(attempt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """The place of an attempt in its batch; `index` counts from 1, and is 0 in a batch of one."""

    batch: str
    index: int
    directory: str

    @property
    def notices(self) -> str:
        """The directory in which the jobs of the batch tell of their ends."""
        return f"{self.directory}/notices"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The `start` record."""

    started: float | None
    host: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The `end` record; None is what the script could not know."""

    exit_code: int
    why: str = ""
    message: str = ""
    host: str | None = None
    started: float | None = None
    finished: float | None = None
    cpu_s: float | None = None
    peak_memory_mib: float | None = None
    oom_kills: int = 0
    container: str = ""
    """`made` or `unmade` for a job that was to run in an image."""


def script(attempt: Attempt, place: Submitted, surroundings: Surroundings) -> str:
    """The text of the script for an attempt; at its end it makes a file with its index in `notices`.

    ValueError as `Surroundings.command` has it.
    """
    plain, quote = surroundings.command(attempt), shlex.quote
    runtime = surroundings.runtime if plain is not attempt else None
    spec = plain.spec
    walltime = "" if spec.resources.walltime_s is None else f"{spec.resources.walltime_s:.3f}"
    values = {
        "record": attempt.record,
        "batch": place.batch,
        "index": str(place.index),
        "batch_directory": place.directory,
        "notice": f"{place.notices}/{place.index}",
        "directory": spec.directory,
        "in": spec.stdin or "/dev/null",
        "out": spec.stdout or f"{attempt.record}/stdout",
        "err": spec.stderr or f"{attempt.record}/stderr",
        "walltime": walltime,
        "grace": f"{surroundings.grace_s:.3f}",
        "own_group": surroundings.own_group or "-",
        "mark": mark_of(attempt.record),
        "scratch_variable": runtime.scratch_variable if runtime else "",
        "inside_prefix": runtime.inside_prefix if runtime else "",
    }
    variables = [quote(f"{name}={value}") for name, value in spec.environment.items()]
    command = " ".join(["exec env --", *variables, *map(quote, spec.argv)])
    modules = "\n".join(
        f"module load {quote(each)} || {{\n  why=failed\n"
        f"  finish 126 {quote(f'module {each} cannot be loaded')}\n}}"
        for each in surroundings.modules
    )
    return "\n".join(
        [
            "#!/bin/bash",
            f"# One attempt of the job {_comment(spec.name)}, made by drawbar.",
            *(f"{name}={quote(value)}" for name, value in values.items()),
            _HEAD,
            *surroundings.prolog,
            *((_MODULES, modules) if modules else ()),
            f"run_job() {{\n  {command}\n}}",
            _TAIL.replace("REDIRECT", "&1" if values["err"] == values["out"] else '"$err"') + _WHOLE,
        ]
    )


_MODULES = r"""
for file in /etc/profile.d/{modules,lmod,z00_lmod}.sh; do
  [[ $(type -t module) == function ]] && break
  [[ ! -r $file ]] || . "$file"
done
"""


def launcher(records: Sequence[str], index_variable: str) -> str:
    """The script that is handed to the scheduler for a batch: task N runs the script in the Nth directory.

    `index_variable` is where the scheduler puts N, counted from 1. A script that lost its end with a crash
    of this machine is not begun.
    """
    listed = " ".join(map(shlex.quote, records))
    number = f'"${{{index_variable}:-1}}"' if index_variable else "1"
    return (
        "#!/bin/bash\n"
        "# A batch of jobs, made by drawbar.\n"
        f"records=({listed})\n"
        f"number={number}\n"
        "job=${records[number - 1]}/job\n"
        f'[[ $(tail -n 1 -- "$job") == {shlex.quote(_WHOLE)} ]] || {{\n'
        '  echo "drawbar: $job is not there, or not whole" >&2\n'
        "  exit 74\n"
        "}\n"
        'exec /bin/bash -- "$job"\n'
    )


def claim(record: str) -> bool:
    """Close an attempt that no script has claimed, so that none ever will; False when one had.

    Raises OSError when neither is known. A crash of the machine undoes it, unless `flush` follows.
    """
    try:
        Path(record, _CLAIM).mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def flush(records: Iterable[str]) -> None:
    """Have these directories outlive a crash of the machine, with all that is in them.

    One call for each file system, since one for each file takes up to 30 ms. Raises OSError.
    """
    devices = {Path(record).stat().st_dev: record for record in records}
    for record in devices.values():
        descriptor = os.open(record, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), record)
        finally:
            os.close(descriptor)


def withdraw(record: str) -> None:
    """The attempt was not submitted after all, and never will be. OSError when that cannot be noted."""
    claim(record)
    Path(record, _SUBMISSION).unlink(missing_ok=True)


def started_again(record: str) -> bool:
    """Whether the scheduler started a second copy of the script."""
    return Path(record, "again").exists()


def write_submission(record: str, place: Submitted) -> None:
    """Note that an attempt is about to be submitted. Raises OSError when that cannot be, or was before."""
    Path(record).mkdir(parents=True, exist_ok=True)
    with Path(record, _SUBMISSION).open("x") as file:
        file.write(f"batch={place.batch}\nindex={place.index}\ndirectory={place.directory}\n")


def read_submission(record: str) -> Submitted | None:
    """Where an attempt was submitted, or None when it never was. Raises OSError when that cannot be seen."""
    for name in (_SUBMISSION, "start"):
        text = _text(Path(record, name)) or ""
        values = _values(text)
        if text.endswith("\n") and (directory := values.get("directory")):
            index = values.get("index", "")
            batch = values.get("batch", "")
            return Submitted(batch=batch, index=int(index) if index.isdecimal() else 0, directory=directory)
    return None


def read_end(record: str) -> End | None:
    """How the job ended by its own record, or None while there is none.

    Raises OSError when that cannot be seen.
    """
    text = _text(Path(record, "end"))
    if text is None:
        return None
    values = _values(text)
    exit_code = _number(values.get("exit"))
    if exit_code is None:
        return None  # torn by a crash of the machine, or not ours
    peak = _number(values.get("peak_bytes"))
    return End(
        exit_code=int(exit_code),
        why=values.get("why", ""),
        message=values.get("message", ""),
        host=values.get("host") or None,
        started=_number(values.get("started")),
        finished=_number(values.get("finished")),
        cpu_s=_cpu_s(text),
        peak_memory_mib=None if peak is None else peak / 2**20,
        oom_kills=int(_number(values.get("oom_kills")) or 0),
        container=values.get("container", ""),
    )


def read_start(record: str) -> Start | None:
    """When and where the job started by its own record, or None while there is none."""
    try:
        text = _text(Path(record, "start"))
    except OSError:
        return None
    values = _values(text or "")
    return Start(started=_number(values.get("started")), host=values.get("host") or None) if values else None


def directive(value: str, what: str) -> str:
    """A value from a specification as it may stand in a directive or an option of a submit command.

    ValueError names `what` and says why not: it must be one printable word that is no option itself.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:,/@=+&|*()\[\]!%-]*", value):
        raise ValueError(f"{what}: {value!r} is not a word of letters, digits and _.:,/@=+&|*()[]!%-")
    return value


def _text(path: Path) -> str | None:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_MOST_BYTES)
    except FileNotFoundError:
        return None


def _values(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _number(text: str | None) -> float | None:
    with contextlib.suppress(ValueError):
        return float(text) if text else None
    return None


def _cpu_s(text: str) -> float | None:
    """What the children of the script used; bash's `times` prints it below what the script did."""
    lines = _TIMES.findall(text)
    if len(lines) != 2:
        return None
    parts = [float(each.replace(",", ".")) for each in lines[1]]
    return parts[0] * 60 + parts[1] + parts[2] * 60 + parts[3]


def _comment(text: str) -> str:
    return re.sub(r"[^\x20-\x7e]", "?", text)[:100]


def write_text(path: str, text: str, *, durably: bool = False) -> None:
    """Write a file as it is, also where the text holds bytes that are no UTF-8."""
    with Path(path).open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(text)
        if durably:
            file.flush()
            os.fsync(file.fileno())
