"""Runs a job in its image with a program of the machine: Apptainer, or Singularity.

There is no daemon. The program makes the container and waits for the command, as the user who calls it
and in the caller's process group, so that a backend starts, watches and ends it like any other
command. What runs inside has process ids of its own, and is killed with the first of them.

Such programs carry out `$( )` in the values of variables and lose carriage returns, and their own
arguments can be read by every user of the machine. So a job's variables are packed into one, in
characters that nobody touches, and a constant script unpacks them inside.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from drawbar import imagefiles
from drawbar.backend import Attempt, FoundImage
from drawbar.errors import BackendError
from drawbar.images import Pull
from drawbar.lastlines import last_lines
from drawbar.model import JobSpec, Mount, WorkspaceNeed
from drawbar.mounts import mounts_of

PROGRAMS = ("apptainer", "singularity")
"""What is looked for when the settings name no program."""

_PACKED = "DRAWBAR_JOB"
_MOST_BYTES = 120_000
"""The kernel takes 128 KiB in one variable."""
_TOUCHED = re.compile(rb"[^A-Za-z0-9 _=/.,:+-]")

_INSIDE = r"""
: >"$1" || exit 125
cd -- "$2" || exit 125
shift 2
IFS=@
set -f
script=$(printf '\\%s' $DRAWBAR_JOB)
unset IFS DRAWBAR_JOB
set +f
eval "$(printf %b "$script")"
"""
"""For the shell of the image: makes a mark, goes to the job's directory, and becomes the command.

What it unpacks is `exec env -- NAME=VALUE... "$@"` with the job's streams. It uses nothing but what
the shell itself has.
"""


_ENTRY_POINT = r"""
if [ -r /.singularity.d/runscript ]; then
  while read -r line; do
    case $line in OCI_ENTRYPOINT=*) eval "$line"; eval "set -- $OCI_ENTRYPOINT \"\$@\""; break ;; esac
  done </.singularity.d/runscript
fi
"""
"""For the shell of the image: puts the image's entry point before the command.

The programs note that of an image of Docker's kind in its `runscript`, as words for a shell, when they
make a file or an unpacked directory of it.
"""


class NoImage(ValueError):
    """A job's image is not here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """A program that runs commands in images: a name on PATH, or a path.

    `shared` are directories of the site that every job sees, for reading only; `images` is the
    directory in which images of registries are kept as files, and `pull` says when they are fetched.
    """

    program: str = PROGRAMS[0]
    shared: tuple[str, ...] = ()
    images: str = ""
    pull: Pull = Pull.MISSING
    problems: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Why images could not be fetched."""

    def wrap(
        self, attempt: Attempt, *, inside: Mapping[str, str] | None = None, scratch: str | None = None
    ) -> Attempt:
        """The attempt as a plain command of the machine, which runs it in its image.

        `inside` are more variables for the job. What the job itself says of its streams is done inside,
        so that those of the program are free for what it has to say. `scratch` is a directory of this
        attempt alone for /tmp and the home directory, which can also be given when the command is run,
        in the variable `scratch_variable`; without one they lie in memory, and are small.

        Raises ValueError when the program cannot be told what the job wants, and `NoImage` when its
        image was to be fetched, and was not.
        """
        spec = attempt.spec
        image = self._ready(spec.image or "")
        if "=" in spec.argv[0]:
            raise ValueError(f"the command {spec.argv[0]!r} has a '=' in its name")
        arguments = [self.program, "--silent", "exec", "--containall"]
        shared = (Mount(source=each, target=each, read_only=True) for each in self.shared)
        for mount in (*shared, *mounts_of(attempt)):
            arguments += ["--mount", _mount(mount)]
        if not spec.network:
            arguments += ["--net", "--network", "none"]
        if spec.resources.gpus:
            arguments += ["--nv"]
        shell = ["/bin/sh", "-c", _INSIDE, "drawbar", mark_of(attempt.record), spec.directory]
        argv = (*arguments, image, *shell, *spec.argv)
        for text in argv:
            _check_encoding(text)
        environment = {self.inside_prefix + _PACKED: _pack(_script(spec, inside or {}))}
        if scratch is not None:
            environment[self.scratch_variable] = scratch
        wrapped = replace(
            spec,
            argv=argv,
            directory="/",
            environment=environment,
            mounts=(),
            stdin=None,
            stdout=None,
            stderr=None,
            workspace=WorkspaceNeed.SHARED,
        )
        return replace(attempt, spec=wrapped)

    def _ready(self, image: str) -> str:
        path = self.path_of(image)
        if path != image and not Path(path).exists():
            raise NoImage(self.problems.get(image) or f"the image {image} has not been fetched")
        return path

    @property
    def inside_prefix(self) -> str:
        """What the name of a variable begins with that is meant for the inside of containers."""
        return f"{self._own_name}ENV_"

    @property
    def scratch_variable(self) -> str:
        """The variable with the directory that has room for /tmp and the home directory."""
        return f"{self._own_name}_WORKDIR"

    @property
    def _own_name(self) -> str:
        return "SINGULARITY" if "singularity" in Path(self.program).name else "APPTAINER"

    def path_of(self, image: str) -> str:
        """Where an image is, or will be when it has been fetched. ValueError for what names none."""
        return imagefiles.place_of(image, self.images)

    def find(self, image: str) -> FoundImage:
        """Whether an image is here, and which one it is. Raises as `imagefiles.digest_of` does."""
        path = Path(self.path_of(image))
        if not path.exists():
            return FoundImage(here=False)
        return FoundImage(here=True, digest=imagefiles.digest_of(path, Path(self.images)))

    def fetch(self, image: str, progress: Callable[[str], None]) -> str | None:
        """Have an image here; its digest, or None when it is no file of this machine.

        A failure is raised, as `imagefiles.fetch` does, and told again by whatever wants to run in it.
        """
        path = Path(self.path_of(image))
        self.problems.pop(image, None)
        if str(path) != image:
            try:
                imagefiles.fetch(image, path, self.program, self.pull, progress)
            except BackendError as error:
                self.problems[image] = str(error)
                raise
        return self.find(image).digest

    def missing(self) -> str | None:
        """Why this machine cannot run images, or None."""
        if shutil.which(self.program):
            return None
        return (
            f"it takes the program {self.program!r} to run images, and it is not here: install Apptainer, "
            "name another with apptainer.program in drawbar.toml, or run without images with --no-container"
        )

    def refusal(self, image: str, *, here: bool) -> str | None:
        """Why no job can run in an image, or None. `here` says that it would be on this machine."""
        try:
            path = self.path_of(image)
        except ValueError as error:
            return str(error)
        if Path(path).exists():
            return None
        if path == image:
            return f"the image {image} is not here" if here else None
        return imagefiles.forbidden(image) if self.pull is Pull.NEVER else None


def mark_of(record: str) -> str:
    """The file in an attempt's directory by which its container shows that it was made."""
    return f"{record}/inside"


def made(attempt: Attempt) -> bool:
    """Whether the container of an attempt was made, and its command about to begin."""
    return os.path.lexists(mark_of(attempt.record))


def why_unmade(attempt: Attempt, message: str = "") -> str:
    """Why it was not, in the program's words; else in those of `message`, which tells of the end."""
    lines = last_lines(Path(attempt.record, "stderr"))
    said = " ".join(line.removeprefix("FATAL:").strip() for line in lines) or message
    return f"the image {attempt.spec.image} cannot be run: {said or 'the reason is not known'}"


def _mount(mount: Mount) -> str:
    """A mount as the option `--mount` has it: fields of CSV, so that a path may hold anything."""
    fields = ["type=bind", f"source={mount.source}", f"destination={mount.target}"]
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(fields + ["ro"] * mount.read_only)
    return text.getvalue()


def _script(spec: JobSpec, inside: Mapping[str, str]) -> str:
    variables = {**spec.environment, **inside}
    words = ["exec env --", *(shlex.quote(f"{name}={value}") for name, value in variables.items()), '"$@"']
    if spec.stdin is not None:
        words.append(f"<{shlex.quote(spec.stdin)}")
    if spec.stdout is not None:
        words.append(f">{shlex.quote(spec.stdout)}")
    if spec.stderr is not None:
        words.append("2>&1" if spec.stderr == spec.stdout else f"2>{shlex.quote(spec.stderr)}")
    return (_ENTRY_POINT.lstrip() if spec.entry_point else "") + " ".join(words)


def _pack(script: str) -> str:
    """The script in plain characters: every other one, and the first, is `0` and its octal digits.

    `@` stands before each but the first.
    """
    data = os.fsencode(script)
    packed = f"0{data[0]:03o}" + _TOUCHED.sub(lambda found: b"@0%03o" % ord(found[0]), data[1:]).decode()
    if len(packed) > _MOST_BYTES:
        raise ValueError(f"its variables are too large to be passed into a container: {len(packed)} bytes")
    return packed


def _check_encoding(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{text!r} cannot be passed into a container: it is not UTF-8") from error
