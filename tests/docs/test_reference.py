"""Every setting, every hook and every attribute of the kits is in the documentation, as it is declared."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from drawbar import hookspecs
from drawbar.layers import declared, is_mapping, is_table
from drawbar.settings import OTHER_VARIABLES, Settings
from drawbar.testing import BackendContract

DOCS = Path(__file__).parents[2] / "docs"
SETTINGS = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
PLUGINS = (DOCS / "plugins.md").read_text(encoding="utf-8")
HOOKS = [name for name in vars(hookspecs) if name.startswith("drawbar_")]


def rows(table: Any = Settings, prefix: str = "") -> Iterator[str]:
    """The rows of the table of settings, as they follow from the declarations."""
    for name, (hint, field) in declared(table).items():
        place = f"{prefix}{name}"
        item = typing.get_args(hint)[1] if is_mapping(hint) else None
        if is_table(hint):
            yield from rows(hint, f"{place}.")
        elif is_table(item):
            yield from rows(item, f"{place}.*.")
        else:
            where = f"{place}.*" if item else place
            yield row(where, item or hint, field)


def row(name: str, hint: Any, field: Any) -> str:
    kind = next(each for each in (*typing.get_args(hint), hint) if each is not type(None))
    plain = {bool: "true, false", int: "whole number", float: "number", str: "text", Path: "path"}
    type_ = ", ".join(f"`{each}`" for each in kind) if issubclass(kind, StrEnum) else plain[kind]
    if typing.get_origin(hint) is tuple:
        type_ = f"list of {type_}"
    least = field.metadata["minimum"]
    if least is not None:
        type_ += f" ≥ {least}"
    shown = field.default if isinstance(field.default, bool | int | float | str) else None
    if isinstance(shown, float) and shown.is_integer():
        shown = int(shown)
    default = f"`{str(shown).lower() if isinstance(shown, bool) else shown}`" if shown is not None else ""
    project = "yes" if field.metadata["project"] else ""
    cells = (f"`{name}`", type_, default, project, field.metadata["help"])
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def test_every_setting_is_documented_as_it_is_declared():
    table = [line for line in SETTINGS.splitlines() if line.startswith("| `")]
    assert table == list(rows())


@pytest.mark.parametrize("variable", sorted(OTHER_VARIABLES))
def test_variables_that_are_no_settings_are_documented(variable):
    assert f"`{variable}`" in SETTINGS or f"`{variable}`" in PLUGINS


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_with_its_signature(hook):
    arguments = ", ".join(inspect.signature(getattr(hookspecs, hook)).parameters)
    assert f"### `{hook}({arguments})`" in PLUGINS


def test_no_hook_is_documented_that_does_not_exist():
    headings = [line for line in PLUGINS.splitlines() if line.startswith("### `drawbar_")]
    assert len(headings) == len(HOOKS)


@pytest.mark.parametrize("name", list(BackendContract.__annotations__))
def test_what_an_author_may_set_on_the_backend_kit_is_documented(name):
    value = getattr(BackendContract, name)
    shown = int(value) if isinstance(value, float) else value
    assert f"| `{name}` | {shown} |" in PLUGINS
