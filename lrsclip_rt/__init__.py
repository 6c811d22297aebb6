"""Remote-sensing CLIP with 248-token text: embed, search an archive, localize in a scene.

    import lrsclip_rt as lrs
    model = lrs.load()
    model.embed_texts(["a harbour with many ships"])

Names are resolved when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrsclip_rt import errors
    from lrsclip_rt.archive import Archive, Hit, Hits, Where
    from lrsclip_rt.bundle import Bundle
    from lrsclip_rt.embedder import Embedder, load
    from lrsclip_rt.localization import Heatmap, Region, localize
    from lrsclip_rt.tokenizer import Tokenizer

    __version__: str

__all__ = [
    "Archive",
    "Bundle",
    "Embedder",
    "Heatmap",
    "Hit",
    "Hits",
    "Region",
    "Tokenizer",
    "Where",
    "__version__",
    "errors",
    "load",
    "localize",
]

_HOMES = {
    "Archive": "archive",
    "Bundle": "bundle",
    "Embedder": "embedder",
    "Heatmap": "localization",
    "Hit": "archive",
    "Hits": "archive",
    "Region": "localization",
    "Tokenizer": "tokenizer",
    "Where": "archive",
    "load": "embedder",
    "localize": "localization",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        # Importing a submodule binds it to the package, so this is asked once.
        return import_module("lrsclip_rt.errors")
    if name == "__version__":
        value = _version()
    elif name in _HOMES:
        value = getattr(import_module(f"lrsclip_rt.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module 'lrsclip_rt' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lrsclip-rt")
    except PackageNotFoundError:  # a checkout that was never installed
        return "0+unknown"
