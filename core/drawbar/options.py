"""Options that a plugin declares once: from a dataclass follow parsing, validation, help and docs.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class SlurmOptions(Options):
        partition: str | None = option(None, help="partition to submit to", aliases=("slurm_partition",))

The same class serves a table of `drawbar.toml` (`[backends.slurm]`), `-o` on the command line and
the hints of a step. An alias is a spelling that other systems use for the same thing.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from drawbar.codec import CodecError, decode
from drawbar.errors import Problem, SettingsError


def option(default: Any, *, help: str, aliases: tuple[str, ...] = (), secret: bool = False) -> Any:  # noqa: A002
    """A field of an `Options` class. Every option has a default and a help text."""
    metadata = {"help": help, "aliases": aliases, "secret": secret}
    if isinstance(default, dict | list):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionInfo:
    """What is declared about one option."""

    name: str
    type: str
    default: Any
    help: str
    aliases: tuple[str, ...]
    secret: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Base of option classes, and the class of a plugin that has none."""

    @classmethod
    def declared(cls) -> tuple[OptionInfo, ...]:
        """Every option of this class, in order."""
        return tuple(
            OptionInfo(
                name=each.name,
                type=str(each.type),
                default=getattr(cls(), each.name),
                help=each.metadata["help"],
                aliases=each.metadata["aliases"],
                secret=each.metadata["secret"],
            )
            for each in dataclasses.fields(cls)
        )

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """The options that `values` give; a `SettingsError` names every key that is wrong."""
        names = {alias: info.name for info in cls.declared() for alias in (info.name, *info.aliases)}
        problems, fields = [], {}
        for key, value in values.items():
            if key not in names:
                problems.append(
                    Problem(message=f"{where}: unknown option {key!r}", hint=did_you_mean(key, names))
                )
                continue
            fields[names[key]] = value
        for key in list(fields):
            try:
                decode(cls, {key: fields[key]})
            except CodecError as error:
                problems.append(Problem(message=f"{where}: {error}"))
        if problems:
            raise SettingsError(problems)
        return decode(cls, fields)


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A hint that names the known word nearest to a misspelt one, or lists the few there are."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"one of: {', '.join(known)}" if 0 < len(known) <= 12 else None
