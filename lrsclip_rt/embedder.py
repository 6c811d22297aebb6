"""Images and texts to unit vectors in one space.

Each tower is loaded when it is first used, so a search loads no image tower. Texts run at the shortest
length that holds them, which changes nothing: the tower is causal and pools at EOT.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.backend_choice import choose
from lrsclip_rt.backends import BACKENDS, Session, open_graph
from lrsclip_rt.bundle import Bundle, ModelSpec
from lrsclip_rt.errors import BackendError, BundleError, ImageError, InputError
from lrsclip_rt.text_batching import RecentRows, TextRow, refuse_blank, text_runs

if TYPE_CHECKING:
    from lrsclip_rt.cuda.batch_ring import DeviceSession
    from lrsclip_rt.cuda.device_images import DeviceImages
    from lrsclip_rt.image_stream import EmbeddedBatch, PixelBatch
    from lrsclip_rt.images import ImageSource, StreamSource
    from lrsclip_rt.raster import Scene
    from lrsclip_rt.tiles import Window
    from lrsclip_rt.tokenizer import TokenBatch, Tokenizer

__all__ = ["Embedder", "load"]

K = TypeVar("K")
_log = logging.getLogger(__name__)

_IMAGES_PER_RUN = 32
_DENSE_IMAGES_PER_RUN = 8


def load(
    bundle: str | Path | Bundle | None = None,
    *,
    backend: str = "auto",
    precision: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    text_cache: int = 256,
) -> Embedder:
    """Open a bundle for embedding; graphs are loaded when first used.

    Args:
        bundle: A bundle folder; default the built-in model.
        backend: ``auto`` or a name; one that is named runs or fails with the reason. ``auto`` takes what was
            measured fastest here (``lrsclip info --measure``), without a measurement ONNX Runtime.
        precision: Default the bundle's own; ``auto`` takes the fastest that passed its gate.
        device: For example ``cpu``; default the backend's choice.
        threads: CPU threads of one run; default the CPUs that this process may use.
        text_cache: Queries whose embeddings are kept, so that the same words cost no second run; those that
            were used longest ago go first. 0 keeps none.

    Raises:
        InputError: If ``threads`` or ``text_cache`` is too small.
        BundleError: If the bundle is broken or lacks the precision.
        BackendError: If nothing here runs it.
        DependencyError: If the inference library is not installed.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    if text_cache < 0:
        raise InputError(f"text_cache must not be negative, got {text_cache}; 0 keeps no texts")
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    choice = choose(opened, backend=backend, precision=precision, device=device, threads=threads)
    return Embedder(
        opened,
        backend=choice.backend,
        precision=choice.precision,
        device=device,
        threads=threads,
        text_cache=text_cache,
    )


class Embedder:
    """A bundle at one precision on one backend; safe to share between threads. Made by ``load``.

    Example:
        >>> model = load()                                                         # doctest: +SKIP
        >>> model.embed_texts(["a harbour with many ships"]).shape                 # doctest: +SKIP
        (1, 512)
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        backend: str,
        precision: str,
        device: str | None,
        threads: int | None,
        text_cache: int = 256,
    ) -> None:
        self.bundle = bundle
        self.backend = backend
        self.precision = precision
        self.device = device
        self.threads = threads
        self.cut_count = 0
        """Texts that had to be cut so far."""
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._images: DeviceImages | None = None
        self._tried_device_images = False
        self._recent = RecentRows(capacity=text_cache)
        self._tokenizer: Tokenizer | None = None

    def __repr__(self) -> str:
        return f"Embedder({self.spec.name!r}, {self.precision} on {self.backend}, D = {self.dim})"

    @property
    def spec(self) -> ModelSpec:
        """What the model is and expects."""
        return self.bundle.spec

    @property
    def identity(self) -> str:
        """Hex SHA-256 of weights and preprocessing; archives record it."""
        return self.bundle.identity

    @property
    def dim(self) -> int:
        """D, the length of every embedding."""
        return self.spec.embed_dim

    @property
    def on_gpu(self) -> bool:
        """Its towers run on a GPU."""
        return "cuda" in BACKENDS[self.backend].devices

    @property
    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer."""
        if self._tokenizer is None:
            from lrsclip_rt.tokenizer import Tokenizer

            self._tokenizer = Tokenizer(self.bundle.vocabulary_path, context_length=self.spec.context_length)
        return self._tokenizer

    @property
    def loaded_towers(self) -> tuple[str, ...]:
        """The graphs that are in memory now."""
        return tuple(sorted(self._sessions))

    def embed_texts(self, texts: str | Sequence[str]) -> NDArray[np.float32]:
        """Embed texts; equal ones are computed once.

        Calls of up to 32 distinct texts count as queries: what was embedded for one before is given again,
        the same numbers in memory of the caller's own (``text_cache`` of ``load``).

        A text beyond the context is cut; how many were is logged as a warning and added to ``cut_count``.

        Args:
            texts: One text or several.

        Returns:
            ``(N, D) float32``, unit rows, C-contiguous, in the order of ``texts``.

        Raises:
            InputError: If a text is empty or only white space; names its index.
        """
        rows = [texts] if isinstance(texts, str) else list(texts)
        refuse_blank(rows)
        distinct = list(dict.fromkeys(rows))
        found = self._recent.recall(distinct)
        fresh = [text for text in distinct if text not in found]
        if fresh:
            batch = self.tokenizer.encode_batch(fresh)
            embedded = zip(fresh, self.embed_tokens(batch), batch.cut.tolist(), strict=True)
            new = {text: TextRow(row, cut) for text, row, cut in embedded}
            self._recent.remember(new)
            found |= new
        self._warn_about_cut(sum(found[text].cut for text in distinct), of=len(distinct))
        result = np.empty((len(rows), self.dim), np.float32)
        for i, text in enumerate(rows):
            result[i] = found[text].embedding
        return result

    def embed_tokens(self, batch: TokenBatch, *, fixed: bool = False) -> NDArray[np.float32]:
        """Embed encoded texts.

        Args:
            batch: From ``tokenizer.encode_batch``.
            fixed: Use the graph of the fixed full length; slower, and equal within 1e-6.

        Returns:
            ``(N, D) float32``, unit rows.
        """
        result = np.empty((len(batch.tokens), self.dim), np.float32)
        for rows in text_runs(batch.eot, full=self.spec.context_length if fixed else None):
            # The exact length rather than the bucket's: this backend takes any.
            length = self.spec.context_length if fixed else max(2, int(batch.eot[rows].max()) + 1)
            tokens = np.ascontiguousarray(batch.tokens[rows, :length], dtype=np.int32)
            feeds = {"tokens": tokens, "eot": np.ascontiguousarray(batch.eot[rows], dtype=np.int32)}
            result[rows] = self._run("text-248" if fixed else "text", feeds, (len(rows), self.dim))
        return result

    def embed_images(
        self, sources: ImageSource | Sequence[ImageSource], *, batch_size: int = 32
    ) -> NDArray[np.float32]:
        """Embed one image or several: paths, bytes, Pillow images or ``(H, W, 3) uint8`` arrays.

        Returns:
            ``(N, D) float32``, unit rows, in the order of ``sources``.

        Raises:
            ImageError: If any cannot be decoded; names the first. ``stream_images`` goes on instead.
        """
        images = _image_list(sources)
        result = np.empty((len(images), self.dim), np.float32)
        failures: list[tuple[int, ImageError]] = []
        for batch in self.stream_images(enumerate(images), batch_size=batch_size):
            failures += batch.failures
            result[batch.keys] = batch.embeddings
        if failures:
            listed = "; ".join(f"[{i}] {error}" for i, error in failures[:3])
            raise ImageError(f"{len(failures)} of {len(images)} images cannot be used: {listed}")
        return result

    def stream_images(
        self, items: Iterable[tuple[K, StreamSource]], *, batch_size: int = 32
    ) -> Iterator[EmbeddedBatch[K]]:
        """Embed any number of images in bounded memory; decoding runs ahead of the model.

        Args:
            items: Pairs of a key and an image, or a function that gives the image and is called in a
                decoding thread; read only as far ahead as decoding is.
            batch_size: Images of one run.

        Yields:
            Batches in the order of ``items``. An image that cannot be decoded is listed in its
            batch's ``failures``, and the rest goes on.

        Raises:
            InputError: If ``batch_size`` is not positive.
        """
        from lrsclip_rt.image_stream import EmbeddedBatch, stream_decoded, stream_pixels

        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        on_device = self._device_images()
        if on_device is not None:
            for decoded in stream_decoded(items, batch_size=batch_size):
                rows = on_device.embed(decoded.images) if decoded.images else self._no_rows()
                self._refuse_not_finite("image", rows)
                yield EmbeddedBatch(keys=decoded.keys, embeddings=rows, failures=decoded.failures)
            return
        begun: deque[tuple[PixelBatch[K], Callable[[], NDArray[np.float32]]]] = deque()

        def finished() -> EmbeddedBatch[K]:
            batch, wait = begun.popleft()
            return EmbeddedBatch(keys=batch.keys, embeddings=wait(), failures=batch.failures)

        for pixels in stream_pixels(items, self.spec.pixel_spec, batch_size=batch_size):
            begun.append((pixels, self.begin_pixels(pixels.pixels)))
            # The threads of a run that ends go on with the next one, so that must have begun.
            while len(begun) > self._runs_ahead("image"):
                yield finished()
        while begun:
            yield finished()

    def embed_windows(
        self,
        scene: Scene,
        windows: Sequence[Window],
        *,
        fill: bool = True,
        batch_size: int = 32,
        progress: Callable[[int, int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Embed windows of a scene, each source row read once; on a GPU also uploaded once and resized there.

        Args:
            scene: An open scene.
            windows: N windows inside it, in any order.
            fill: Whether missing pixels show the scene's mean colour rather than what is stored.
            batch_size: Windows of one run on a CPU; a GPU says itself how much it takes.
            progress: Called with (windows done, windows in all).

        Returns:
            ``(N, D) float32``, unit rows, in the order of ``windows``.

        Raises:
            RasterError: If the scene is damaged.
        """
        from lrsclip_rt.localization.strips import windows_from_strips

        on_device = self._device_images() if len(windows) else None
        if on_device is not None:
            rows = on_device.embed_windows(scene, windows, fill=fill, progress=progress)
            self._refuse_not_finite("image", rows)
            return rows
        rows, done = np.empty((len(windows), self.dim), np.float32), 0
        cuts = windows_from_strips(scene, windows, fill=fill)
        for batch in self.stream_images(cuts, batch_size=batch_size):
            for _, error in batch.failures:
                raise error
            rows[batch.keys] = batch.embeddings
            done += len(batch.keys)
            if progress is not None:
                progress(done, len(windows))
        return rows

    def embed_pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed preprocessed images.

        Args:
            pixels: ``(N, 3, S, S) float32``, normalised.

        Returns:
            ``(N, D) float32``, unit rows.

        Raises:
            InputError: If the shape is another.
        """
        return self.begin_pixels(pixels)()

    def begin_pixels(self, pixels: NDArray[np.float32]) -> Callable[[], NDArray[np.float32]]:
        """Start ``embed_pixels``, where the backend can, and go on.

        Args:
            pixels: As there; unchanged until the rows are there.

        Returns:
            What waits for the rows and gives them.

        Raises:
            InputError: If the shape is another.
        """
        return self._begin_pixels("image", pixels, (self.dim,), _IMAGES_PER_RUN)

    def dense_pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed every patch of preprocessed images.

        Args:
            pixels: ``(N, 3, S, S) float32``, normalised.

        Returns:
            ``(N, P, D) float32``, unit rows, patches row-major over ``spec.patch_grid``.

        Raises:
            InputError: If the shape is another.
        """
        shape = (self.spec.patch_count, self.dim)
        return self._begin_pixels("dense", pixels, shape, _DENSE_IMAGES_PER_RUN)()

    def _begin_pixels(
        self, tower: str, pixels: NDArray[np.float32], row_shape: tuple[int, ...], run_size: int
    ) -> Callable[[], NDArray[np.float32]]:
        """Start a run where the backend can; what it returns waits for the rows."""
        size = self.spec.image_size
        if pixels.ndim != 4 or pixels.shape[1:] != (3, size, size):
            raise InputError(f"pixels have the shape {pixels.shape}, expected (N, 3, {size}, {size})")
        begun: list[Callable[[], NDArray[np.float32]]] = []
        if len(pixels):
            session = self._session(tower, batches=len(pixels) > 1)
            # A device says itself how much it takes at once.
            run_size = getattr(session, "rows_per_run", run_size)
            for start in range(0, len(pixels), run_size):
                part = np.ascontiguousarray(pixels[start : start + run_size], session.inputs["pixels"].dtype)
                begun.append(self._begin(tower, {"pixels": part}, (len(part), *row_shape)))
        return lambda: np.concatenate([np.empty((0, *row_shape), np.float32), *(wait() for wait in begun)])

    def _runs_ahead(self, tower: str) -> int:
        """Runs that have begun before the first of them is waited for."""
        return int(hasattr(self._sessions.get(tower), "begin"))

    def _begin(
        self, tower: str, feeds: dict[str, NDArray[Any]], shape: tuple[int, ...]
    ) -> Callable[[], NDArray[np.float32]]:
        session = self._session(tower)
        begin = getattr(session, "begin", None)
        if begin is None:
            rows = self._checked(tower, session.run(feeds), shape)
            return lambda: rows
        wait = begin(feeds)
        return lambda: self._checked(tower, wait(), shape)

    def _run(self, tower: str, feeds: dict[str, NDArray[Any]], shape: tuple[int, ...]) -> NDArray[np.float32]:
        return self._begin(tower, feeds, shape)()

    def _checked(self, tower: str, rows: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
        if rows.shape != shape:
            raise BundleError(f"{self._graph_name(tower)} gave the shape {rows.shape}, expected {shape}")
        self._refuse_not_finite(tower, rows)
        return rows

    def _refuse_not_finite(self, tower: str, rows: NDArray[np.float32]) -> None:
        if not np.isfinite(rows).all():
            raise BackendError(
                f"{self._graph_name(tower)} gave values that are not finite on {self.backend}. "
                f"Check the bundle: lrsclip check {self.bundle.path}"
            )

    def _no_rows(self) -> NDArray[np.float32]:
        return np.empty((0, self.dim), np.float32)

    def _device_images(self) -> DeviceImages | None:
        """Preprocessing on the device, where the image tower runs on one and the kernels can be had.

        Pixels are the same bytes either way; that they are made on the CPU instead is worth a warning.
        """
        if not self.on_gpu:
            return None
        self._session("image")
        with self._lock:
            if not self._tried_device_images:
                self._tried_device_images = True
                from lrsclip_rt.cuda.device_images import DeviceImages

                session = self._sessions["image"]
                try:
                    self._images = DeviceImages(
                        cast("DeviceSession", session), self.spec.pixel_spec, session.inputs["pixels"].dtype
                    )
                except BackendError as error:
                    _log.warning("images are resized on the CPU, to the same bytes: %s", error)
            return self._images

    def _session(self, tower: str, *, batches: bool = False) -> Session:
        with self._lock:
            if tower not in self._sessions:
                path = self.bundle.graph_path(tower, self.precision)
                session = open_graph(
                    path,
                    backend=self.backend,
                    precision=self.precision,
                    device=self.device,
                    threads=self.threads,
                    content=self.bundle.content(self.precision),
                    batches=batches,
                )
                _check_inputs(path, session, tower, self.spec)
                self._sessions[tower] = session
            return self._sessions[tower]

    def _graph_name(self, tower: str) -> str:
        return self.bundle.graph_path(tower, self.precision).name

    def _warn_about_cut(self, cut: int, *, of: int) -> None:
        if cut:
            with self._lock:
                self.cut_count += cut
            _log.warning("%d of %d texts were cut at %d tokens", cut, of, self.spec.context_length)


def _image_list(sources: ImageSource | Sequence[ImageSource]) -> list[ImageSource]:
    """A lone image as a list of one: a path is a sequence of characters, and an array one of rows."""
    lone_array = isinstance(sources, np.ndarray) and sources.ndim < 4
    if lone_array or isinstance(sources, (str, bytes, bytearray, os.PathLike)) or hasattr(sources, "convert"):
        return [cast("ImageSource", sources)]
    return list(cast("Sequence[ImageSource]", sources))


def _check_inputs(path: Path, session: Session, tower: str, spec: ModelSpec) -> None:
    """The graph takes what the bundle's contract says.

    Raises:
        BundleError: If not.
    """
    size = spec.image_size
    expected: dict[str, tuple[int | None, ...]]
    if tower in ("image", "dense"):
        expected = {"pixels": (None, 3, size, size)}
    else:
        expected = {"tokens": (None, spec.context_length if tower == "text-248" else None), "eot": (None,)}
    found = {name: info.shape for name, info in session.inputs.items()}
    if found != expected:
        raise BundleError(f"{path} takes {found}, expected {expected}. Export the bundle again")
