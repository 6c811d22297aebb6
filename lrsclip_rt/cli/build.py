"""``lrsclip build``: TensorRT engines of a bundle, made on the device that will run them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.options import json_option, split_commas
from lrsclip_rt.cli.output import emit

if TYPE_CHECKING:
    from lrsclip_rt.tensorrt.bundle_building import Build

__all__ = ["command"]


@click.command("build", short_help="Build TensorRT engines for this device.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    help="fp16, int8 or fp8; repeats or takes commas.  [default: all of the bundle's that this GPU runs]",
)
@click.option(
    "--static-text",
    is_flag=True,
    help="Build the text engine for the full length alone: one profile, not four.",
)
@click.option(
    "--image-batch",
    type=click.IntRange(min=1, max=1024),
    default=32,
    show_default=True,
    metavar="N",
    help="Largest batch of images, which the engine is tuned for: more for a server, less for a board.",
)
@click.option(
    "--workspace",
    type=click.IntRange(min=1),
    default=None,
    metavar="MIB",
    help="Limit of scratch memory, and of what is timed [MiB].  [default: a quarter where CPU and GPU "
    "share memory, else all that is free]",
)
@click.option(
    "--version-compatible", is_flag=True, help="Make engines that later versions of TensorRT run too."
)
@click.option(
    "--strip",
    is_flag=True,
    help="Leave the weights out of the plans; each start takes them from the ONNX files.",
)
@click.option("--device", default=None, help="The GPU, for example cuda:1.  [default: cuda:0]")
@json_option
def command(
    bundle: Path,
    precisions: tuple[str, ...],
    static_text: bool,
    image_batch: int,
    workspace: int | None,
    version_compatible: bool,
    strip: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """Build TensorRT engines of BUNDLE for this GPU and this version of TensorRT.

    Engines are held against fp32 on the bundle's probe before they are kept. They lie in the bundle's folder
    engines/, or in the user's cache where that cannot be written; bundle.json is not changed. On another
    GPU or version they are refused by name: build there again. Our own kernels are compiled beside them.
    Where several precisions were built, their image towers are timed and build.json says which was fastest.

    \b
    Example:
        lrsclip build vit-b16/ --precision fp16,int8 --workspace 2048
    """
    from lrsclip_rt.bundle import Bundle
    from lrsclip_rt.cuda.device import Device, device_index
    from lrsclip_rt.cuda.driver import cuda_driver
    from lrsclip_rt.tensorrt.bundle_building import (
        build_precision,
        precisions_to_build,
        shared_memory_limit_mib,
    )
    from lrsclip_rt.tensorrt.loading import tensorrt_module
    from lrsclip_rt.tensorrt.profiles import BuildOptions
    from lrsclip_rt.tensorrt.racing import noted_race, race

    opened = Bundle.open(bundle)
    index = device_index(device)
    driver = cuda_driver()
    trt = tensorrt_module()
    gpu = Device(driver, index)
    try:
        names = precisions_to_build(opened, split_commas(precisions), gpu.info)
        limit = workspace or shared_memory_limit_mib(gpu)
        options = BuildOptions(static_text, limit, version_compatible, strip, image_batch)
        with _stages() as advance:
            builds = [build_precision(trt, opened, name, gpu, options, advance=advance) for name in names]
            advance("race", 0.0)
            outcome = race(trt, opened, builds, gpu)
        if outcome is not None:
            builds = noted_race(builds, outcome)
    finally:
        gpu.close()
    for build in builds:
        for tower, reason in build.skipped.items():
            click.echo(f"{build.record.precision} {tower}: not built: {reason}", err=True)
    columns = ("precision", "device", "tensorrt", "tower", "MB", "image", "text", "attention", "ms", "folder")
    emit(_rows(builds), columns=columns, as_json=as_json, title=f"{opened.spec.name}: engines")


def _rows(builds: list[Build]) -> Iterator[dict[str, Any]]:
    for build in builds:
        for tower, engine in build.record.engines.items():
            yield {
                "precision": build.record.precision,
                "device": build.record.architecture,
                "tensorrt": build.record.tensorrt,
                "tower": tower,
                "MB": round(engine.bytes / 1e6, 1),
                "image": build.report.image.minimum if build.report.image else None,
                "text": build.report.text.minimum if build.report.text else None,
                "attention": {True: "fused", False: "not fused", None: "unknown"}[engine.fused_attention],
                "ms": _raced_ms(build, tower),
                "folder": str(build.folder),
            }


def _raced_ms(build: Build, tower: str) -> float | None:
    """Median of the race's batch [ms], where there was one."""
    if tower != "image" or build.record.race is None:
        return None
    ms: float = build.record.race["image_ms"][build.record.precision]
    return ms


@contextmanager
def _stages() -> Iterator[Callable[[str, float], None]]:
    """Yield ``advance(stage, share)``: a bar on stderr, or a line for each stage on no terminal."""
    if not sys.stderr.isatty():
        shown: set[str] = set()

        def line(stage: str, share: float) -> None:
            if stage not in shown:
                shown.add(stage)
                click.echo(f"{stage} ...", err=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<40}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda stage, share: bar.update(task, description=stage, completed=share)
