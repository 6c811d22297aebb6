"""Time every backend and precision that a bundle can run here, so that ``auto`` need not guess.

Nothing is timed before its answers were held against fp32 on the bundle's own probe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from statistics import median

import numpy as np

from lrsclip_rt.backend_choice import Choice, Measurement, Timing, candidates
from lrsclip_rt.benchmarking import interleaved_seconds
from lrsclip_rt.bundle import PROBE_FILE, Bundle
from lrsclip_rt.embedder import Embedder, load
from lrsclip_rt.errors import BackendError, LrsclipError, ParityError
from lrsclip_rt.model_timing import SHORT_QUERY_TOKENS, probe_parity, query_of_tokens

__all__ = ["Timer", "contenders", "measure"]

Timer = Callable[[Mapping[str, Callable[[int], object]]], Mapping[str, Sequence[float]]]
"""Runs the contenders in turn and returns their times [s] by name, as ``interleaved_seconds`` does."""

_IMAGES = 4
_time_images: Timer = partial(interleaved_seconds, rounds=5)
# A query takes about a millisecond, in which the threads of the contender before still spin.
_time_texts: Timer = partial(interleaved_seconds, rounds=5, repeats=3, settle_s=0.01)


def measure(
    bundle: Bundle,
    *,
    threads: int | None = None,
    time_images: Timer = _time_images,
    time_texts: Timer = _time_texts,
    advance: Callable[[int], None] = lambda n: None,
) -> Measurement:
    """Time four images and a short query on every contender in turn.

    Args:
        bundle: The model.
        threads: CPU threads of one run.
        time_images: Times runs of the image tower.
        time_texts: Times runs of the text tower.
        advance: Called with 1 for each contender that was loaded.

    Returns:
        A row for each of ``contenders``; one that cannot run here, or whose answers are not fp32's, has the
        reason in place of times.
    """
    at = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    models: dict[str, Embedder] = {}
    reasons: dict[str, str] = {}
    choices = contenders(bundle)
    for choice in choices:
        try:
            models[_name(choice)] = _checked_model(bundle, choice, threads)
        except LrsclipError as error:
            reasons[_name(choice)] = str(error)
        advance(1)
    image_ms: Mapping[str, float] = {}
    if models and all(_has_images(model) for model in models.values()):
        image_ms = _medians({name: _image_run(model) for name, model in models.items()}, time_images, _IMAGES)
    text_ms = _medians({name: _text_run(model) for name, model in models.items()}, time_texts, 1)
    rows = (
        Timing(
            choice.backend,
            choice.precision,
            image_ms.get(_name(choice)),
            text_ms.get(_name(choice)),
            reasons.get(_name(choice)),
        )
        for choice in choices
    )
    return Measurement(at, tuple(rows))


def contenders(bundle: Bundle) -> list[Choice]:
    """What an ``auto`` may have to decide between: the backends of a precision, and all that passed.

    Empty where nothing has a rival: then there is nothing to measure.
    """
    found: list[Choice] = []
    for precision in ("auto", *bundle.precisions):
        try:
            choices = candidates(bundle, precision=precision)
        except BackendError:  # nothing passed its gate
            continue
        if len(choices) > 1:
            found += [choice for choice in choices if choice not in found]
    return found


def _checked_model(bundle: Bundle, choice: Choice, threads: int | None) -> Embedder:
    """Load a contender and hold its answers against the probe's, which loads both towers.

    Raises:
        BackendError: If it cannot run here.
        DependencyError: If its library is not installed.
        ParityError: If its answers are below the gate.
    """
    model = load(bundle, backend=choice.backend, precision=choice.precision, threads=threads)
    if PROBE_FILE in bundle.files and _has_images(model) and not probe_parity(model).passed:
        raise ParityError(f"{_name(choice)} fell below its gate on the probe, so it was not timed")
    return model


def _has_images(model: Embedder) -> bool:
    return "image" in model.bundle.towers(model.precision)


def _image_run(model: Embedder) -> Callable[[int], object]:
    size = model.spec.image_size
    pixels = np.random.default_rng(0).standard_normal((_IMAGES, 3, size, size), dtype=np.float32)
    return lambda _: model.embed_pixels(pixels)


def _text_run(model: Embedder) -> Callable[[int], object]:
    # Not embed_texts: the model remembers recent queries, and a second round would time its memory.
    batch = model.tokenizer.encode_batch([query_of_tokens(model.tokenizer, SHORT_QUERY_TOKENS, seed=0)])
    return lambda _: model.embed_tokens(batch)


def _medians(runs: Mapping[str, Callable[[int], object]], timer: Timer, items: int) -> dict[str, float]:
    """Median time of one item [ms] by name."""
    return {name: 1000 * median(seconds) / items for name, seconds in timer(runs).items()}


def _name(choice: Choice) -> str:
    return f"{choice.precision} on {choice.backend}"
