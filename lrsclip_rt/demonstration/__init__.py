"""The demonstration: index, search and localize with a model, and a report that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lrsclip_rt.demonstration.asking import Say
from lrsclip_rt.demonstration.output_folder import prepare_folder, refuse_inside
from lrsclip_rt.demonstration.own_images_story import tell_own_story
from lrsclip_rt.demonstration.rendered_story import tell_rendered_story
from lrsclip_rt.demonstration.results import Story
from lrsclip_rt.demonstration.scenes import SCENE_SEEDS, SCENE_SIDE

if TYPE_CHECKING:
    from lrsclip_rt.embedder import Embedder

__all__ = ["Story", "demonstrate"]


def demonstrate(
    model: Embedder,
    folder: str | Path,
    *,
    images: str | Path | None = None,
    overwrite: bool = False,
    seeds: Sequence[int] = SCENE_SEEDS,
    side: int = SCENE_SIDE,
    tile: int = 256,
    say: Say = lambda message: None,
) -> Story:
    """Show a model at work and write ``report.html``, pictures, scenes and an archive into a folder.

    Args:
        model: From ``lrsclip_rt.load``.
        folder: A new or empty folder.
        images: A folder of images and rasters to show it on; rendered scenes without.
        overwrite: An earlier demonstration in ``folder`` may be replaced.
        seeds: One a rendered scene.
        side: Edge of a rendered scene [px].
        tile: Edge of the rendered scenes' tiles [px].
        say: Told what happens next.

    Returns:
        What was found; ``Story.report`` is the page, ``Story.failures`` lists images that could not be used.

    Raises:
        OutputExistsError: If the folder holds something else, or an earlier one and not ``overwrite``.
        InputError: If the images are missing or hold no image, or the folder cannot be written.
        LrsclipError: If the model or the archive fails.
    """
    # Drawing pulls in Pillow's drawing and the colour tables; a story alone does not need them.
    from lrsclip_rt.demonstration.report import write_report

    target = Path(folder)
    if images is not None:
        refuse_inside(Path(images), target)
    prepare_folder(target, overwrite=overwrite)
    if images is not None:
        story = tell_own_story(model, target, Path(images), say=say)
    else:
        story = tell_rendered_story(model, target, seeds=seeds, side=side, tile=tile, say=say)
    say("Drawing the report ...")
    write_report(story)
    return story
