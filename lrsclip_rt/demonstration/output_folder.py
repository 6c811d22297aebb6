"""The folder of a demonstration: known by its marker, and only what is ours is ever removed from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from lrsclip_rt.errors import InputError, OutputExistsError
from lrsclip_rt.folder_swap import refuse_target

__all__ = ["MARKER", "prepare_folder", "refuse_inside"]

MARKER = "lrsclip-demo.json"
OWN = ("report.html", "pictures", "scenes", "archive")
"""What a demonstration leaves in its folder besides the marker."""


def prepare_folder(folder: Path, *, overwrite: bool = False) -> None:
    """Make an empty folder, or clear one that an earlier demonstration left.

    Files that are not the demonstration's stay where they are.

    Args:
        folder: The folder.
        overwrite: An earlier demonstration may be replaced.

    Raises:
        OutputExistsError: If something else is there, or an earlier demonstration and not ``overwrite``.
        InputError: If the folder cannot be made.
    """
    refuse_target(folder, MARKER, overwrite=overwrite)
    if (folder / MARKER).exists() and not _is_ours(folder / MARKER):
        raise OutputExistsError(
            f"{folder / MARKER} was not written by lrsclip demo, so the folder is not replaced. "
            "Choose another name"
        )
    try:
        for name in OWN:
            _remove(folder / name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pictures").mkdir()
        (folder / MARKER).write_text(json.dumps({"made_by": "lrsclip demo"}) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder} cannot be prepared: {error}. Choose another folder") from error


def refuse_inside(images: Path, folder: Path) -> None:
    """Refuse to index what the demonstration itself removes and writes.

    Raises:
        InputError: If ``images`` is missing, or lies in a part of ``folder`` that is the demonstration's own.
    """
    if not images.exists():
        raise InputError(f"{images} does not exist; give a folder of images with --images")
    place = images.resolve()
    own = [(folder / name).resolve() for name in OWN]
    if any(place.is_relative_to(part) for part in own):
        raise InputError(
            f"{images} is a part of the demonstration in {folder}, which is written anew. Choose another -o"
        )


def _is_ours(marker: Path) -> bool:
    try:
        record = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("made_by") == "lrsclip demo"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
