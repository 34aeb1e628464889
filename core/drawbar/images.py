"""Container images by name: what a name stands for, and what the site's policy makes of it.

Names are compared in full: `python` is `docker.io/library/python:latest`, whatever of that is said.
What begins with `/` or ends with `.sif` is a file or an unpacked directory; other schemes than
`docker://` stay as they are.
Nothing here asks a registry or a disk.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drawbar.settings import Images

_DOCKER = "docker://"
_HUB = "docker.io"
_LATEST = "latest"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"[A-Za-z0-9]+(?:(?:\.|-+)[A-Za-z0-9]+)*"
_REGISTRY = re.compile(rf"(?:{_HOST}|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?")
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Pull(StrEnum):
    """When an image is fetched."""

    MISSING = "missing"  # when it is not here
    ALWAYS = "always"  # once a run, so that a tag means what it means today
    NEVER = "never"


def resolve(image: str, policy: Images, *, files: bool = False) -> str:
    """The image to use for one that a step names, by the aliases and then the rewrites of the settings.

    `files` says whether `.sif` files and unpacked directories can be run: what leads to one is
    passed over where they cannot. Raises ValueError for a name that is none.
    """
    name = full_name(image)
    for alias, other in policy.aliases.items():
        if (alias == image or _same(alias, name)) and (files or not is_file(other)):
            image, name = other, full_name(other)
            break
    key = _longest(name, policy.rewrites, files)
    if key is None:
        return image
    other, rest = policy.rewrites[key], name[len(_prefix(key)) :]
    if "*" in other:
        image = other.replace("*", rest.strip("/"))
    elif rest and rest[0] not in "/:@":  # the key ends with the end of a part
        image = f"{other.rstrip('/')}/{rest}"
    else:
        image = other + rest
    full_name(image)
    return image


def refusal(image: str, policy: Images) -> str | None:
    """Why the site does not let an image, as `resolve` gives it, be run; None when it does."""
    if not policy.allow or any(fnmatchcase(full_name(image), pattern) for pattern in policy.allow):
        return None
    return f"the site does not allow the image {image}: it is on no list of images.allow"


def full_name(image: str) -> str:
    """A name in full: registry, repository, and tag or digest; a path without detours.

    Raises ValueError for what names no image.
    """
    if is_file(image):
        if "\0" in image or ".." in image.split("/"):
            raise ValueError(f"{image!r} is no image: its path leads back")
        return posixpath.normpath(image)
    reference = image.removeprefix(_DOCKER)
    if "://" in reference or _DIGEST.fullmatch(reference):
        return reference
    repository, tag, digest = split(reference)
    registry, slash, rest = repository.partition("/")
    if not slash or not ("." in registry or ":" in registry or registry == "localhost"):
        registry, rest = _HUB, repository
    if registry == "index.docker.io":
        registry = _HUB
    if registry == _HUB and "/" not in rest:
        rest = f"library/{rest}"
    if not (
        _REGISTRY.fullmatch(registry)
        and _REPOSITORY.fullmatch(rest)
        and (tag is None or _TAG.fullmatch(tag))
        and (digest is None or _DIGEST.fullmatch(digest))
    ):
        raise ValueError(f"{image!r} is no image: a name is like registry.org/group/name:tag, or a path")
    if tag is None and digest is None:
        tag = _LATEST
    return f"{registry}/{rest}" + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")


def split(reference: str) -> tuple[str, str | None, str | None]:
    """Repository, tag and digest of a reference, unchecked; None for what it does not say."""
    plain, _, digest = reference.partition("@")
    head, colon, tag = plain.rpartition(":")
    if colon and "/" not in tag:
        return head, tag, digest or None
    return plain, None, digest or None


def is_file(image: str) -> bool:
    """Whether a name is that of a `.sif` file or an unpacked directory."""
    return image.startswith("/") or (image.endswith(".sif") and "://" not in image)


def is_floating(image: str) -> bool:
    """Whether what a name stands for is expected to change: no tag, or `latest`."""
    if not _is_registrys(image):
        return False
    _, tag, digest = split(image.removeprefix(_DOCKER))
    return digest is None and tag in (None, _LATEST) and not _DIGEST.fullmatch(image)


def _is_registrys(image: str) -> bool:
    return not is_file(image) and "://" not in image.removeprefix(_DOCKER)


def _same(alias: str, name: str) -> bool:
    try:
        return full_name(alias) == name
    except ValueError:
        return False


def _prefix(key: str) -> str:
    """What a key of images.rewrites stands for at the beginning of full names."""
    return key.removeprefix(_DOCKER)


def _longest(name: str, rewrites: Mapping[str, str], files: bool) -> str | None:
    """The key that says most of how a name begins, up to the end of one of the name's parts."""
    fitting = [
        key
        for key, other in rewrites.items()
        if _begins(name, _prefix(key))
        and (_is_registrys(name) or not key.startswith(_DOCKER))
        and (files or not is_file(other))
    ]
    return max(fitting, key=lambda key: len(_prefix(key)), default=None)


def _begins(name: str, prefix: str) -> bool:
    if not name.startswith(prefix):
        return False
    rest = name[len(prefix) :]
    return not rest or not prefix or prefix.endswith("/") or rest[0] in "/:@"
