"""The script that runs in every pod, and the file that tells it what to run.

The script is constant. Its arguments are directories of attempts, of a single one or of a pack's; in
each lies the file `job`, in which everything that a specification says is one quoted word. It needs a POSIX
shell; with `date` there are times in the record, with `sleep` a wall time is kept.

What it leaves in a directory is described in `records`. It is process 1 of its container, so it can
end all that a job has started, and only as such it does.
"""

from __future__ import annotations

import math
import re
import shlex

from drawbar.backend import Attempt

SHELL = "/bin/sh"
AGAIN = 125
"""The exit code of a pod that found its job begun by another."""

SCRIPT = r"""
umask "$1"
grace=$2 size=$3
shift 3
shift $((${JOB_COMPLETION_INDEX:-0} * size * 2))
pod=$DRAWBAR_POD
unset DRAWBAR_POD
[ -w "${HOME:-/}" ] || export HOME=/tmp
now() { date +%s.%N 2>/dev/null; }
counter() { # counter NAME FILE...: the number behind NAME in the first file that is there
  name=$1
  shift
  for file; do
    [ -r "$file" ] || continue
    while read -r key number; do
      [ -n "$name" ] || { echo "$key"; return; }
      [ "$key" != "$name" ] || { echo "$number"; return; }
    done <"$file"
  done
}
kills() { counter oom_kill /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; }
usage() {
  peak=$(counter '' /sys/fs/cgroup/memory.peak /sys/fs/cgroup/memory/memory.max_usage_in_bytes)
  micro=$(counter usage_usec /sys/fs/cgroup/cpu.stat)
  nano=$(counter '' /sys/fs/cgroup/cpuacct/cpuacct.usage /sys/fs/cgroup/cpu,cpuacct/cpuacct.usage)
  printf '%s=%s\n' peak_bytes "$peak" cpu_us "$micro" cpu_ns "$nano"
}
everything() { # everything SIGNAL: send it to all that the job has started
  if [ $$ -eq 1 ]; then kill -s "$1" -- -1; else kill -s "$1" "$child"; fi 2>/dev/null
}
stop() { # stop WHY: ask the job to end, and make it after the grace
  why=${why:-$1}
  [ -n "$child" ] || return 0
  everything TERM
  (
    trap '' TERM
    sleep "$grace"
    everything KILL
  ) </dev/null >/dev/null 2>&1 &
}
unable() {
  printf '%s\n' "$1" >"$record/unable"
  exit 126
}
attempt() { # attempt DIRECTORY WALLTIME
  record=$1 child='' began=$(now)
  if ! (set -C && printf 'pod=%s\nstarted=%s\n' "$pod" "$began" >"$record/started") 2>/dev/null; then
    [ ! -e "$record/started" ] || return 125
    echo "drawbar: cannot write in $record" >&2
    exit 74
  fi
  before=$(kills)
  (. "$record/job") &
  child=$!
  [ -z "$2" ] || { sleep "$2" && kill -s USR1 $$; } </dev/null >/dev/null 2>&1 &
  [ -z "$why" ] || stop "$why"
  wait "$child"
  code=$?
  while kill -0 "$child" 2>/dev/null; do # a signal ended the wait, not the job
    wait "$child"
    code=$?
  done
  everything KILL
  {
    printf '%s=%s\n' exit "$code" why "$why" pod "$pod" started "$began" finished "$(now)"
    printf 'oom_kills=%s\n' $(($(kills) - before))
    [ "$size" -gt 1 ] || usage
    echo complete=yes
  } >"$record/end"
  return "$code"
}
trap 'stop signal' TERM
trap 'stop walltime' USR1
why='' child='' left=$size
while [ "$#" -gt 0 ] && [ "$left" -gt 0 ] && [ "$why" != signal ]; do
  why=''
  attempt "$1" "$2"
  code=$?
  shift 2
  left=$((left - 1))
done
[ "$size" -eq 1 ] || [ "$why" = signal ] || code=0 # of a pack, each record has its own
exit "$code"
"""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def job_file(attempt: Attempt, stdout: str, stderr: str) -> str:
    """What the script runs in a shell of its own for an attempt."""
    spec, quote = attempt.spec, shlex.quote
    streams = f"<{quote(spec.stdin or '/dev/null')}"
    same = stdout == stderr
    check = f"{streams} >>{quote(stdout)}" + ("" if same else f" 2>>{quote(stderr)}")
    final = f"{streams} >{quote(stdout)} " + ("2>&1" if same else f"2>{quote(stderr)}")
    return "\n".join(
        [
            f"cd -- {quote(spec.directory)} 2>/dev/null || unable {quote(f'cannot enter {spec.directory}')}",
            f"(: {check}) 2>/dev/null || unable 'cannot open its standard streams'",
            *(f"export {name}={quote(value)}" for name, value in spec.environment.items()),
            f"exec {final}",
            f"exec {' '.join(map(quote, spec.argv))}",
            "",
        ]
    )


def unfit_variables(attempt: Attempt) -> list[str]:
    """Variables that no shell can pass on."""
    return [name for name in attempt.spec.environment if not _NAME.fullmatch(name)]


def arguments(
    attempts: list[tuple[str, float | None]], *, umask: int, grace_s: float, size: int
) -> list[str]:
    """The container's command for attempts, each a directory and a wall time, `size` to a pod."""
    listed = [
        text
        for record, walltime_s in attempts
        for text in (record, "" if walltime_s is None else str(math.ceil(walltime_s)))
    ]
    return [
        SHELL,
        "-c",
        SCRIPT.strip(),
        "drawbar",
        f"{umask:04o}",
        str(math.ceil(grace_s)),
        str(size),
        *listed,
    ]
