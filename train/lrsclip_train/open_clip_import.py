"""Importing open_clip where torch and torchvision do not belong together."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

import torch

from lrsclip_rt.errors import DependencyError

__all__ = ["import_open_clip"]

_SCHEMAS = ("nms", "qnms")
# Keeps the registration alive as long as the process.
_registered: list[torch.library.Library] = []


def import_open_clip() -> ModuleType:
    """Import open_clip, also where torchvision's compiled operators cannot be loaded.

    A CPU-only torch beside a CUDA torchvision cannot load them, and torchvision then fails on the two
    operators it wants to annotate. open_clip needs only its transforms, so declaring the two is enough.

    Raises:
        DependencyError: If open_clip is not installed.
    """
    if importlib.util.find_spec("open_clip") is None:
        raise DependencyError.of("open_clip_torch", extra="train")
    try:
        return importlib.import_module("open_clip")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error) or _registered:
            raise
    for name in [name for name in sys.modules if name.split(".")[0] in ("open_clip", "torchvision")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in _SCHEMAS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    _registered.append(library)
    return importlib.import_module("open_clip")
