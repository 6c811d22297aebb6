"""Where ``lrsclip localize`` gets its maps from: a scene in a file, or a source of an archive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.output import progress_bar

if TYPE_CHECKING:
    from lrsclip_rt.localization.archive_scene import ArchiveAddress
    from lrsclip_rt.localization.pipeline import Localization
    from lrsclip_rt.localization.pyramid import FastOptions
    from lrsclip_rt.localization.scene_embedding import Progress
    from lrsclip_rt.raster import Scene

__all__ = ["Request", "located", "window_progress"]


@dataclass(frozen=True)
class Request:
    """What is asked for, whatever the scene is.

    Attributes:
        texts: Queries.
        mode: Of localization.
        fast: How the fast mode looks.
        batch_size: Windows of one run.
        bundle: Folder of the model, or None for the built-in or the archive's own.
        opening: Options of ``load``.
        reading: Options of ``open_scene``.
    """

    texts: list[str]
    mode: str
    fast: FastOptions
    batch_size: int
    bundle: Path | None
    opening: dict[str, Any]
    reading: dict[str, Any]


@contextmanager
def located(scene: str, request: Request) -> Iterator[tuple[Scene, Localization]]:
    """Localize in a file, or in the stored vectors of an archive's source; the scene stays open."""
    from lrsclip_rt.embedder import load
    from lrsclip_rt.localization.archive_scene import address_from_text
    from lrsclip_rt.localization.pipeline import localize_scene
    from lrsclip_rt.raster import open_scene

    address = address_from_text(scene)
    if address is not None:
        with located_in_archive(address, request) as both:
            yield both
        return
    with open_scene(scene, **request.reading) as source:
        model = load(request.bundle, **request.opening)
        with window_progress("Windows") as progress:
            found = localize_scene(
                model,
                source,
                request.texts,
                mode=request.mode,
                fast=request.fast,
                batch_size=request.batch_size,
                progress=progress,
            )
        yield source, found


@contextmanager
def located_in_archive(address: ArchiveAddress, request: Request) -> Iterator[tuple[Scene, Localization]]:
    """Score the tiles that an archive holds of a source; no window is embedded."""
    from lrsclip_rt.archive import Archive
    from lrsclip_rt.archive.models import image_bundle, text_bundle
    from lrsclip_rt.embedder import load
    from lrsclip_rt.localization.archive_scene import (
        embedding_from_archive,
        scene_from_archive,
        source_number,
    )
    from lrsclip_rt.localization.asking import ask
    from lrsclip_rt.localization.pipeline import localize_embedding

    default = request.fast == type(request.fast)() and set(request.reading.values()) <= {None, "auto"}
    if request.mode != "fast" or not default:
        raise click.UsageError("an archive's tiles are embedded already: leave --mode and its options out")
    with Archive.open(address.archive) as archive:
        number = source_number(archive, address.source)
        bundle = text_bundle(archive) if request.bundle is None else image_bundle(archive, request.bundle)
        model = load(bundle, **request.opening)
        embedding = embedding_from_archive(archive, number)
        with scene_from_archive(archive, number) as source:
            asked = ask(model, request.texts, templates=True)
            yield source, localize_embedding(embedding, source, request.texts, asked)


@contextmanager
def window_progress(description: str) -> Iterator[Progress]:
    """A bar that begins when the number of windows is known, after the first batch."""
    with ExitStack() as stack:
        bars: list[Callable[[int], None]] = []
        seen = [0]

        def progress(done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(progress_bar(description, total)))
            bars[0](done - seen[0])
            seen[0] = done

        yield progress
