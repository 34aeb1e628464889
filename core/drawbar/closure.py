"""The source files that a job depends on without saying so: the ones its command mentions.

A text mentions a file by its path, its name or its stem, on word boundaries, or by a pattern that
fits its name (`data_*.csv`, `data_{number}.csv`, `data_$n.csv`); and a directory by its path or name,
where nothing of what is in it follows. A mentioned directory means all files in it. A mentioned text
file mentions in its turn. A file that nothing mentions, in any text of the workflow, belongs to every
job. Too much is mentioned now and then, which costs a repetition. What is missed is a name that a
program puts together out of parts, while something else spells it out.
"""

# Plain strings and os functions, not Path: this is called for every source file.
# ruff: noqa: PTH114, PTH115, PTH118, PTH119, PTH120, PTH122
from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

READ_LIMIT = 1 << 18
"""A larger file, in bytes, is data and mentions nothing."""

_GAPS = re.compile(r"(\W+)")
_INTO = frozenset({"/", "/.", "/-", "/+", "//", "/./"})
"""What stands between a directory's name and that of something in it."""
_HOLE = re.compile(r"\$\{[^{}\n]{0,80}\}|\{[^{}\n]{0,80}\}|\$\w+|%\(\w+\)[a-z]|%\d*[a-z]|\*+|\?")
"""What stands for some text to be filled in."""
_OUTSIDE_NAMES = re.compile(r"[^\w.+\0-]+")
_MOST_PATTERNS = 1000
"""A text with more patterns than that is taken to mention everything."""

_Words = tuple[str, ...]


class Closure:
    """What each job of a workflow depends on, among its source files.

    `sources` are paths of files relative to `root`, where their unchanged content is. `all_texts` are
    all command texts of the workflow. Each source file is read at most once.
    """

    def __init__(self, root: Path, sources: Iterable[str], all_texts: Iterable[str]) -> None:
        self._root = root
        self._sources = tuple(sorted(set(sources)))
        self._names: dict[_Words, int] = {}
        """Which files a sequence of words names, as a set of bits."""
        self._directories: dict[_Words, list[tuple[str, int]]] = {}
        """Which directories it names, with the files in each."""
        self._children: dict[str, set[_Words]] = {}
        """The names in a directory, without suffixes."""
        self._longest: dict[str, int] = {}
        self._lengths: dict[str, set[int]] = {}
        """How long the sequences are that begin with a word."""
        self._index()
        self._by_name: dict[str, int] = {}
        for bit, path in enumerate(self._sources):
            name = os.path.basename(path)
            self._by_name[name] = self._by_name.get(name, 0) | 1 << bit
        self._by_pattern: dict[str, int] = {}
        self._mentioned: dict[int, int] = {}
        self._closed: dict[int, int] = {}
        self._by_text: dict[str, int] = {}
        everything = (1 << len(self._sources)) - 1
        self._everywhere = everything & ~self._all(all_texts)
        self._everywhere = self._close(self._everywhere)

    def inputs_of(self, texts: Iterable[str]) -> tuple[str, ...]:
        """The source files that a job with these command texts depends on, sorted."""
        return tuple(self._sources[bit] for bit in _bits(self._all(texts) | self._everywhere))

    def _index(self) -> None:
        within: dict[str, int] = {}
        for bit, path in enumerate(self._sources):
            words = _words(_stem(os.path.basename(path)))
            if words:
                # a path and a name contain the stem, so whoever mentions them mentions it
                self._names[words] = self._names.get(words, 0) | 1 << bit
                self._children.setdefault(os.path.dirname(path), set()).add(words)
            while path := os.path.dirname(path):
                within[path] = within.get(path, 0) | 1 << bit
        for path, files in within.items():
            words = _words(os.path.basename(path))
            if words:
                self._directories.setdefault(words, []).append((path, files))
                self._children.setdefault(os.path.dirname(path), set()).add(words)
        for path, children in self._children.items():
            self._longest[path] = max(map(len, children))
        for words in (*self._names, *self._directories):
            self._lengths.setdefault(words[0], set()).add(len(words))

    def _all(self, texts: Iterable[str]) -> int:
        """What the texts mention, and what the files among that mention in turn."""
        found = 0
        for text in texts:
            mentioned = self._by_text.get(text)
            if mentioned is None:
                mentioned = self._by_text[text] = self._close(self._mentions(text))
            found |= mentioned
        return found

    def _close(self, files: int) -> int:
        """These files, and what they mention in turn."""
        reached = pending = files
        while pending:
            bit = pending.bit_length() - 1
            closed = self._closed.get(bit)
            if closed is not None:
                pending &= ~(closed | 1 << bit)
                reached |= closed
                continue
            pending ^= 1 << bit
            if bit not in self._mentioned:
                self._mentioned[bit] = self._mentions(self._read(self._sources[bit]))
            new = self._mentioned[bit] & ~reached
            reached |= new
            pending |= new
        if files.bit_count() == 1:
            self._closed[files.bit_length() - 1] = reached
        return reached

    def _mentions(self, text: str) -> int:
        """The files that a text itself mentions."""
        parts = _GAPS.split(text)  # words and what is between them, by turns
        lengths = self._lengths
        found = 0
        for position in range(0, len(parts), 2):
            if parts[position] in lengths:
                for length in lengths[parts[position]]:
                    end = position + 2 * length
                    words = tuple(parts[position:end:2])
                    found |= self._names.get(words, 0)
                    for directory, files in self._directories.get(words, ()):
                        if not self._leads_on(directory, parts, end - 1):
                            found |= files
        return found | self._fitting_any(text)

    def _fitting_any(self, text: str) -> int:
        """The files whose names fit a pattern in a text."""
        pieces = _OUTSIDE_NAMES.split(_HOLE.sub("\0", text))
        patterns = {piece for piece in pieces if "\0" in piece and len(piece.replace("\0", "")) > 1}
        if len(patterns) > _MOST_PATTERNS:
            return (1 << len(self._sources)) - 1
        found = 0
        for pattern in patterns:
            if pattern not in self._by_pattern:
                start, *middle, end = pattern.split("\0")
                self._by_pattern[pattern] = sum(
                    files
                    for name, files in self._by_name.items()
                    if name.startswith(start) and name.endswith(end) and _in_order(middle, name, start, end)
                )
            found |= self._by_pattern[pattern]
        return found

    def _leads_on(self, directory: str, parts: Sequence[str], gap: int) -> bool:
        """Whether the text goes on, at the gap after a directory's name, with something in it."""
        if gap + 1 >= len(parts) or parts[gap] not in _INTO:
            return False
        children, most = self._children[directory], self._longest[directory]
        following = tuple(parts[gap + 1 : gap + 1 + 2 * most : 2])
        return any(following[:length] in children for length in range(1, most + 1))

    def _read(self, path: str) -> str:
        """The text of a source file and of the links on the way to it; empty for data."""
        place = os.path.join(self._root, path)
        try:
            link = os.readlink(place) if os.path.islink(place) else ""
            # a named pipe must not block the open
            with open(os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or status.st_size > READ_LIMIT:
                    return link
                content = file.read()
        except OSError:
            return ""  # whoever needs the file will say so
        return link if b"\0" in content else f"{link}\n{content.decode(errors='replace')}"


def _in_order(parts: Sequence[str], name: str, start: str, end: str) -> bool:
    """Whether the parts follow one another in what lies between the start and the end of a name."""
    position, last = len(start), len(name) - len(end)
    for part in parts:
        position = name.find(part, position, last)
        if position < 0:
            return False
        position += len(part)
    return position <= last


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _words(name: str) -> _Words:
    return tuple(word for word in _GAPS.split(name)[::2] if word)


def _bits(number: int) -> list[int]:
    found = []
    while number:
        low = number & -number
        found.append(low.bit_length() - 1)
        number ^= low
    return found
