"""``lrsclip eval``: score a model on a data set. One file a sub-command."""

from __future__ import annotations

import click

from lrsclip_rt.cli.eval_classify import classify
from lrsclip_rt.cli.eval_retrieval import retrieval
from lrsclip_rt.cli.eval_selo import selo

__all__ = ["command"]


@click.group()
def command() -> None:
    """Score a model on a data set, with 95 % intervals.

    \b
    Example:
        lrsclip eval retrieval data/aid_rsicd --split val --json
    """


for _sub_command in (retrieval, classify, selo):
    command.add_command(_sub_command)
