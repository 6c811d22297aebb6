"""``lrsclip archive``: look after an archive. One file a sub-command."""

from __future__ import annotations

import click

from lrsclip_rt.cli import (
    archive_backup,
    archive_codes,
    archive_compact,
    archive_delete,
    archive_export,
    archive_import,
    archive_info,
    archive_merge,
    archive_push,
    archive_reembed,
    archive_relocate,
    archive_verify,
)

__all__ = ["command"]


@click.group("archive", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Look into an archive, check it and look after it.

    \b
    Example:
        lrsclip archive info archive/
    """


for _sub_command in (
    archive_backup.command,
    archive_codes.command,
    archive_compact.command,
    archive_delete.command,
    archive_export.command,
    archive_import.command,
    archive_info.command,
    archive_merge.command,
    archive_push.command,
    archive_reembed.command,
    archive_relocate.command,
    archive_verify.command,
):
    command.add_command(_sub_command)
