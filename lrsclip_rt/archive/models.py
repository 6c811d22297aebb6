"""The model of an archive: the text tower that it keeps, and the whole bundle where one can be found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lrsclip_rt.archive.records import ModelRecord, Producer
from lrsclip_rt.archive.store import Archive
from lrsclip_rt.bundle import BUILT_IN, Bundle
from lrsclip_rt.errors import ArchiveModelError, BundleError

if TYPE_CHECKING:
    from lrsclip_rt.embedder import Embedder

__all__ = ["image_bundle", "model_from_bundle", "producer_from_embedder", "text_bundle"]


def model_from_bundle(bundle: Bundle) -> ModelRecord:
    """What an archive records of a bundle."""
    path = None if bundle.path == BUILT_IN.resolve() else str(bundle.path)
    return ModelRecord(bundle.identity, bundle.spec.name, bundle.spec.embed_dim, path)


def producer_from_embedder(embedder: Embedder) -> Producer:
    """What a segment records of the embedder that fills it."""
    passed = embedder.bundle.passed(embedder.precision, embedder.backend)
    return Producer(embedder.precision, embedder.backend, passed)


def text_bundle(archive: Archive) -> Bundle:
    """The bundle with the text tower that the archive keeps.

    Raises:
        ArchiveError: If it keeps none.
        ArchiveModelError: If what it keeps is of another model.
        BundleError: If it is broken.
    """
    bundle = Bundle.open(archive.model_path)
    _check_identity(archive, bundle)
    return bundle


def image_bundle(archive: Archive, given: Path | None = None) -> Bundle:
    """The whole bundle of the archive's model, for queries by image.

    Args:
        archive: The archive, which keeps only the text tower.
        given: Where it is; default the place recorded when the archive was made, then the built-in.

    Raises:
        ArchiveModelError: If ``given`` is of another model, or no bundle of this one is found.
        BundleError: If ``given`` is no bundle.
    """
    if given is not None:
        bundle = Bundle.open(given)
        _check_identity(archive, bundle)
        return bundle
    recorded = archive.model.bundle_path
    for path in (None if recorded is None else Path(recorded), None):
        try:
            bundle = Bundle.open(path)
        except BundleError:
            continue
        if bundle.identity == archive.model.identity and "image" in bundle.towers(bundle.default_precision):
            return bundle
    tried = "the built-in model" if recorded is None else f"{recorded} and the built-in model"
    raise ArchiveModelError(
        f"{archive.path} keeps only the text tower of {archive.model}, and its image tower is not "
        f"at {tried}. Name its bundle with -b BUNDLE"
    )


def _check_identity(archive: Archive, bundle: Bundle) -> None:
    if bundle.identity != archive.model.identity:
        found = ModelRecord(bundle.identity, bundle.spec.name, bundle.spec.embed_dim)
        raise ArchiveModelError(
            f"{archive.path} holds vectors of {archive.model}, but {bundle.path} is {found}. "
            "Use the bundle that it was indexed with"
        )
