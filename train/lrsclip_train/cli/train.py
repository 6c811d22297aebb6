"""``lrsclip train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

__all__ = ["command"]


@click.command(name="train")
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--resume", is_flag=True, help="Continue from the run's last checkpoint.")
@click.option("--threads", type=click.IntRange(min=1), default=None, help="CPU threads.")
def command(config: Path, resume: bool, threads: int | None) -> None:
    """Train a small dual-granularity model as CONFIG.toml says.

    Example: lrsclip train train/mini.toml --resume
    """
    from lrsclip_rt.cli.output import refuse_existing
    from lrsclip_rt.errors import DependencyError

    try:
        import torch
    except ImportError as error:
        raise DependencyError.of("torch", extra="train") from error
    from lrsclip_train.config import config_from_toml
    from lrsclip_train.loop import train
    from lrsclip_train.prepare import prepare
    from lrsclip_train.release import save_release

    if threads:
        torch.set_num_threads(threads)
    settings = config_from_toml(config)
    run = Path(settings.run)
    if not resume:
        refuse_existing(run / "last.pt", overwrite=False)
        (run / "log.jsonl").unlink(missing_ok=True)
    done: dict[str, int] = {}

    def cached(part: str, n: int) -> None:
        done[part] = done.get(part, 0) + n
        if done[part] // 1000 != (done[part] - n) // 1000:
            click.echo(f"features of {part}: {done[part]}", err=True)

    def report(row: dict[str, Any]) -> None:
        if row["step"] % 20 == 0 or "val_mR" in row:
            click.echo("  ".join(f"{key} {value}" for key, value in row.items()), err=True)

    checkpoint = train(settings, prepare(settings, cached), resume=resume, report=report)
    click.echo(str(save_release(checkpoint, run / "model.safetensors")))
