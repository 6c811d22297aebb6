"""``lrsclip index``: images and scenes into an archive."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.codes_reporting import refresh_and_tell
from lrsclip_rt.cli.index_reporting import index_progress, show_estimate, show_report, show_round
from lrsclip_rt.cli.options import bundle_option, json_option, model_options

if TYPE_CHECKING:
    from lrsclip_rt.archive.ingest import IndexReport
    from lrsclip_rt.archive.inputs import Shard
    from lrsclip_rt.archive.plans import IndexOptions
    from lrsclip_rt.embedder import Embedder

__all__ = ["command", "key_value_pairs"]


def key_value_pairs(
    ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    """Parse repeated ``KEY=VALUE``; a usage mistake otherwise."""
    pairs = {}
    for text in values:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise click.BadParameter(f"{text!r} is not KEY=VALUE")
        pairs[key.strip()] = value
    return pairs


def _numbers(kind: type, count: tuple[int, ...]) -> Callable[[Any, Any, str | None], tuple[Any, ...] | None]:
    def parse(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[Any, ...] | None:
        if text is None:
            return None
        try:
            values = tuple(kind(part) for part in text.split(","))
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is not a list of numbers with commas") from error
        if len(values) not in count:
            raise click.BadParameter(
                f"{text!r} holds {len(values)} numbers, expected {' or '.join(map(str, count))}"
            )
        return values

    return parse


def _shard(ctx: click.Context, parameter: click.Parameter, text: str | None) -> Shard | None:
    if text is None:
        return None
    from lrsclip_rt.archive.inputs import Shard
    from lrsclip_rt.errors import InputError

    number, sign, count = text.partition("/")
    try:
        if not sign:
            raise ValueError("no slash")
        return Shard(int(number), int(count))
    except InputError as error:
        raise click.BadParameter(str(error)) from error
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not I/N, for example 1/4") from error


@click.command("index")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SOURCE...")
@click.option(
    "-a",
    "--archive",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Archive folder; made where there is none.",
)
@bundle_option
@click.option(
    "--tile",
    "tiles",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="PX",
    help="Tile edge; repeated, each is a level.  [default: 256 for georeferenced rasters, else none]",
)
@click.option(
    "--overlap",
    type=click.FloatRange(0.0, 1.0, max_open=True),
    default=0.25,
    show_default=True,
    help="Shared fraction of neighbouring tiles.",
)
@click.option("--bands", callback=_numbers(int, (1, 3)), metavar="R,G,B", help="Bands of rasters, from 1.")
@click.option("--nodata", type=float, help="Value of missing pixels, in place of the file's own.")
@click.option(
    "--stretch",
    callback=_numbers(float, (2,)),
    metavar="LOW,HIGH",
    help="Fixed limits for 16-bit rasters, so that scenes compare.  [default: 2-98 % of each raster]",
)
@click.option(
    "--meta",
    "metadata",
    multiple=True,
    callback=key_value_pairs,
    metavar="KEY=VALUE",
    help="Metadata of every source of this call, for search --where; repeats.",
)
@click.option(
    "--asset", metavar="KEY", help="Asset of STAC items.  [default: visual, else the one with data]"
)
@click.option(
    "--replace",
    is_flag=True,
    help="Delete the former tiles of a path whose content changed, unless that content lies elsewhere too.",
)
@click.option(
    "--rehash",
    is_flag=True,
    help="Read every file to compare its content. Without it a file whose size, times and inode are those "
    "of an earlier run is taken for unchanged; its change time cannot be set back, so this is safe.",
)
@click.option("--dry-run", is_flag=True, help="Print tiles, bytes and time of each source; write nothing.")
@click.option(
    "--watch",
    is_flag=True,
    help="Keep running and index files of the folders as they arrive, once size and times have rested for "
    "5 s; a broken file is tried again when it changes. Ctrl-C or SIGTERM ends it.",
)
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(min=0.0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks of --watch.",
)
@click.option(
    "--shard",
    callback=_shard,
    metavar="I/N",
    help="Take the I-th of N parts of the files, by their paths below the sources; "
    "`lrsclip archive merge` joins the archives.",
)
@click.option(
    "--ray",
    "ray_address",
    metavar="ADDRESS|local",
    help="Run shards as tasks of a Ray cluster, each into a part archive, and merge these.",
)
@click.option("--shards", type=click.IntRange(min=1), help="Parts of --ray.  [default: CPUs of the cluster]")
@click.option(
    "--parts",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of --ray for part archives, in reach of every machine.  [default: ARCHIVE.parts]",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Images of one run."
)
@model_options
@json_option
def command(
    sources: tuple[Path, ...],
    archive: Path,
    bundle: Path | None,
    tiles: tuple[int, ...],
    overlap: float,
    bands: tuple[int, ...] | None,
    nodata: float | None,
    stretch: tuple[float, float] | None,
    metadata: dict[str, str],
    batch_size: int,
    asset: str | None,
    replace: bool,
    rehash: bool,
    dry_run: bool,
    watch: bool,
    every_s: float,
    shard: Shard | None,
    ray_address: str | None,
    shards: int | None,
    parts: Path | None,
    backend: str,
    precision: str | None,
    device: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Embed images, folders of them, GeoTIFF scenes and STAC items into an archive.

    A georeferenced raster is cut into tiles; any other image is one row unless --tile is given. A STAC item,
    a collection of items or a catalogue stands for the local files it names. Run the command again after
    an interruption: what is complete is skipped by its content, the rest is finished.
    Inputs that cannot be used are listed on stderr and the exit status is 1.

    \b
    Example:
        lrsclip index scenes/ harbour.tif -a archive/ --tile 256 --tile 768
    """
    from lrsclip_rt.archive.plans import IndexOptions

    ways = {"--dry-run": dry_run, "--watch": watch, "--ray": ray_address is not None}
    chosen = [name for name, given in ways.items() if given]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} exclude each other")
    if shard is not None and (watch or ray_address is not None):
        raise click.UsageError(f"--shard and {chosen[0]} exclude each other")
    if ray_address is not None and replace:
        raise click.UsageError("--replace and --ray exclude each other: parts do not see what lies in others")
    if ray_address is None and (shards is not None or parts is not None):
        raise click.UsageError("--shards and --parts belong to --ray")
    options = IndexOptions(
        tiles=tiles,
        overlap=overlap,
        bands=bands,
        nodata=nodata,
        stretch=stretch,
        metadata=metadata,
        asset=asset,
        replace=replace,
        shard=shard,
        batch_size=batch_size,
    )
    if ray_address is not None:
        from lrsclip_rt.archive.cluster import ModelChoice, index_on_ray

        choice = ModelChoice(bundle, backend, precision, device, threads)
        report = index_on_ray(
            archive, sources, choice, options, address=ray_address, shards=shards, parts=parts, rehash=rehash
        )
        show_report(archive, report, replace=replace, as_json=as_json)
        return
    from lrsclip_rt.embedder import load

    model = load(bundle, backend=backend, precision=precision, device=device, threads=threads)
    if dry_run:
        from lrsclip_rt.archive.estimating import estimate_index

        show_estimate(archive, estimate_index(archive, sources, model, options), as_json=as_json)
    elif watch:
        _watch(archive, sources, model, options, every_s=every_s, as_json=as_json)
    else:
        _index(archive, sources, model, options, rehash=rehash, as_json=as_json)


def _index(
    archive: Path,
    sources: tuple[Path, ...],
    model: Embedder,
    options: IndexOptions,
    *,
    rehash: bool,
    as_json: bool,
) -> None:
    from lrsclip_rt.archive.content_stamps import ContentStamps, stamps_path
    from lrsclip_rt.archive.ingest import index_sources

    with index_progress(sources, options) as progress, ContentStamps(stamps_path()) as stamps:
        report = index_sources(
            archive, sources, model, options, stamps=stamps, rehash=rehash, progress=progress
        )
    refresh_and_tell(archive)
    show_report(archive, report, replace=options.replace, as_json=as_json)


def _watch(
    archive: Path,
    folders: tuple[Path, ...],
    model: Embedder,
    options: IndexOptions,
    *,
    every_s: float,
    as_json: bool,
) -> None:
    from lrsclip_rt.archive.content_stamps import ContentStamps, stamps_path
    from lrsclip_rt.archive.watching import watch_folders
    from lrsclip_rt.watchdog import Watchdog

    watchdog = Watchdog()

    def show(report: IndexReport) -> None:
        show_round(archive, report, replace=options.replace, as_json=as_json)

    with _stopped_by_signals() as stop:
        click.echo(f"watching {', '.join(map(str, folders))}; Ctrl-C ends it", err=True)
        watchdog.ready("watching")
        watch_folders(
            archive,
            folders,
            model,
            options,
            stop=stop,
            every_s=every_s,
            stamps=lambda: ContentStamps(stamps_path()),
            done=show,
            alive=watchdog.alive,
        )
        watchdog.stopping()
    click.echo(f"stopped; {archive} holds everything that was indexed", err=True)


@contextmanager
def _stopped_by_signals() -> Iterator[Event]:
    """An event that Ctrl-C or SIGTERM sets; a second signal acts as usual."""
    stop = Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def end(number: int, frame: FrameType | None) -> None:
        restore()
        # The thread that is interrupted here may hold the event's lock, so another one sets it.
        Thread(target=stop.set, name="lrsclip-stop").start()

    for number in before:
        signal.signal(number, end)
    try:
        yield stop
    finally:
        restore()
