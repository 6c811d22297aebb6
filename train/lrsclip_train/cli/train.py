"""``lrsclip train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.options import json_option
from lrsclip_rt.cli.output import progress_bar, wants_json

if TYPE_CHECKING:
    from lrsclip_train.config import TrainConfig

__all__ = ["command"]


@click.command(name="train")
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--resume", is_flag=True, help="Continue from the run's last checkpoint.")
@click.option("--check-data", is_flag=True, help="Read all data, report what is wrong, train nothing.")
@click.option("--threads", type=click.IntRange(min=1), default=None, help="CPU threads.")
@json_option
def command(config: Path, resume: bool, check_data: bool, threads: int | None, as_json: bool) -> None:
    """Train a dual-granularity model as CONFIG.toml says.

    Writes last.pt (to resume), model.safetensors (to export), log.jsonl and log.png to the run's folder.
    Several processes: torchrun --nproc-per-node 4 -m lrsclip_train CONFIG.toml

    \b
    Example:
        lrsclip train train/mini/config.toml --check-data
        lrsclip train train/mini/config.toml --resume
    """
    from lrsclip_rt.errors import DependencyError

    try:
        import torch
    except ImportError as error:
        raise DependencyError.of("torch", extra="train") from error
    from lrsclip_train.config import config_from_toml

    if threads:
        torch.set_num_threads(threads)
    settings = config_from_toml(config)
    if check_data:
        _check(settings, as_json=as_json)
    else:
        _train(settings, resume=resume)


def _check(settings: TrainConfig, *, as_json: bool) -> None:
    from lrsclip_rt.tokenizer import Tokenizer
    from lrsclip_train.data_check import check_data
    from lrsclip_train.prepare import data_parts

    tokenizer, sound = Tokenizer(), True
    for spec, split in data_parts(settings.data):
        with progress_bar("images", None) as advance:
            report = check_data(spec, tokenizer=tokenizer, split=split, advance=advance)
        sound = sound and report.ok
        if wants_json(as_json):
            click.echo(json.dumps({"data": spec, "split": split, **report.as_dict()}, ensure_ascii=False))
        else:
            click.echo("\n".join((f"{spec} ({split or 'all'})", *report.lines())))
    if not sound:
        raise SystemExit(1)


def _train(settings: TrainConfig, *, resume: bool) -> None:
    from lrsclip_rt.errors import OutputExistsError
    from lrsclip_train.gathering import world_from_environment
    from lrsclip_train.loop import train
    from lrsclip_train.plots import plot_log
    from lrsclip_train.release import save_release

    run = Path(settings.run)
    with world_from_environment(settings.device) as world:
        if world.first:
            if not resume and (run / "last.pt").exists():
                raise OutputExistsError(
                    f"{run} holds a run already; go on with it (--resume), or name another folder as run"
                )
            run.mkdir(parents=True, exist_ok=True)
            if not resume:
                (run / "log.jsonl").unlink(missing_ok=True)
        sources, val = _prepared(settings, world.first, world.size)
        with _Display(settings, run, enabled=world.first) as display:
            checkpoint = train(settings, sources, val, world=world, resume=resume, report=display.show)
        if world.first:
            plot_log(run / "log.jsonl", run / "log.png")
            click.echo(str(save_release(checkpoint, run / "model.safetensors")))


def _prepared(settings: TrainConfig, first: bool, processes: int) -> Any:
    """Made images and cached features are made once, by the first process."""
    import torch.distributed as dist

    from lrsclip_train.prepare import prepare

    done: dict[str, int] = {}

    def advance(part: str, number: int) -> None:
        done[part] = done.get(part, 0) + number
        if done[part] // 1000 != (done[part] - number) // 1000:
            click.echo(f"{part}: {done[part]} images made", err=True)

    if not first:
        dist.barrier()
        return prepare(settings)
    made = prepare(settings, advance)
    if processes > 1:
        dist.barrier()
    return made


class _Display:
    """A progress line on a terminal, a line now and then elsewhere; TensorBoard where it is installed."""

    def __init__(self, settings: TrainConfig, run: Path, *, enabled: bool) -> None:
        self.settings, self.run, self.enabled = settings, run, enabled
        self._board: Any = None
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> _Display:
        if not self.enabled:
            return self
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.run / "tensorboard"))
        except ImportError:
            pass
        import sys

        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._progress = Progress(
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task("starting", total=self.settings.steps)
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.stop()
        if self._board is not None:
            self._board.close()

    def show(self, row: dict[str, Any]) -> None:
        """A line of the log."""
        if self._board is not None:
            for key, value in row.items():
                if key not in ("step", "left_s"):
                    self._board.add_scalar(key, value, row["step"])
        left = row["left_s"]
        parts = [
            f"{key} {row[key]}" for key in ("loss", "short", "long", "teacher", "detail", "lr") if key in row
        ]
        clock = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
        parts += [f"{row['images_per_s']} images/s", f"{clock} left"]
        line = "  ".join(parts)
        scores = "  ".join(f"{key} {value}" for key, value in row.items() if key.startswith("val_"))
        if self._progress is not None:
            self._progress.update(self._task, completed=row["step"], description=line)
            if scores:
                self._progress.console.print(f"step {row['step']}  {scores}")
        elif scores or row["step"] % 20 == 0:
            click.echo(f"step {row['step']}/{self.settings.steps}  {line}  {scores}".rstrip(), err=True)
