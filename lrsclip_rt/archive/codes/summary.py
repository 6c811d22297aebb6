"""How an archive is searched, for ``lrsclip archive info``."""

from __future__ import annotations

from typing import Any

from lrsclip_rt.archive.codes.files import CODES, Codes, CodesObstacle
from lrsclip_rt.archive.ranking import CODES_FROM_ROWS, UNCODED_ROWS
from lrsclip_rt.archive.store import Archive

__all__ = ["search_facts", "slow_share", "unused_reason"]

_TOO_FEW = "the codes find too few of the exact answers"


def search_facts(archive: Archive) -> dict[str, Any]:
    """Whether codes find candidates, with what recall, or why every search is exact.

    Returns:
        ``mode`` (``exact`` or ``codes``) and ``reason``, or the facts of the codes; JSON values.
    """
    codes = archive.codes
    if not isinstance(codes, Codes):
        reason = codes.reason
        if codes.missing and len(archive) < CODES_FROM_ROWS:
            reason = f"fewer than {CODES_FROM_ROWS} rows"
        return {"mode": "exact", "reason": reason}
    calibration = codes.calibration
    uncoded = _uncoded_rows(archive, codes)
    measured = {
        "coded_rows": codes.rows,
        "coded_share": round(codes.rows / (codes.rows + uncoded), 4),
        "rows_scanned_exactly": uncoded,
        "measured_rows": calibration.rows,
        "candidates": {str(k): count for k, count in calibration.candidates.items()},
        "text_queries": calibration.texts,
        "text_recall": {str(k): round(recall, 4) for k, recall in calibration.text_recall.items()},
        "image_queries": calibration.images,
        "image_recall": {str(k): round(recall, 4) for k, recall in calibration.image_recall.items()},
        "left_aside": list(codes.left_aside),
    }
    if not calibration.reached:
        return {"mode": "exact", "reason": _TOO_FEW, **measured}
    return {"mode": "codes", **measured}


def unused_reason(archive: Archive) -> str | None:
    """Why an archive that is large, or has codes, is searched exactly; None where nothing is amiss."""
    if len(archive) < CODES_FROM_ROWS and not (archive.path / CODES).is_dir():
        return None
    codes = archive.codes
    if isinstance(codes, CodesObstacle):
        hint = f". Build them: lrsclip archive codes {archive.path}" if codes.missing else ""
        return f"{codes.reason}{hint}"
    return None if codes.calibration.reached else _TOO_FEW


def slow_share(archive: Archive) -> str | None:
    """How many rows are scored since they have no codes yet; None where these are few.

    Rows that were added or compacted wait for their codes until the next ``lrsclip index``.
    """
    codes = archive.codes if len(archive) >= CODES_FROM_ROWS else None
    if not isinstance(codes, Codes) or not codes.calibration.reached:
        return None
    uncoded = _uncoded_rows(archive, codes)
    if uncoded <= 2 * UNCODED_ROWS:
        return None
    share = 100 * uncoded / (codes.rows + uncoded)
    return (
        f"{uncoded} rows ({share:.0f} %) have no codes yet. Build them: lrsclip archive codes {archive.path}"
    )


def _uncoded_rows(archive: Archive, codes: Codes) -> int:
    return sum(record.rows for record in archive.segments) - codes.rows
