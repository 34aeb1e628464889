"""What a workflow may read: the files of its analysis, and nothing else unless the user allows it."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from cwltool.errors import WorkflowException
from cwltool.pathmapper import PathMapper
from cwltool.stdfsaccess import StdFsAccess
from schema_salad.exceptions import ValidationException
from schema_salad.fetcher import DefaultFetcher

_HINT = "only files of the analysis may be read; allow more with -o outside=true"


class Access:
    """The directories that may be read, with everything in them; None for no limits."""

    def __init__(self, roots: Iterable[os.PathLike[str]] | None) -> None:
        self._roots = None if roots is None else tuple({_real(path) for path in roots})
        self._directories: dict[str, str] = {}

    def allow(self, path: os.PathLike[str]) -> None:
        """Allow everything in one more directory."""
        if self._roots is not None:
            self._roots = (*self._roots, _real(path))

    def allows(self, path: str) -> bool:
        """Whether a path leads to what may be read, all links followed."""
        if self._roots is None:
            return True
        real = self._real_path(path)
        return any(real == root or real.startswith(f"{root}/") for root in self._roots)

    def _real_path(self, path: str) -> str:
        """The path with all links followed; that of a directory is remembered."""
        parent, name = os.path.split(path)
        known = self._directories.get(parent)
        if known is None:
            known = _real(parent)
            if os.path.isdir(known):  # noqa: PTH112 (once for every file)
                self._directories[parent] = known
        if name in ("", ".", "..") or os.path.islink(path):  # noqa: PTH114
            return _real(path)
        return f"{known}/{name}"

    @property
    def limited(self) -> bool:
        """Whether there is anything that may not be read."""
        return self._roots is not None

    def fetcher(self) -> Callable[..., DefaultFetcher]:
        """Makes what reads documents."""
        access = self

        class Fetcher(DefaultFetcher):
            def fetch_text(self, url: str, content_types: list[str] | None = None) -> str:
                if url not in self.cache:
                    access._check_url(url, ValidationException)
                return super().fetch_text(url, content_types)

            def check_exists(self, url: str) -> bool:
                if access.limited and urlsplit(url).scheme in ("http", "https"):
                    return url in self.cache
                return super().check_exists(url)

        return Fetcher

    def files(self) -> Callable[[str], StdFsAccess]:
        """Makes what reads files."""
        access = self

        class Files(StdFsAccess):
            def _abs(self, p: str) -> str:
                path = p if p.startswith("/") else super()._abs(p)
                access._check_path(path)
                return path

            def realpath(self, path: str) -> str:
                return os.path.abspath(path)  # noqa: PTH100 (one path: no link is resolved)

        return Files

    def paths(self) -> Callable[..., PathMapper]:
        """Makes what says where inputs are staged: in numbered directories."""
        access = self

        class Paths(PathMapper):
            def setup(self, referenced_files: Any, basedir: str) -> None:
                for number, each in enumerate(referenced_files):
                    place = f"{self.stagedir}/{number}" if self.separateDirs else self.stagedir
                    self.visit(each, place, basedir, copy=bool(each.get("writable")), staged=True)

            def visit(
                self, obj: Any, stagedir: str, basedir: str, copy: bool = False, staged: bool = False
            ) -> None:
                location = obj["location"]
                if access.limited and urlsplit(location).scheme in ("http", "https"):
                    access._check_url(location, WorkflowException)
                known = location in self._pathmap
                super().visit(obj, stagedir, basedir, copy=copy, staged=staged)
                entry = self._pathmap[location]
                if not known and not location.startswith("_:") and entry.resolved.startswith("/"):
                    access._check_path(entry.resolved)

        return Paths

    def _check_url(self, url: str, error: type[Exception]) -> None:
        split = urlsplit(url)
        if split.scheme in ("", "file"):
            if not self.allows(urllib.request.url2pathname(split.path)):
                raise error(f"{url} is outside of the analysis ({_HINT})")
        elif self.limited and split.scheme in ("http", "https"):
            raise error(f"{url} is not a file of the analysis ({_HINT})")

    def _check_path(self, path: str) -> None:
        if self._roots is not None and path.startswith("/") and not self.allows(path):
            raise WorkflowException(f"{path} is outside of the analysis ({_HINT})")


def _real(path: str | os.PathLike[str]) -> str:
    return os.path.realpath(path)
