"""A parser with every defect that a run has to notice, each behind a first byte."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from random import Random

from fuzz.harness import Harness
from lrsclip_rt.errors import InputError

__all__ = ["PlantedHarness"]

_LEAK_BYTES = 1 << 20


class PlantedHarness(Harness):
    """Crashes, hangs, raises what has no name, keeps memory; or does none of it."""

    name = "planted"
    case_seconds = 0.5

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._kept: list[bytes] = []
        self.seeds = [b"s"]

    def case(self, rng: Random) -> bytes:
        """One letter."""
        return rng.choice((b"sound", b"refused", *self.seeds))

    def feed(self, data: bytes) -> None:
        """Do what the letter says."""
        if data == b"crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        while data == b"hang":
            pass
        if data == b"unnamed":
            raise KeyError("nobody named this")
        if data == b"silent":
            raise InputError
        if data == b"leak":
            self._kept.append(os.urandom(_LEAK_BYTES))
        if data == b"refused":
            raise InputError("found this, expected that; do so")


class Crashing(PlantedHarness):
    """Crashes at times."""

    def case(self, rng: Random) -> bytes:
        """Once in twenty."""
        return rng.choice((*[b"sound"] * 19, b"crash"))


class Hanging(PlantedHarness):
    """Hangs at times."""

    def case(self, rng: Random) -> bytes:
        """Once in forty."""
        return rng.choice((*[b"sound"] * 39, b"hang"))


class Unnamed(PlantedHarness):
    """Raises a KeyError, and an error that says nothing."""

    def case(self, rng: Random) -> bytes:
        """Each at times."""
        return rng.choice((b"sound", b"unnamed", b"silent", b"refused"))


class Leaking(PlantedHarness):
    """Keeps a mebibyte of every case."""

    def case(self, rng: Random) -> bytes:
        """Every time."""
        return b"leak"
