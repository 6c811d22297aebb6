"""The peak of resident memory of a process of its own, for scripts that tests hand to ``python -c``."""

from __future__ import annotations

__all__ = ["PEAK_KIB"]

# Not getrusage: its peak counts, through fork and exec, what the parent had in memory.
PEAK_KIB = """
def peak_kib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
"""
