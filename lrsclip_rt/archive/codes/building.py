"""The codes of an archive: train, encode what has none yet, measure the recall, put them in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.codes.calibration_texts import calibration_texts
from lrsclip_rt.archive.codes.codebooks import TRAINING_ROWS, Codebook, import_faiss, train_codebook
from lrsclip_rt.archive.codes.files import (
    CODES,
    CodeFile,
    CodeManifest,
    Codes,
    CodesObstacle,
    covered_rows,
    manifest_and_codebook,
    write_checked,
    write_manifest,
)
from lrsclip_rt.archive.codes.recall import (
    CALIBRATED_K,
    MOST_CANDIDATES,
    Calibration,
    Trial,
    calibrated,
)
from lrsclip_rt.archive.codes.scanning import CodePiece, Rough, best_coded_rows
from lrsclip_rt.archive.exact_scanning import rescored
from lrsclip_rt.archive.half_floats import float32_from_half
from lrsclip_rt.archive.locking import WriterLock
from lrsclip_rt.archive.ranking import CODES_FROM_ROWS, UNCODED_ROWS, Ranker
from lrsclip_rt.archive.records import SegmentRecord
from lrsclip_rt.archive.scanning import Ranked, rows_of
from lrsclip_rt.archive.segments import Segment
from lrsclip_rt.archive.store import Archive
from lrsclip_rt.errors import ArchiveCorruptError, ArchiveError, BackendError, BundleError

__all__ = ["CodesReport", "build_codes", "refresh_codes"]

IMAGE_QUERIES = 250
_SEED = 10
_BLOCK_ROWS = 16_384
_UNCODED_SHARE = 0.1
"""So large a part of the archive does not wait either."""
_SAME_SIZE = (0.8, 1.1)
"""The recall that was measured holds for an archive of so many times the rows that it had then."""


@dataclass(frozen=True, slots=True)
class CodesReport:
    """What a build did.

    Attributes:
        rows: Rows of the archive that have codes now.
        encoded_rows: Of these, encoded by this build.
        bytes: Of all codes.
        calibration: The measured recall and the candidates that it takes.
        without_texts: Why recall was measured with images alone; empty where it was with both.
    """

    rows: int
    encoded_rows: int
    bytes: int
    calibration: Calibration
    without_texts: str = ""


@dataclass(frozen=True, eq=False)
class _Kept:
    """What of earlier codes goes on counting; files and loaded codes by the number of their segment."""

    codebook: Codebook
    codebook_file: CodeFile
    files: Mapping[int, CodeFile] = field(default_factory=dict)
    pieces: Mapping[int, CodePiece] = field(default_factory=dict)
    calibration: Calibration | None = None


def refresh_codes(
    path: str | Path, *, progress: Callable[[int], None] | None = None
) -> CodesReport | CodesObstacle:
    """Build codes where the archive is large and many of its rows lack them: ``UNCODED_ROWS``, or a tenth.

    Rows lack codes that were added, or moved by a compaction. Recall is measured again only where the
    archive has another size than it had.

    Args:
        path: The archive's folder; no writer may be at work.
        progress: Called with the rows that were encoded or compared.

    Returns:
        What was built, or why nothing was.

    Raises:
        ArchiveLockedError: If a writer is at work.
        ArchiveError: If the disk refuses.
        DependencyError: If faiss is not installed.
    """
    with Archive.open(path) as archive:
        rows = len(archive)
        if rows < CODES_FROM_ROWS:
            return CodesObstacle(f"{rows} rows are searched exactly, codes help from {CODES_FROM_ROWS} on")
        found = archive.codes
        coded = found.rows if isinstance(found, Codes) else 0
        if _codable_rows(archive) - coded <= min(_UNCODED_SHARE * rows, UNCODED_ROWS):
            return CodesObstacle("the codes are up to date")
    return build_codes(path, measure=False, progress=progress)


def build_codes(
    path: str | Path,
    *,
    rebuild: bool = False,
    measure: bool = True,
    texts: NDArray[np.float32] | None = None,
    progress: Callable[[int], None] | None = None,
) -> CodesReport:
    """Give every complete block of rows codes, measure what recall they reach, and put them in place.

    Codes that count are kept, unless the archive has doubled since their recall was measured.

    Args:
        path: The archive's folder.
        rebuild: Train and encode anew.
        measure: Measure the recall also where the codebook is kept and the archive has about the size
            that it was measured at.
        texts: ``(n, D)`` unit rows of texts to calibrate on; default our own through the text tower that the
            archive keeps.
        progress: Called with the rows that were encoded.

    Raises:
        ArchiveLockedError: If a writer is at work.
        ArchiveError: If no block of rows is complete, or the disk refuses.
        DependencyError: If faiss is not installed.
    """
    import_faiss()
    folder = Path(path) / CODES
    with Archive.open(path) as archive, WriterLock(Path(path)):
        archive.refresh()
        try:
            folder.mkdir(exist_ok=True)
            builder = _Builder(archive, folder, progress or (lambda _: None))
            return builder.build(texts, rebuild=rebuild, measure=measure)
        except OSError as error:
            raise ArchiveError(
                f"{folder} cannot be written ({error.strerror or error}). The archive is intact; make "
                "room and build its codes again"
            ) from error


class _Builder:
    def __init__(self, archive: Archive, folder: Path, progress: Callable[[int], None]) -> None:
        self._archive = archive
        self._folder = folder
        self._progress = progress
        self._segments = archive.mapped_segments
        self._ranker = Ranker(self._segments)

    def build(self, texts: NDArray[np.float32] | None, *, rebuild: bool, measure: bool) -> CodesReport:
        kept = (None if rebuild else self._kept()) or self._trained()
        codebook, files, encoded = kept.codebook, list[CodeFile](), 0
        for segment in self._segments:
            number = segment.record.number
            rows, digest = self._covered(segment)
            if rows == 0:
                continue
            file = kept.files.get(number)
            if file is None or (file.rows, file.digest) != (rows, digest):
                codes = np.concatenate(
                    [codebook.codes_from_rows(part) for part in self._parts(segment, rows)]
                )
                name = f"{number:06d}.{kept.codebook_file.crc32:08x}.{digest}.pq4"
                file = write_checked(self._folder, name, codes, segment=number, rows=rows, digest=digest)
                encoded += rows
            files.append(file)
        if not files:
            raise self._too_few()
        calibration, without_texts = kept.calibration, ""
        if calibration is None or measure or not self._has_size_of(calibration):
            if texts is None:
                texts, without_texts = _embedded_texts(self._archive)
            calibration = self._calibrated(codebook, self._loaded(kept, files), texts)
            if not calibration.reached and kept.calibration is not None and not kept.files:
                # A codebook whose rows are all gone may be of others altogether.
                return self.build(texts, rebuild=True, measure=True)
        model = self._archive.model
        write_manifest(
            self._folder,
            CodeManifest(model.identity, model.dim, kept.codebook_file, tuple(files), calibration),
        )
        size = sum(file.bytes for file in files)
        coded = sum(file.rows for file in files)
        return CodesReport(coded, encoded, size, calibration, without_texts)

    def _kept(self) -> _Kept | None:
        """What an earlier build left; None where it is damaged, or of a much smaller archive."""
        try:
            manifest, codebook = manifest_and_codebook(self._folder, self._archive.info)
        except ArchiveCorruptError:
            return None
        if len(self._archive) >= 2 * manifest.calibration.rows:
            return None
        held = self._archive.codes
        counting = held.pieces if isinstance(held, Codes) else {}
        files = {file.segment: file for file in manifest.pieces if file.segment in counting}
        return _Kept(codebook, manifest.codebook, files, counting, manifest.calibration)

    def _trained(self) -> _Kept:
        codebook = train_codebook(self._training_rows())
        parts = (codebook.mean, codebook.rotations, codebook.centroids)
        content = np.concatenate([part.reshape(-1) for part in parts]).astype("<f4")
        name = f"codebook.{_tag(content)}.f32"
        return _Kept(codebook, write_checked(self._folder, name, content))

    def _has_size_of(self, calibration: Calibration) -> bool:
        least, most = (share * calibration.rows for share in _SAME_SIZE)
        return least <= len(self._archive) <= most

    def _loaded(self, kept: _Kept, files: Sequence[CodeFile]) -> dict[int, CodePiece]:
        pieces = {}
        for file in files:
            if kept.files.get(file.segment) == file:
                pieces[file.segment] = kept.pieces[file.segment]
                continue
            codes = np.fromfile(self._folder / file.name, np.uint8).reshape(file.rows, kept.codebook.groups)
            pieces[file.segment] = CodePiece(file.rows, kept.codebook.index_from_codes(codes))
        return pieces

    def _too_few(self) -> ArchiveError:
        return ArchiveError(
            f"{self._archive.path} has no complete block of {self._archive.info.block_rows} rows; "
            "so few are searched exactly, codes would not help"
        )

    def _training_rows(self) -> NDArray[np.float32]:
        covered = [segment.record.base + np.arange(self._covered(segment)[0]) for segment in self._segments]
        rows = np.concatenate([np.empty(0, np.int64), *covered])
        if not len(rows):
            raise self._too_few()
        if len(rows) > TRAINING_ROWS:
            generator = np.random.default_rng(_SEED)
            rows = np.sort(generator.choice(rows, TRAINING_ROWS, replace=False))
        return rows_of(self._segments, rows, self._archive.dim)

    def _covered(self, segment: Segment) -> tuple[int, str]:
        return _covered_by_checksums(self._archive, segment.record)

    def _parts(self, segment: Segment, rows: int) -> Iterator[NDArray[np.float32]]:
        for start in range(0, rows, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, rows)
            yield float32_from_half(segment.f16[start:stop])
            self._ranker.pages.touched(scanned_bytes=segment.f16[start:stop].nbytes)
            self._progress(stop - start)

    def _calibrated(
        self, codebook: Codebook, pieces: dict[int, CodePiece], texts: NDArray[np.float32]
    ) -> Calibration:
        """Only rows with codes take part: the others are searched exactly anyway."""
        passing = []
        for segment in self._segments:
            mask = np.zeros(segment.record.rows, bool)
            piece = pieces.get(segment.record.number)
            mask[: 0 if piece is None else piece.rows] = True
            passing.append(mask if segment.alive is None else mask & segment.alive)
        numbers = np.concatenate(
            [s.record.base + np.flatnonzero(mask) for s, mask in zip(self._segments, passing, strict=True)]
        )
        generator = np.random.default_rng(_SEED)
        own = np.sort(generator.choice(numbers, min(IMAGE_QUERIES, len(numbers)), replace=False))
        images = rows_of(self._segments, own, self._archive.dim)
        queries = np.concatenate([texts.reshape(-1, self._archive.dim), images]).astype(np.float32)
        count = CALIBRATED_K[-1] + 2
        truths = self._ranker.exactly(queries, count, passing, len(numbers))
        roughs = best_coded_rows(
            codebook,
            pieces,
            self._segments,
            queries,
            min(MOST_CANDIDATES, len(numbers)),
            passing=None if len(numbers) == sum(len(mask) for mask in passing) else passing,
            workers=self._ranker.workers,
        )
        left_out = [-1] * len(texts) + own.tolist()
        trials = [
            self._trial(query, truth, rough, row)
            for query, truth, rough, row in zip(queries, truths, roughs, left_out, strict=True)
        ]
        return calibrated(len(self._archive), trials[: len(texts)], trials[len(texts) :])

    def _trial(self, query: NDArray[np.float32], truth: Ranked, rough: Rough, left_out: int) -> Trial:
        def exact_scores(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            ranked = rescored(self._segments, rows, query, len(rows))
            return ranked.scores[np.argsort(ranked.rows)][np.argsort(np.argsort(rows))]

        others, also = truth.rows != left_out, rough.rows != left_out
        return Trial(
            Ranked(truth.rows[others], truth.scores[others]),
            Rough(rough.rows[also], rough.scores[also]),
            exact_scores,
        )


def _covered_by_checksums(archive: Archive, record: SegmentRecord) -> tuple[int, str]:
    return covered_rows(archive.catalog, record.number, archive.info.block_rows, record.rows)


def _codable_rows(archive: Archive) -> int:
    """Rows in complete blocks; the last ones of a growing segment are always scored."""
    return sum(_covered_by_checksums(archive, record)[0] for record in archive.segments)


def _embedded_texts(archive: Archive) -> tuple[NDArray[np.float32], str]:
    """The calibration's texts through the archive's text tower, or why it cannot embed them."""
    from lrsclip_rt.archive.models import text_bundle
    from lrsclip_rt.embedder import load

    try:
        model = load(text_bundle(archive))
        return model.embed_texts(list(calibration_texts())), ""
    except (ArchiveError, BundleError, BackendError, ImportError) as error:
        return np.empty((0, archive.dim), np.float32), str(error)


def _tag(content: NDArray[Any]) -> str:
    import zlib

    return f"{zlib.crc32(content.data):08x}"
