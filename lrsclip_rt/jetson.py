"""What a Jetson says of itself: board, release and power mode, from files alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Jetson", "jetson_from_files"]

_MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)")


@dataclass(frozen=True, slots=True)
class Jetson:
    """A board.

    Attributes:
        board: As its device tree names it.
        release: Of L4T, as in ``R36.4.0``; empty where it cannot be read.
        power_mode: Its name, as ``nvpmodel`` gives it; empty where it cannot be read.
    """

    board: str
    release: str
    power_mode: str


def jetson_from_files(root: Path = Path("/")) -> Jetson | None:
    """The board, or None where this is none.

    Args:
        root: Of the file system.
    """
    board = _text(root / "proc/device-tree/model").strip("\0 \n")
    release = re.search(r"# (R\d+) \(release\), REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release"))
    if release is None and not re.search(r"jetson|tegra", board, re.IGNORECASE):
        return None
    return Jetson(board, f"{release[1]}.{release[2]}" if release else "", _power_mode(root))


def _power_mode(root: Path) -> str:
    """The name of the number that is set; both lie in files, so that no root is needed."""
    number = re.search(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status"))
    if number is None:
        return ""
    names: dict[str, str] = dict(_MODE.findall(_text(root / "etc/nvpmodel.conf")))
    return names.get(str(int(number[1])), f"mode {int(number[1])}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
