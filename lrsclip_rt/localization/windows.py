"""The windows of the published semantic-localization protocol (SeLo, arXiv 2209.06515)."""

from __future__ import annotations

from collections.abc import Sequence

from lrsclip_rt.errors import InputError
from lrsclip_rt.tiles import Window

__all__ = ["SELO_INPUT_SIZE", "SELO_STEPS", "selo_windows", "usable_steps"]

SELO_STEPS = (256, 512, 768)
"""Window edges of the protocol [px]."""

SELO_INPUT_SIZE = 256
"""Every window is resized to a square of this edge [px] before the model's own preprocessing."""


def usable_steps(height: int, width: int, steps: Sequence[int] = SELO_STEPS) -> tuple[int, ...]:
    """Steps that fit into the scene's shorter side; the others are dropped.

    Raises:
        InputError: If a length is not positive or a step is below 2.

    Example:
        >>> usable_steps(600, 4000)
        (256, 512)
    """
    if height < 1 or width < 1:
        raise InputError(f"a scene needs at least one pixel, got {height} x {width}")
    if not steps or min(steps) < 2:
        raise InputError(f"got the steps {tuple(steps)}; expected at least one, each of 2 px or more")
    return tuple(step for step in steps if step <= min(height, width))


def selo_windows(height: int, width: int, steps: Sequence[int] = SELO_STEPS) -> list[Window]:
    """Cover a scene as the protocol does.

    For each step there are two grids, both with stride = step: one from offset 0, one from offset
    step / 2 on both axes together. A window that would leave the scene is shifted back to end at its
    edge; windows that coincide count once. A scene smaller than every step is one window.

    Args:
        height: Scene height [px].
        width: Scene width [px].
        steps: Window edges [px].

    Returns:
        Distinct windows: by step, then grid, then row-major.

    Raises:
        InputError: As ``usable_steps``.

    Example:
        >>> len(selo_windows(10001, 10000))
        4283
    """
    usable = usable_steps(height, width, steps)
    if not usable:
        return [Window(0, 0, width, height)]
    windows: dict[Window, None] = {}  # keeps the order, drops repeats
    for step in usable:
        for offset in (0, step // 2):
            cols = _starts(width, step, offset)
            for row_off in _starts(height, step, offset):
                windows.update((Window(col_off, row_off, step, step), None) for col_off in cols)
    return list(windows)


def _starts(length: int, step: int, offset: int) -> list[int]:
    return [min(start, length - step) for start in range(offset, length, step)]
