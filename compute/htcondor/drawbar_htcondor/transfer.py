"""Sites whose machines share no files: a job's files travel as one archive there, and as one back.

On the machine they are shown at the paths that they have here, so that nobody rewrites a command: in
namespaces of its own the launcher builds a root directory from the machine's and from what the job
brings. That takes user namespaces, as Apptainer does, and tar and util-linux.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from drawbar.backend import Attempt
from drawbar.batchscript import Submitted
from drawbar.model import JobSpec, WorkspaceNeed

IN, OUT = "input", "output"
"""Directories of a batch with an archive for each job, named by its number."""

_SCRIPT = r"""
number=${DRAWBAR_INDEX:-1}
record=${records[number - 1]}
eval "bring=(${results[number - 1]})" # each a list of quoted words
eval "own=(${owns[number - 1]})"
printf -v kept '%s\n' "" "$record" "${own[@]}"
here=$PWD
unable() { # unable MESSAGE: the job's record of its end, where its script could not write one
  mkdir -p -- "$here/files$record"
  printf '%s=%s\n' exit 126 why failed message "${1//$'\n'/ }" host "$HOSTNAME" >"$here/files$record/end"
}
show() { # show PATH: the machine's directory, with what the job brings, below the new root
  # What is the job's own is shown whole, so that what it writes there is kept.
  local path=$1 name from
  local -A names=()
  for name in "$path"/* "$files$path"/*; do names[${name##*/}]=; done
  for name in "${!names[@]}"; do
    name=$path/$name
    if [[ -d $files$name && -d $name && ! -L $name && $kept != *$'\n'"$name"$'\n'* ]]; then
      mkdir -- "$root$name" && show "$name" || return
      continue
    fi
    from=$name
    [[ -e $files$name || -L $files$name ]] && from=$files$name
    if [[ -L $from ]]; then
      cp -P -- "$from" "$root$name"
    elif [[ -d $from ]]; then
      mkdir -- "$root$name" && mount -n --rbind -- "$from" "$root$name"
    else
      : >"$root$name" && mount -n --bind -- "$from" "$root$name"
    fi || [[ $from == "$name" ]] || return # of the machine's own, some may be hidden from this user
  done
}
enter() { # in new namespaces, as their root: build the view, and become the job's script as who one was
  shopt -s nullglob dotglob
  local chroot name unset=()
  for name in files root record kept BASH_FUNC_{show,enter}%%; do unset+=(-u "$name"); done
  chroot=$(PATH=$PATH:/usr/sbin:/sbin command -v chroot)
  mount -n -t tmpfs tmpfs "$root" && show "" && cd "$root" && mount -n --move . / &&
    exec env "${unset[@]}" "$chroot" . unshare --user --map-user="$1" --map-group="$2" -- \
      /bin/bash -- "$record/job"
}
export -f show enter
export files=$here/files root=$here/root record kept
mkdir files root
if ! words=$(tar -xf "$number.tar" -C files 2>&1); then
  unable "its files cannot be unpacked on $HOSTNAME: $words"
else
  unshare --user --map-root-user --mount -- /bin/bash -c 'enter "$@"' bash "$(id -u)" "$(id -g)" 2>problems &
  child=$!
  trap 'kill -TERM "$child"' TERM INT
  wait "$child"
  while kill -0 "$child" 2>/dev/null; do wait "$child"; done
  words="its files cannot be shown at their places on $HOSTNAME: $(tail -c 2000 problems)"
  [[ -e files$record/end ]] || unable "$words"
fi
out=()
for each in "$record" "${bring[@]}"; do
  [[ ! -e files$each ]] || out+=(".$each")
done
tar -cf output.tar -C files -- "${out[@]}"
: >notice
exit 0
"""


def refusal(spec: JobSpec) -> str | None:
    """Why a job cannot run where files are transferred, or None."""
    if spec.workspace is WorkspaceNeed.SHARED:
        return "it may read and change the whole workspace, and this site transfers files (option `transfer`)"
    return None


def launcher(attempts: Sequence[Attempt]) -> str:
    """What HTCondor starts on the machine for a batch, in a directory with the archive of one job."""
    records = " ".join(shlex.quote(each.record) for each in attempts)
    results = " ".join(shlex.quote(shlex.join(_results(each.spec))) for each in attempts)
    owns = " ".join(shlex.quote(shlex.join(_own(each.spec))) for each in attempts)
    head = "#!/bin/bash\n# A batch of jobs, made by drawbar.\n"
    return f"{head}records=({records})\nresults=({results})\nowns=({owns})\n{_SCRIPT}"


def directives() -> Iterator[tuple[str, str]]:
    """Lines of the submit description."""
    yield "should_transfer_files", "YES"
    yield "when_to_transfer_output", "ON_EXIT"
    yield "transfer_executable", "true"
    yield "transfer_input_files", f"{IN}/$INT(number).tar"
    yield "transfer_output_files", "output.tar, notice"
    yield "transfer_output_remaps", f'"output.tar={OUT}/$INT(number).tar; notice=notices/$INT(number)"'


def pack(attempts: Sequence[Attempt], directory: str) -> None:
    """Write the archives of a batch. Raises OSError, also when an input is not there."""
    for name in (IN, OUT):
        Path(directory, name).mkdir(exist_ok=True)
    for number, attempt in enumerate(attempts, 1):
        with tarfile.open(f"{directory}/{IN}/{number}.tar", "w") as archive:
            _pack(archive, attempt)


def withdraw(place: Submitted) -> None:
    """A job that was given up finds no input, and HTCondor removes it."""
    Path(place.directory, IN, f"{place.index or 1}.tar").unlink(missing_ok=True)


def collect(attempt: Attempt, place: Submitted) -> None:
    """Put what a job left to where it belongs, its record of its end last. Nothing if nothing came.

    The archive is not trusted: only what was asked for is taken, and only where no link leads to it.
    """
    archive = Path(place.directory, OUT, f"{place.index or 1}.tar")
    if not archive.exists():
        return
    came = Path(attempt.record, "came")
    shutil.rmtree(came, ignore_errors=True)
    came.mkdir()
    unpack = ["tar", "-x", "--no-same-owner", "-C", str(came), "-f", str(archive)]
    done = subprocess.run(unpack, capture_output=True, check=False)
    if done.returncode == 0:
        for path in _results(attempt.spec):
            _take(came, path)
        for name in ("start", "stdout", "stderr", "end"):
            _take(came, f"{attempt.record}/{name}")
        archive.unlink()
        withdraw(place)
    shutil.rmtree(came, ignore_errors=True)


def _results(spec: JobSpec) -> list[str]:
    """What is brought back besides the record, outer paths first."""
    paths = [path for path in (spec.collection_root, spec.stdout, spec.stderr) if path is not None]
    kept: list[str] = []
    for path in paths:
        if not any(Path(path).is_relative_to(outer) for outer in kept):
            kept.append(path)
    return kept


def _own(spec: JobSpec) -> list[str]:
    """What the job may change; all that is in it travels there."""
    own = [mount.source for mount in spec.mounts if not mount.read_only]
    return own + ([spec.collection_root] if spec.collection_root else [])


def _pack(archive: tarfile.TarFile, attempt: Attempt) -> None:
    spec = attempt.spec
    taken: set[str] = set()

    def add(path: str, *, whole: bool) -> None:
        if path in taken or not os.path.lexists(path):
            return
        taken.add(path)
        archive.add(path, arcname=path.lstrip("/"), recursive=False)
        if whole and os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114
            for name in sorted(os.listdir(path)):  # noqa: PTH208
                add(f"{path}/{name}", whole=True)

    for path in _own(spec):
        add(path, whole=True)
    seen = [mount.source for mount in spec.mounts if mount.read_only]  # what is to be read there is an input
    parents = [os.path.dirname(each) for each in _results(spec)]  # noqa: PTH120
    for path in (attempt.workspace, spec.directory, *seen, *parents):
        add(path, whole=False)
    archive.dereference = True
    for path in [each.path for each in spec.inputs] + ([spec.stdin] if spec.stdin else []):
        if path not in taken and not os.path.exists(path):  # noqa: PTH110
            raise FileNotFoundError(f"the input {path} is not there")
        add(path, whole=True)
    archive.dereference = False
    archive.add(f"{attempt.record}/job", arcname=f"{attempt.record}/job".lstrip("/"))


def _take(came: Path, path: str) -> None:
    """Move one thing from what came to its place, instead of what is there."""
    source, target = came / path.lstrip("/"), Path(path)
    if not os.path.lexists(source) or source.is_symlink():
        return
    if source.parent.resolve() != came.resolve() / path.lstrip("/").rpartition("/")[0]:
        return
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
    shutil.move(source, target)
