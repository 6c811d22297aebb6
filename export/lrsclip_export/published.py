"""Published checkpoints of the family: where they are, and how to fetch one so that nothing is lost.

A download that breaks goes on where it stopped, also in a later run: the part that arrived stays beside
the target, short of its last 10 MiB at most. (``hf_hub_download`` starts over in a new process, so only the
request code of its library is used.)
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lrsclip_rt.errors import DependencyError, DownloadError, InputError
from lrsclip_rt.file_stamps import sha256_of_file

__all__ = ["PUBLISHED", "Download", "PublishedModel", "download", "published_model"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """One published checkpoint.

    Attributes:
        name: What ``lrsclip pull`` calls it.
        repository: Repository on the Hugging Face Hub.
        file: Checkpoint file in it.
        training_data: What it was trained on, as its authors say.
    """

    name: str
    repository: str
    file: str
    training_data: str

    @property
    def licence(self) -> str:
        """Where the terms are stated."""
        return f"Apache-2.0 (code); terms of the weights: https://huggingface.co/{self.repository}"


_DUAL_GRANULARITY = "about 2 million remote-sensing images with a short and a long caption each"
_LONG_CAPTIONS = "ShareGPT4V: about 1 million web images with long captions"

PUBLISHED = (
    PublishedModel(
        "dgtrs-clip-vit-b-16",
        "MitsuiChen14/DGTRS-CLIP-ViT-B-16",
        "DGTRS-CLIP-ViT-B-16.pt",
        _DUAL_GRANULARITY,
    ),
    PublishedModel(
        "dgtrs-clip-vit-l-14",
        "MitsuiChen14/DGTRS-CLIP-ViT-L-14",
        "DGTRS-CLIP-ViT-L-14.pt",
        _DUAL_GRANULARITY,
    ),
    PublishedModel("lrsclip-vit-b-16", "cwz14/LRSCLIP_ViT-B-16", "LRSCLIP_ViT-B-16.pt", _DUAL_GRANULARITY),
    PublishedModel("lrsclip-vit-l-14", "cwz14/LRSCLIP_ViT-L-14", "LRSCLIP_ViT-L-14.pt", _DUAL_GRANULARITY),
    PublishedModel("longclip-b", "BeichenZhang/LongCLIP-B", "longclip-B.pt", _LONG_CAPTIONS),
    PublishedModel("longclip-l", "BeichenZhang/LongCLIP-L", "longclip-L.pt", _LONG_CAPTIONS),
)


@dataclass(frozen=True, slots=True)
class Download:
    """A checkpoint on disk; the same fields lie beside it as ``<file>.json``.

    Attributes:
        name: Published name.
        repository: Repository it came from.
        file: File in it.
        revision: Commit of the repository.
        sha256: Hex SHA-256 of the file.
        bytes: Its size [bytes].
        path: Where it lies.
    """

    name: str
    repository: str
    file: str
    revision: str
    sha256: str
    bytes: int
    path: str


def published_model(name: str) -> PublishedModel:
    """Find a published model by its name or by its file's name, in any case.

    Raises:
        InputError: If there is none of that name.

    Example:
        >>> published_model("LRSCLIP_ViT-B-16.pt").repository
        'cwz14/LRSCLIP_ViT-B-16'
    """
    wanted = name.lower().removesuffix(".pt").replace("_", "-")
    for model in PUBLISHED:
        if wanted == model.name:
            return model
    known = ", ".join(model.name for model in PUBLISHED)
    raise InputError(f"no published model is called {name!r}; known are {known}")


def download(model: PublishedModel, folder: str | Path, *, endpoint: str | None = None) -> Download:
    """Fetch a published checkpoint, or go on with a fetch that broke.

    A file that an earlier call completed is hashed and used without asking the network.

    Args:
        model: What to fetch.
        folder: Where to keep it; made if missing.
        endpoint: Base address of the Hub or of a mirror; by default the library's.

    Raises:
        DownloadError: If it cannot be fetched, arrives damaged, or ``folder`` holds another file of its name.
        DependencyError: If huggingface_hub is not installed.
    """
    folder = Path(folder)
    target = folder / model.file
    if target.exists():
        return _completed_before(model, target)
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise DependencyError.of("huggingface_hub", extra="export") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _fetch(model, target, endpoint)
    except _network_errors() as error:
        if isinstance(error, DownloadError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DownloadError(
            f"{model.repository}/{model.file} could not be fetched ({reason.rstrip('.')[:200]}). Check the "
            "connection and run again, what arrived is kept; or fetch the file elsewhere and use: "
            f"lrsclip export {model.file}"
        ) from error


def _fetch(model: PublishedModel, target: Path, endpoint: str | None) -> Download:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(model.repository, model.file, revision="main", endpoint=endpoint)
    remote = get_hf_file_metadata(url)
    if remote.commit_hash is None or remote.etag is None:
        raise DownloadError(
            f"{url} answers without the commit and the hash of the file; expected the Hugging Face Hub or a "
            "mirror of it. Check HF_ENDPOINT"
        )
    # Named by content: another version of the file never continues this one.
    part = target.with_name(f"{target.name}.{re.sub('[^0-9A-Za-z]', '', remote.etag)[:16]}.part")
    headers = build_hf_headers()
    if urlsplit(remote.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # a token is for the Hub, not for the store it points to
    arrived = part.stat().st_size if part.exists() else 0
    if remote.size is None or arrived < remote.size:
        with part.open("ab") as file:
            http_get(remote.location, file, resume_size=arrived, headers=headers, expected_size=remote.size)
    digest, size = sha256_of_file(part), part.stat().st_size
    expected = remote.etag if _SHA256.fullmatch(remote.etag) else digest
    if digest != expected or size != (remote.size or size):
        part.unlink()
        raise DownloadError(
            f"{model.file} arrived damaged: {size} bytes with SHA-256 {digest[:16]}, expected {remote.size} "
            f"with {expected[:16]}. It was removed; run again"
        )
    done = Download(model.name, model.repository, model.file, remote.commit_hash, digest, size, str(target))
    _record_path(target).write_text(json.dumps(asdict(done), indent=1) + "\n", encoding="utf-8")
    part.replace(target)
    return done


def _completed_before(model: PublishedModel, target: Path) -> Download:
    try:
        recorded: dict[str, Any] = json.loads(_record_path(target).read_text(encoding="utf-8"))
        done = Download(**{**recorded, "path": str(target)})
    except (OSError, ValueError, TypeError):
        raise DownloadError(
            f"{target} exists without a record of where it came from. Use it with: lrsclip export {target}; "
            "or name another --checkpoint-dir"
        ) from None
    digest = sha256_of_file(target)
    if (done.repository, digest) != (model.repository, done.sha256):
        raise DownloadError(
            f"{target} has SHA-256 {digest[:16]}, its record says {done.sha256[:16]} of {done.repository}. "
            "Delete it and run again"
        )
    return done


def _record_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


def _network_errors() -> tuple[type[Exception], ...]:
    """What the Hub's library raises; its HTTP library changed twice and is known only once it is loaded."""
    from huggingface_hub.utils import HfHubHTTPError

    loaded = (sys.modules.get(name) for name in ("httpx2", "httpx"))
    clients = tuple(module.HTTPError for module in loaded if module is not None)
    return (OSError, ValueError, HfHubHTTPError, *clients)
