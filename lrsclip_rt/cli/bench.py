"""``lrsclip bench``: how fast a bundle is on this machine, after its answers were checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.options import bundle_option, json_option, overwrite_option, split_commas
from lrsclip_rt.cli.output import emit, progress_bar, refuse_existing, report_failures, wants_json
from lrsclip_rt.errors import BackendError, DependencyError, InputError, ParityError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lrsclip_rt.benchmarking import BenchRow
    from lrsclip_rt.bundle import Bundle
    from lrsclip_rt.embedder import Embedder

__all__ = ["command"]

_COLUMNS = ("what", "contender", "batch", "p50_ms", "p95_ms", "p99_ms", "per_second")
_START_COLUMNS = ("contender", "cold_s", "warm_s", "peak_bytes", "file_bytes")
_ENERGY_COLUMNS = ("what", "contender", "batch", "joules_an_image", "watts", "source")


@click.command("bench")
@bundle_option
@click.option(
    "--precision", "precisions", multiple=True, help="Repeats or takes commas.  [default: all it holds]"
)
@click.option("--backend", "backends", multiple=True, help="Repeats or takes commas.  [default: auto]")
@click.option(
    "--batch", "batches", multiple=True, help="Images per run; repeats or takes commas.  [default: 1,8,32]"
)
@click.option(
    "--tokens",
    "lengths",
    multiple=True,
    help="Text lengths; repeats or takes commas.  [default: 12,200]",
)
@click.option("--images", type=click.Path(path_type=Path), help="Folder of images.  [default: made-up JPEGs]")
@click.option(
    "--files", type=click.IntRange(min=1), default=64, show_default=True, help="Image files to embed."
)
@click.option("--rounds", type=click.IntRange(min=1), default=10, show_default=True, help="Timed rounds.")
@click.option("--threads", type=click.IntRange(min=1), default=None, help="CPU threads of the model.")
@click.option("--device", default=None, help="Device of the backend, e.g. cpu or cuda:0.")
@click.option(
    "--starts/--no-starts", default=True, show_default=True, help="Time starts and read peak memory too."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder for the record, a page with tables, and pictures.",
)
@json_option
@overwrite_option
def command(
    bundle: Path | None,
    precisions: tuple[str, ...],
    backends: tuple[str, ...],
    batches: tuple[str, ...],
    lengths: tuple[str, ...],
    images: Path | None,
    files: int,
    rounds: int,
    threads: int | None,
    device: str | None,
    starts: bool,
    output: Path | None,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Time the image tower, texts, image files to embeddings, each stage alone, and starts.

    Each precision is held against fp32 on the bundle's probe first; one that fails its gate is not timed.
    Rounds of all precisions are interleaved. On a GPU the energy of an image is added where it can be read.
    The last line of the output is the record as JSON.

    \b
    Example:
        lrsclip bench -b vit-b16/ --precision fp32,int8-cpu --batch 1,8 -o speed/
    """
    from lrsclip_rt.benchmarking import make_record
    from lrsclip_rt.bundle import Bundle
    from lrsclip_rt.cpu import available_cpus
    from lrsclip_rt.model_timing import probe_parity

    if output is not None:
        refuse_existing(output, overwrite=overwrite)
    sizes = _whole_numbers(batches, "1,8,32", "batch size", least=1)
    tokens = _whole_numbers(lengths, "12,200", "text length", least=3)
    opened = Bundle.open(bundle)
    models, failures = _models(
        opened, split_commas(precisions), split_commas(backends), device=device, threads=threads
    )
    checks = []
    for name, model in list(models.items()):
        report = probe_parity(model)
        checks.append({"what": "parity on the probe", "contender": name, **report.to_dict()})
        if not report.passed:
            failures.append((name, "fell below its gate on the probe, so it is not timed"))
            del models[name]
    if not models:
        report_failures(failures)
        raise ParityError(f"nothing of {opened.path} is left to time; see: lrsclip check {opened.path}")
    rows, started = _time(models, sizes, tokens, images=images, files=files, rounds=rounds, starts=starts)
    energy = _energy(models, max(sizes))
    record = make_record(
        "bench",
        threads=threads or available_cpus(),
        settings={
            "model": opened.spec.name,
            "architecture": opened.spec.architecture,
            "identity": opened.identity,
            "batches": sizes,
            "tokens": tokens,
            "files": files,
            "images": None if images is None else images.name,
            "rounds": rounds,
        },
        results=[*checks, *rows, *started, *energy],
    )
    if not wants_json(as_json):
        emit([_shown(row) for row in rows], columns=_COLUMNS, as_json=False, title=opened.spec.name)
        if started:
            emit(started, columns=_START_COLUMNS, as_json=False, title="starts, memory, files")
        if energy:
            emit(energy, columns=_ENERGY_COLUMNS, as_json=False, title="energy")
    if output is not None:
        from lrsclip_rt.bench_page import write_bench

        for path in write_bench(record, output):
            click.echo(f"wrote {path}", err=True)
    report_failures(failures)
    click.echo(record.to_json())
    if failures:
        raise click.exceptions.Exit(1)


def _whole_numbers(values: tuple[str, ...], default: str, name: str, *, least: int) -> list[int]:
    numbers = []
    for value in split_commas(values) or default.split(","):
        if not value.isdecimal() or int(value) < least:
            raise click.BadParameter(f"{value!r} is no {name}, expected whole numbers like {default}")
        numbers.append(int(value))
    return numbers


def _models(
    bundle: Bundle, precisions: list[str], backends: list[str], *, device: str | None, threads: int | None
) -> tuple[dict[str, Embedder], list[tuple[str, str]]]:
    """Every precision on every backend by its name, and what cannot run here.

    Without a wish, what nothing here runs is noted and left out; what was asked for by name has failed.
    """
    from lrsclip_rt.embedder import load

    models: dict[str, Embedder] = {}
    failures: list[tuple[str, str]] = []
    for precision in precisions or list(bundle.precisions):
        for backend in backends or ["auto"]:
            try:
                model = load(bundle, backend=backend, precision=precision, device=device, threads=threads)
            except (BackendError, DependencyError) as error:
                if precisions or backends:
                    failures.append((f"{precision} {backend}", str(error)))
                else:
                    click.echo(f"left out: {precision}: {error}", err=True)
                continue
            models[f"{precision} {model.backend}"] = model
    if not models:
        report_failures(failures)
        raise BackendError(f"nothing of {bundle.path} runs here; see: lrsclip info")
    return models, failures


def _time(
    models: dict[str, Embedder],
    sizes: list[int],
    lengths: list[int],
    *,
    images: Path | None,
    files: int,
    rounds: int,
    starts: bool,
) -> tuple[list[BenchRow], list[dict[str, Any]]]:
    """Rows of everything that is timed, and those of the starts."""
    import tempfile

    from lrsclip_rt.model_timing import time_files, time_image_tower, time_text, write_jpegs
    from lrsclip_rt.stage_timing import time_stages

    few = min(rounds, 5)
    rows: list[BenchRow] = []
    steps = len(sizes) * (1 + len(lengths)) + 2 + (len(models) if starts else 0)
    with progress_bar("Timing", steps) as advance, tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            rows += time_image_tower(models, batch=size, rounds=rounds)
            advance(1)
        for tokens in lengths:
            for size in sorted({1, *sizes}):
                rows += time_text(models, tokens=tokens, rounds=rounds if size == 1 else few, batch=size)
                advance(1)
        paths = write_jpegs(Path(folder), files) if images is None else _image_paths(images, files)
        rows += time_files(models, paths, batch=max(sizes), rounds=few)
        advance(1)
        rows += time_stages(models, paths, batch=max(sizes), rounds=few)
        advance(1)
        started = _starts(models, paths[0], max(sizes), advance) if starts else []
    return rows, started


def _starts(
    models: dict[str, Embedder], image: Path, batch: int, advance: Callable[[int], None]
) -> list[dict[str, Any]]:
    from lrsclip_rt.start_timing import time_start

    rows = []
    for name, model in models.items():
        found = time_start(
            model.bundle,
            backend=model.backend,
            precision=model.precision,
            device=model.device,
            threads=model.threads,
            image=image,
            batch=batch,
        )
        rows.append({"what": "start", "contender": name, "batch": batch, **found})
        advance(1)
    return rows


def _energy(models: dict[str, Embedder], batch: int) -> list[dict[str, Any]]:
    """Energy of an image at the largest batch, of what runs on a GPU; why not is said on stderr."""
    from lrsclip_rt.cuda.device import bus_id, device_index
    from lrsclip_rt.cuda.driver import cuda_driver
    from lrsclip_rt.energy import energy_meter
    from lrsclip_rt.model_timing import energy_of_images

    on_gpu = {name: model for name, model in models.items() if model.on_gpu}
    rows: list[dict[str, Any]] = []
    for name, model in on_gpu.items():
        try:
            meter = energy_meter(bus_id(cuda_driver(), device_index(model.device)))
        except BackendError as error:
            click.echo(str(error), err=True)
            return rows
        try:
            rows.append({"contender": name, **energy_of_images(model, meter, batch=batch)})
        finally:
            meter.close()
    return rows


def _image_paths(folder: Path, number: int) -> Sequence[Path]:
    from itertools import islice

    from lrsclip_rt.images import iter_image_paths

    paths = list(islice(iter_image_paths([folder]), number))
    if not paths:
        raise InputError(f"no images found in {folder}")
    return paths


def _shown(row: BenchRow) -> dict[str, Any]:
    return {column: getattr(row, column) for column in _COLUMNS}
