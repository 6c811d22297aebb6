"""The command line: one file per command, found by entry point, one handler for our errors."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points

import click

from lrsclip_rt.errors import LrsclipError

__all__ = ["cli", "main"]


class _CommandsByEntryPoint(click.Group):
    """A group whose commands are the entry points of ``lrsclip.commands``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_commands())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _commands().get(cmd_name)
        return None if entry is None else entry.load()


def _commands() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group="lrsclip.commands")}


@click.group(cls=_CommandsByEntryPoint, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lrsclip-rt", prog_name="lrsclip")
def cli() -> None:
    """Search and localize in remote-sensing imagery by words, on board and in ground stations."""


def main() -> None:
    """Run the command line; our errors become one line and exit status 1."""
    try:
        # Click hands back the status of an Exit here; commands themselves return nothing.
        sys.exit(cli.main(standalone_mode=False))
    except click.exceptions.Exit as exit_request:
        sys.exit(exit_request.exit_code)
    except click.Abort:
        click.echo("Aborted.", err=True)
        sys.exit(130)
    except click.ClickException as usage:
        usage.show()
        sys.exit(usage.exit_code)
    except LrsclipError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        # A closed pipe (`| head`) is the reader's choice, not a failure of ours.
        sys.stderr.close()
        sys.exit(0)
