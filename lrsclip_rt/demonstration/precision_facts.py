"""What each precision of the model does on this machine: how near to fp32, and how fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrsclip_rt.benchmarking import BenchRow
from lrsclip_rt.demonstration.results import PrecisionFacts
from lrsclip_rt.errors import BackendError, BundleError, DependencyError

if TYPE_CHECKING:
    from lrsclip_rt.embedder import Embedder
    from lrsclip_rt.parity import ParityReport

__all__ = ["facts_of_precisions"]

BATCH = 8
ROUNDS = 3


def facts_of_precisions(model: Embedder) -> tuple[PrecisionFacts, ...]:
    """Check and time every precision of the model's bundle that runs here, in the bundle's order.

    The answers are held against the fp32 embeddings of the bundle's probe. Times are of the image tower and
    of one short query, a few rounds: they show what to expect and are no benchmark.

    Args:
        model: Its threads and device are used for all.

    Returns:
        One entry a precision; none where the bundle has no probe to check on.
    """
    from lrsclip_rt.embedder import load
    from lrsclip_rt.model_timing import SHORT_QUERY_TOKENS, probe_parity, time_image_tower, time_text

    models, reports = {}, {}
    for name in model.bundle.precisions:
        try:
            loaded = load(model.bundle, precision=name, device=model.device, threads=model.threads)
            reports[name] = probe_parity(loaded)
        except (BackendError, DependencyError):
            continue
        except BundleError:
            return ()
        models[name] = loaded
    if not models:
        return ()
    images = {row.contender: row for row in time_image_tower(models, batch=BATCH, rounds=ROUNDS)}
    texts = {row.contender: row for row in time_text(models, tokens=SHORT_QUERY_TOKENS, rounds=ROUNDS)}
    return tuple(
        _facts(models[name], reports[name], images[name], texts[name]) for name in models if name in reports
    )


def _facts(model: Embedder, report: ParityReport, image: BenchRow, text: BenchRow) -> PrecisionFacts:
    record = model.bundle.record(model.precision)
    return PrecisionFacts(
        name=model.precision,
        backend=model.backend,
        cosine=None if report.image is None else report.image.mean,
        passed=report.passed,
        images_per_second=image.per_second,
        query_ms=text.p50_ms,
        size_bytes=sum(model.bundle.files[name].bytes for name in record.files),
    )
