"""Every command and every option is on the reference page as it is declared, and helps for itself."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from drawbar.cli import HIDDEN, SECTIONS, drawbar

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command by what one types for it."""
    yield ("drawbar",), drawbar
    context = click.Context(drawbar)
    for name in (name for section in SECTIONS.values() for name in section):
        command = drawbar.get_command(context, name)
        assert command is not None
        yield ("drawbar", name), command
        if isinstance(command, click.Group):
            for below in command.commands.values():
                yield ("drawbar", name, str(below.name)), below


COMMANDS = [pytest.param(path, command, id=" ".join(path)) for path, command in commands()]


def rows(command: click.Command) -> list[str]:
    """The rows of a command's table of options."""
    lines = []
    for option in command.params:
        if isinstance(option, click.Option):
            names = ", ".join(f"`{name}`" for name in option.opts)
            if isinstance(option.type, click.Choice):
                names += " " + ", ".join(f"`{choice}`" for choice in option.type.choices)
            elif option.metavar:
                names += f" {option.metavar}"
            lines.append(f"| {names} | {option.help} |")
    return lines


def section(path: tuple[str, ...]) -> str:
    """The part of the page about a command."""
    title = re.escape(" ".join(path))
    found = re.search(rf"^#+ `{title}[^`\n]*`\n(.*?)(?=^#|\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"no section on {title}"
    return found[1]


@pytest.mark.parametrize(("path", "command"), COMMANDS)
def test_every_option_is_documented_as_it_is_declared(path, command):
    table = [line for line in section(path).splitlines() if line.startswith("| `-")]
    assert table == rows(command)


@pytest.mark.parametrize(("path", "command"), COMMANDS)
def test_every_command_and_option_has_a_help(path, command):
    assert command.help
    assert all(option.help for option in command.params if isinstance(option, click.Option))


def test_the_page_has_no_command_that_there_is_not():
    titles = re.findall(r"^#+ `(drawbar[a-z ]*)", PAGE.read_text(), re.MULTILINE)
    assert sorted(title.strip() for title in titles) == sorted(" ".join(path) for path, _ in commands())


def test_the_document_of_a_run_is_documented(cli):
    cli.analysis({"only": ["true"]})
    document = {**cli.json("run", "analysis"), "resume": "", **dict.fromkeys(["path", "size", "sha256"])}
    document.update(document["jobs"][0])
    table = [line for line in section(("drawbar", "status")).splitlines() if line.startswith("| `")][1:]
    named = set(re.findall(r"`(\w+)`", " ".join(table)))
    assert named == set(document)


def test_the_help_lists_every_command_but_the_hidden_ones(cli):
    text = cli("--help").stdout
    for section_ in SECTIONS.values():
        for name, entry in section_.items():
            assert re.search(rf"^  {name} +{re.escape(entry.help)}$", text, re.MULTILINE)
    assert not any(re.search(rf"^  {name} ", text, re.MULTILINE) for name in HIDDEN)
