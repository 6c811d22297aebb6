"""Every command is installed, shows an example, is in the README; and what the README shows exists."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from lrsclip_rt.cli import cli

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
GROUP = "lrsclip.commands"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DECLARED: dict[str, str] = PYPROJECT["project"]["entry-points"][GROUP]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def loaded(name: str) -> click.Command:
    command = EntryPoint(name, DECLARED[name], GROUP).load()
    assert isinstance(command, click.Command)
    return command


def commands_below(
    path: tuple[str, ...], command: click.Command
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from commands_below((*path, name), below)


def readme_lines() -> list[str]:
    """Command lines of the README's shell blocks, continuation lines joined, comments left out."""
    lines = []
    for block in re.findall(r"```(?:sh|bash|console)\n(.*?)```", README, flags=re.S):
        for line in block.replace("\\\n", " ").splitlines():
            text = line.partition(" #")[0].strip().removeprefix("$ ")
            if text and not text.startswith("#"):
                lines.append(text)
    return lines


def test_the_installed_commands_are_those_that_pyproject_declares():
    installed = {entry.name: entry.value for entry in entry_points(group=GROUP)}
    assert installed == DECLARED, "reinstall: entry points are read at install time"


def test_the_declared_commands_are_in_alphabetical_order():
    assert list(DECLARED) == sorted(DECLARED)


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_the_help_of_a_command_and_of_those_below_it_has_an_example(name):
    for path, command in commands_below((name,), loaded(name)):
        result = CliRunner().invoke(command, ["--help"], prog_name=f"lrsclip {' '.join(path)}")
        assert result.exit_code == 0, path
        example = result.output.partition("Example")[2]
        assert f"lrsclip {' '.join(path)}" in example, f"{' '.join(path)} has no example of itself"
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{' '.join(path)} {parameter.opts[0]} has no help"


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_a_command_is_documented_in_the_readme(name):
    assert re.search(rf"lrsclip {re.escape(name)}\b", README)


def test_the_readme_begins_with_the_two_commands():
    assert readme_lines()[:2] == ["scripts/demo", "scripts/test"]
    for line in readme_lines()[:2]:
        assert (ROOT / line).is_file()


def test_every_command_and_option_that_the_readme_shows_exists():
    shown = [line for line in readme_lines() if line.startswith("lrsclip ")]
    assert shown
    for line in shown:
        words = shlex.split(line.partition(" | ")[0])[1:]
        assert words[0] in DECLARED, line
        command = loaded(words.pop(0))
        while isinstance(command, click.Group) and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        known = {opt for p in command.params for opt in (*p.opts, *p.secondary_opts)}
        for word in words:
            if re.match(r"--?[a-z]", word):
                assert word.partition("=")[0] in known, f"{line}: {word}"


def test_an_unknown_command_is_a_usage_mistake_with_status_2():
    result = CliRunner().invoke(cli, ["no-such-command"])
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["--help"], 0), (["eval", "retrieval", "no-such-folder"], 1), (["eval", "retrieval"], 2)],
)
def test_the_exit_status_tells_our_errors_from_usage_mistakes(arguments, status, monkeypatch, capsys):
    from lrsclip_rt.cli import main

    monkeypatch.setattr(sys, "argv", ["lrsclip", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert (stop.value.code or 0) == status
    if status == 1:
        error = capsys.readouterr().err
        assert error.startswith("Error: no-such-folder is not a folder")
        assert error.count("\n") == 1


def test_the_status_of_an_exit_inside_a_command_reaches_the_shell(monkeypatch):
    from lrsclip_rt.cli import main

    @click.command()
    def failing() -> None:
        raise click.exceptions.Exit(1)

    monkeypatch.setattr("lrsclip_rt.cli.cli", failing)
    monkeypatch.setattr(sys, "argv", ["lrsclip"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
