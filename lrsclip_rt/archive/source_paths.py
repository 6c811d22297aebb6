"""Which sources a path means: whole, below its root, as the shell knows it, or by a shell pattern."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

__all__ = ["SourcePaths"]


class SourcePaths:
    """Paths or shell patterns that somebody gave.

    Archives hold absolute paths without links, so a path is also tried as the working folder has it.

    Args:
        patterns: Paths, whole, relative to their root or to the working folder, or shell patterns of these.

    Example:
        >>> SourcePaths(["port/*.tif"]).match("/data", "port/scene.tif")
        True
        >>> SourcePaths(["/data/lists/../port/scene.tif"]).match("/data", "port/scene.tif")
        True
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        given = list(patterns)
        self._below_root = given
        self._whole = [*given, *(os.path.realpath(pattern) for pattern in given)]

    def match(self, root: str, path: str) -> bool:
        """Whether the source at ``path`` below ``root`` is meant."""
        return _matches(path, self._below_root) or _matches(str(Path(root) / path), self._whole)


def _matches(name: str, patterns: list[str]) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)
