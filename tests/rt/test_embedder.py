from __future__ import annotations

import gc
import io
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import lrsclip_rt as lrs
from lrsclip_rt.backends import BACKENDS, choose_backend, open_graph, why_not
from lrsclip_rt.cpu import available_cpus
from lrsclip_rt.embedder import Embedder, load
from lrsclip_rt.errors import BackendError, BundleError, DependencyError, ImageError, InputError
from lrsclip_rt.image_stream import stream_pixels
from lrsclip_rt.pixels import pixels_from_array
from lrsclip_rt.text_batching import RecentRows, TextRow, text_runs

TEXTS = ["a harbour", "an airport with many planes beside a long building", "a river", "farmland " * 60]


@pytest.fixture
def model(made_bundle: Path) -> Embedder:
    return load(made_bundle)


@pytest.fixture
def pictures() -> list[NDArray[np.uint8]]:
    """Plain colours of mixed sizes, in random order: resizing keeps the colour, so NumPy knows the answer."""
    rng = np.random.default_rng(3)
    sizes = [(32, 32), (100, 40), (33, 257), (8, 8), (1, 1), (64, 64), (500, 300)] * 10
    return [np.full((h, w, 3), rng.integers(0, 256, 3), np.uint8) for h, w in sizes]


def expected_rows(pictures: list[NDArray[np.uint8]], handmade: ModuleType) -> NDArray[np.float32]:
    colours = np.stack([picture[0, 0] for picture in pictures]).astype(np.float32)
    pixels = (colours / 255 - 0.5) / 0.25
    weights = handmade.Weights.seeded()
    return handmade.unit(pixels @ weights.image + weights.bias)


# Texts


def test_texts_are_unit_rows_in_the_order_given(model: Embedder, handmade: ModuleType) -> None:
    rows = model.embed_texts(TEXTS)
    batch = model.tokenizer.encode_batch(TEXTS)
    np.testing.assert_allclose(
        rows, handmade.texts_by_numpy(batch.tokens, batch.eot, handmade.Weights.seeded()), atol=1e-6
    )
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    reversed_rows = load(model.bundle).embed_texts(TEXTS[::-1])
    np.testing.assert_allclose(reversed_rows[::-1], rows, atol=1e-6)


def test_one_text_gives_one_row_and_none_gives_none(model: Embedder) -> None:
    assert model.embed_texts("a harbour").shape == (1, model.dim)
    assert model.embed_texts([]).shape == (0, model.dim)


def test_trimming_changes_nothing_above_a_millionth(tiny_bundle: Path) -> None:
    model = load(tiny_bundle, precision="fp32", threads=1)
    texts = ["ship"] + [" ".join(["large white ships"] * n) for n in (1, 2, 4, 8, 20, 40, 60, 82, 120)]
    batch = model.tokenizer.encode_batch(texts)
    short, fixed = model.embed_tokens(batch), model.embed_tokens(batch, fixed=True)
    assert model.loaded_towers == ("text", "text-248")
    assert np.abs(short - fixed).max() <= 1e-6
    assert np.abs(short[:1] - short[1:]).max() > 0.01
    alone = np.concatenate([load(model.bundle, threads=1).embed_texts(text) for text in texts])
    assert np.abs(alone - short).max() <= 1e-6


def test_many_texts_of_all_lengths_come_back_in_order(model: Embedder, handmade: ModuleType) -> None:
    rng = np.random.default_rng(0)
    words = "ship port tree field road house river tank plane beach".split()
    texts = [" ".join(rng.choice(words, n)) for n in rng.integers(1, 300, 400)]
    batch = model.tokenizer.encode_batch(texts)
    expected = handmade.texts_by_numpy(batch.tokens, batch.eot, handmade.Weights.seeded())
    np.testing.assert_allclose(model.embed_texts(texts), expected, atol=2e-6)


def test_runs_of_texts_cover_each_row_once_within_the_budget() -> None:
    eot = np.random.default_rng(1).integers(1, 248, 3000).astype(np.int32)
    for full in (None, 248):
        runs = list(text_runs(eot, full=full))
        assert sorted(np.concatenate(runs).tolist()) == list(range(3000))
        for rows in runs:
            length = full or int(eot[rows].max()) + 1
            assert len(rows) * length <= 4096
            assert full or length <= 8 or int(eot[rows].min()) + 1 > length // 2
    assert list(text_runs(np.empty(0, np.int32), full=None)) == []
    assert [r.tolist() for r in text_runs(np.array([300, 5000], np.int32), full=None)] == [[0], [1]]


def test_equal_texts_run_once(model: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = Embedder.embed_tokens

    def spy(self: Embedder, batch: object, **options: bool) -> NDArray[np.float32]:
        seen.append(len(batch))  # type: ignore[arg-type]
        return real(self, batch, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Embedder, "embed_tokens", spy)
    rows = model.embed_texts(["a", "b", "a", "a"])
    assert seen == [2]
    assert (rows[0] == rows[2]).all()
    assert (rows[0] == rows[3]).all()
    assert not (rows[0] == rows[1]).all()


def test_a_repeated_query_is_not_run_again_and_its_row_is_the_callers_own(
    model: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = model.embed_texts(["a harbour", "a river"])
    kept = first.copy()
    first[:] = 0
    mixed = model.embed_texts(["a tree", "a river", "a field"])
    np.testing.assert_array_equal(mixed[1], kept[1])
    mixed[:] = 0
    monkeypatch.setattr(Embedder, "embed_tokens", lambda *a, **k: pytest.fail("ran again"))
    np.testing.assert_array_equal(model.embed_texts(["a river", "a harbour"]), kept[::-1])


def test_short_long_and_cut_texts_keep_their_order_whichever_are_remembered(
    model: Embedder, handmade: ModuleType
) -> None:
    kinds = [f"{word} {end}" for word in ("ship", "port", "tree") for end in ("", "x " * 90, "x " * 300)]
    batch = model.tokenizer.encode_batch(kinds)
    assert batch.cut.tolist() == [False, False, True] * 3
    expected = handmade.texts_by_numpy(batch.tokens, batch.eot, handmade.Weights.seeded())
    for remembered in ([0, 4, 8], [1, 2, 3], [], list(range(9))):
        other = load(model.bundle, threads=1)
        before = other.embed_texts([kinds[i] for i in remembered])
        rows = other.embed_texts(kinds[::-1])[::-1]
        np.testing.assert_array_equal(rows[remembered], before)
        np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_without_a_text_cache_every_call_runs(model: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    real = Embedder.embed_tokens
    monkeypatch.setattr(
        Embedder, "embed_tokens", lambda self, batch: runs.append(len(batch)) or real(self, batch)
    )
    none, one = load(model.bundle, text_cache=0), load(model.bundle, text_cache=1)
    rows = [
        each.embed_texts(text) for each in (none, one) for text in ("a ship", "a ship", "a port", "a ship")
    ]
    assert runs == [1] * 4 + [1] * 3
    assert all((row == rows[0]).all() for row in rows[1:2] + rows[3:6] + rows[7:])
    with pytest.raises(InputError, match="text_cache must not be negative, got -1; 0 keeps no texts"):
        load(model.bundle, text_cache=-1)


def text_row(value: float = 0.0) -> TextRow:
    return TextRow(np.full(2, value, np.float32), cut=False)


def test_remembered_rows_are_few_and_the_oldest_go_first() -> None:
    recent = RecentRows(capacity=3, largest_call=2)
    for text in "abc":
        recent.remember({text: text_row()})
    recent.recall(["a"])
    recent.remember({"d": text_row(1.0)})
    assert set(recent.recall(["a", "b"])) == {"a"}
    assert len(recent) == 3
    recent.remember({text: text_row() for text in "xyz"})
    assert recent.recall(["x"]) == {}


def test_remembered_rows_are_copies_and_huge_texts_are_not_kept() -> None:
    recent, row = RecentRows(), text_row(1.0)
    recent.remember({"a": row, "b" * 10_000: row, "c" * 10_001: row})
    row.embedding[:] = 0
    assert len(recent) == 2
    assert recent.recall(["a"])["a"].embedding.tolist() == [1, 1]
    assert recent.recall(["c" * 10_001]) == {}


def test_threads_may_share_what_is_remembered() -> None:
    recent = RecentRows(capacity=5)
    wrong: list[str] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(300):
            numbers = rng.choice(12, 4, replace=False).tolist()
            found = recent.recall([str(number) for number in numbers])
            wrong.extend(text for text, row in found.items() if row.embedding[0] != int(text))
            recent.remember({str(number): text_row(number) for number in numbers})

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(recent) == 5


@pytest.mark.parametrize("blank", ["", " ", "\n\t", "\u3000\u00a0"])
def test_an_empty_text_is_refused_with_its_index(model: Embedder, blank: str) -> None:
    with pytest.raises(InputError, match=r"texts\[1\] is empty"):
        model.embed_texts(["a ship", blank])
    with pytest.raises(InputError, match=r"texts\[0\] is int"):
        model.embed_texts([5])  # type: ignore[list-item]


def test_cut_texts_are_counted_and_warned_about_each_time_and_run_once(
    model: Embedder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "a very long description " * 100
    with caplog.at_level(logging.WARNING, "lrsclip_rt"):
        rows = model.embed_texts(["a ship", long, "a port", long + "!", "a tree"])
        monkeypatch.setattr(Embedder, "embed_tokens", lambda *a, **k: pytest.fail("ran again"))
        np.testing.assert_array_equal(model.embed_texts([long]), rows[1:2])
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 5 texts were cut at 248 tokens",
        "1 of 1 texts were cut at 248 tokens",
    ]
    assert model.cut_count == 3


# Images


def test_images_of_all_kinds_share_one_space(model: Embedder, handmade: ModuleType, tmp_path: Path) -> None:
    array = np.full((40, 50, 3), (200, 30, 90), np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(array).save(path)
    sources = [array, Image.fromarray(array), path, str(path), path.read_bytes()]
    rows = model.embed_images(sources)
    np.testing.assert_allclose(rows, np.repeat(expected_rows([array], handmade), 5, axis=0), atol=1e-6)
    for source in sources:
        np.testing.assert_array_equal(model.embed_images(source), rows[:1])
    assert model.embed_images([]).shape == (0, model.dim)


@pytest.mark.parametrize("batch_size", [1, 7, 32, 1000])
def test_a_stream_keeps_the_order_whatever_the_batch(
    model: Embedder, handmade: ModuleType, pictures: list[NDArray[np.uint8]], batch_size: int
) -> None:
    batches = list(model.stream_images(((f"k{i}", p) for i, p in enumerate(pictures)), batch_size=batch_size))
    assert [key for batch in batches for key in batch.keys] == [f"k{i}" for i in range(len(pictures))]
    rows = np.concatenate([batch.embeddings for batch in batches])
    np.testing.assert_allclose(rows, expected_rows(pictures, handmade), atol=1e-5)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert not any(batch.failures for batch in batches)


def test_failures_are_listed_and_the_rest_goes_on(
    model: Embedder, handmade: ModuleType, pictures: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    items: list[tuple[int, object]] = list(enumerate(pictures))
    bad = {3: tmp_path / "broken.jpg", 4: tmp_path / "absent.jpg", 69: b"", 40: np.zeros((4, 4), np.float64)}
    for i, source in bad.items():
        items[i] = (i, source)
    batches = list(model.stream_images(items, batch_size=8))
    failed = {key: error for batch in batches for key, error in batch.failures}
    assert set(failed) == set(bad)
    assert all(isinstance(error, ImageError) for error in failed.values())
    assert "absent.jpg" in str(failed[4])
    keys = [key for batch in batches for key in batch.keys]
    assert keys == [i for i in range(len(pictures)) if i not in bad]
    expected = expected_rows(pictures, handmade)[keys]
    np.testing.assert_allclose(np.concatenate([b.embeddings for b in batches]), expected, atol=1e-5)


def test_an_image_may_be_made_where_it_is_decoded(model: Embedder, pictures: list[NDArray[np.uint8]]) -> None:
    names: list[str] = []

    def made(index: int) -> NDArray[np.uint8]:
        names.append(threading.current_thread().name)
        if index == 5:
            raise ImageError("no such picture")
        return pictures[index]

    (batch,) = model.stream_images(((i, partial(made, i)) for i in range(9)), batch_size=9)
    assert batch.keys == [0, 1, 2, 3, 4, 6, 7, 8]
    assert [(key, str(error)) for key, error in batch.failures] == [(5, "no such picture")]
    np.testing.assert_array_equal(batch.embeddings, model.embed_images([pictures[i] for i in batch.keys]))
    assert all(name.startswith("lrsclip-decode") for name in names)


def test_a_batch_may_be_larger_than_the_memory_taken_at_once(
    model: Embedder, pictures: list[NDArray[np.uint8]]
) -> None:
    spec = model.spec.pixel_spec
    bad = {0, 255, 256, 511, 599}
    items = [(i, b"" if i in bad else pictures[i % len(pictures)]) for i in range(600)]
    expected = [pixels_from_array(picture, spec) for picture in pictures]
    batches = list(stream_pixels(items, spec, batch_size=520))
    assert [len(batch.keys) + len(batch.failures) for batch in batches] == [520, 80]
    assert [key for batch in batches for key, _ in batch.failures] == sorted(bad)
    for batch in batches:
        assert len(batch.pixels) == len(batch.keys)
        for key, row in zip(batch.keys, batch.pixels, strict=True):
            np.testing.assert_array_equal(row, expected[key % len(pictures)])


def test_embed_images_names_the_first_that_fail(model: Embedder, pictures: list[NDArray[np.uint8]]) -> None:
    with pytest.raises(ImageError, match=r"2 of 4 images cannot be used: \[1\] .*; \[3\] "):
        model.embed_images([pictures[0], b"x", pictures[1], "/absent.jpg"])


def test_a_stream_of_failures_alone_gives_batches_of_them(model: Embedder) -> None:
    batches = list(model.stream_images(((i, b"") for i in range(20)), batch_size=8))
    assert [len(batch.failures) for batch in batches] == [8, 8, 4]
    assert all(batch.embeddings.shape == (0, model.dim) for batch in batches)
    assert "image" not in model.loaded_towers


def decoder_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("lrsclip-decode")]


def test_reading_ahead_is_bounded_and_lazy(pictures: list[NDArray[np.uint8]], model: Embedder) -> None:
    taken: list[int] = []

    def endless() -> Iterator[tuple[int, NDArray[np.uint8]]]:
        i = 0
        while True:
            taken.append(i)
            yield i, pictures[i % len(pictures)]
            i += 1

    stream = stream_pixels(endless(), model.spec.pixel_spec, batch_size=4, decoders=2)
    assert taken == []
    assert next(stream).keys == [0, 1, 2, 3]
    assert len(taken) <= 4 + 4 + 2 * 2
    next(stream)
    assert len(taken) <= 4 + 8 + 2 * 2
    stream.close()  # type: ignore[attr-defined]
    assert decoder_threads() == []


def test_one_more_batch_has_begun_when_one_is_handed_out(
    pictures: list[NDArray[np.uint8]], model: Embedder
) -> None:
    taken: list[int] = []

    def endless() -> Iterator[tuple[int, NDArray[np.uint8]]]:
        while True:
            taken.append(len(taken))
            yield taken[-1], pictures[taken[-1] % len(pictures)]

    alone = model.embed_images(pictures)
    stream = model.stream_images(endless(), batch_size=4)
    ahead = 4 + 2 * min(8, available_cpus())
    for number in range(5):
        batch = next(stream)
        assert batch.keys == [4 * number + i for i in range(4)]
        np.testing.assert_array_equal(batch.embeddings, alone[[key % len(pictures) for key in batch.keys]])
        assert len(taken) <= 4 * (number + 2) + ahead
    stream.close()  # type: ignore[attr-defined]


def test_no_thread_outlives_a_stream(pictures: list[NDArray[np.uint8]], model: Embedder) -> None:
    items = list(enumerate(pictures))
    list(model.stream_images(items, batch_size=4))
    assert decoder_threads() == []
    stopped = model.stream_images(items, batch_size=4)
    next(stopped)
    assert decoder_threads()
    del stopped
    gc.collect()
    assert decoder_threads() == []

    def broken() -> Iterator[tuple[int, NDArray[np.uint8]]]:
        yield from items[:20]
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        list(model.stream_images(broken(), batch_size=4))
    assert decoder_threads() == []


def test_a_batch_must_hold_an_image(model: Embedder) -> None:
    with pytest.raises(InputError, match="batch_size"):
        next(model.stream_images([], batch_size=0))


def test_pixels_and_patches_are_those_of_the_graphs(model: Embedder, handmade: ModuleType) -> None:
    pixels = np.random.default_rng(2).standard_normal((70, 3, 32, 32)).astype(np.float32)
    weights = handmade.Weights.seeded()
    np.testing.assert_allclose(
        model.embed_pixels(pixels), handmade.images_by_numpy(pixels, weights), atol=1e-5
    )
    patches = model.dense_pixels(pixels)
    assert patches.shape == (70, 16, model.dim)
    np.testing.assert_allclose(patches, handmade.dense_by_numpy(pixels, weights), atol=1e-5)
    for bad in (pixels[0], pixels[:, :, :16], pixels[:, :1]):
        with pytest.raises(InputError, match=r"expected \(N, 3, 32, 32\)"):
            model.embed_pixels(bad)
    assert model.embed_pixels(pixels[:0]).shape == (0, model.dim)


def test_encoded_images_equal_preprocessed_ones(tiny_bundle: Path, pictures: list[NDArray[np.uint8]]) -> None:
    model = load(tiny_bundle, precision="fp32", threads=1)
    noise = np.random.default_rng(4).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    png = io.BytesIO()
    Image.fromarray(noise).save(png, "PNG")
    pixels = pixels_from_array(noise, model.spec.pixel_spec)[None]
    np.testing.assert_allclose(model.embed_images([png.getvalue()]), model.embed_pixels(pixels), atol=1e-6)


# Loading


def test_towers_are_loaded_one_by_one(model: Embedder) -> None:
    assert model.loaded_towers == ()
    model.embed_texts("a ship")
    assert model.loaded_towers == ("text",)
    model.embed_images(np.zeros((4, 4, 3), np.uint8))
    assert model.loaded_towers == ("image", "text")


def test_the_default_precision_runs_and_another_can_be_asked_for(made_bundle: Path, model: Embedder) -> None:
    assert (model.precision, model.backend) == ("fp32", "onnxruntime")
    worse = load(made_bundle, precision="int8-cpu")
    cosine = (worse.embed_texts("a ship") * model.embed_texts("a ship")).sum()
    assert 0.99 < cosine < 0.99999
    assert worse.identity == model.identity
    assert "int8-cpu on onnxruntime" in repr(worse)


def test_auto_precision_takes_the_fastest_that_passed(
    made_bundle: Path, handmade: ModuleType, tmp_path: Path
) -> None:
    assert load(made_bundle, precision="auto").precision == "int8-cpu"
    bad = handmade.make_bundle(tmp_path / "bad", vocabulary=None, extra={"int8-cpu": 0.9})
    assert not bad.passed("int8-cpu")
    assert load(bad, precision="auto").precision == "fp32"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"precision": "fp16"},
            "no backend here runs fp16: onnxruntime on cpu runs int8-cpu, fp32, not fp16",
        ),
        ({"precision": "fp16", "backend": "onnxruntime"}, "onnxruntime on cpu runs int8-cpu, fp32, not fp16"),
        ({"backend": "tensorrt"}, "no NVIDIA driver here|tensorrt"),
        ({"backend": "coreml"}, "backend 'coreml' is unknown"),
        ({"backend": "openvino", "device": "cuda"}, "runs on cpu in this version, not on cuda"),
        ({"device": "cuda:0"}, "no backend here runs fp32 on cuda:0"),
    ],
)
def test_what_cannot_run_is_refused_with_the_reason(
    made_bundle: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(BackendError, match=message):
        load(made_bundle, **options)


def test_a_precision_that_the_bundle_lacks_is_refused_with_the_command_that_adds_it(
    made_bundle: Path,
) -> None:
    with pytest.raises(
        BundleError, match=r"holds the precisions fp16, fp32, int8-cpu.*lrsclip export .* --precision int8"
    ):
        load(made_bundle, precision="int8")
    with pytest.raises(InputError, match="threads"):
        load(made_bundle, threads=0)


def test_without_any_library_the_error_names_the_extra(made_bundle: Path) -> None:
    code = f"""
import sys
hidden = ("onnxruntime", "openvino")
sys.modules.update(dict.fromkeys(hidden))
import importlib.util
import lrsclip_rt as lrs
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name in hidden else find(name, *a)
for backend in ("auto", "onnxruntime"):
    try:
        lrs.load({str(made_bundle)!r}, backend=backend)
    except lrs.errors.DependencyError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == [str(DependencyError.of("onnxruntime", extra="cpu"))] * 2


def test_a_graph_that_is_not_the_bundles_is_refused(
    made_bundle: Path, tmp_path: Path, handmade: ModuleType
) -> None:
    bundle = handmade.make_bundle(tmp_path / "b", vocabulary=None)
    (bundle.path / "image.fp32.onnx").write_bytes((bundle.path / "text.fp32.onnx").read_bytes())
    with pytest.raises(BundleError, match=r"image\.fp32\.onnx takes .*expected \{'pixels'"):
        load(lrs.Bundle(bundle.path, bundle.manifest)).embed_images(np.zeros((4, 4, 3), np.uint8))
    (bundle.path / "image.fp32.onnx").write_bytes(b"\x00\x01 no graph")
    with pytest.raises(BackendError, match=r"image\.fp32\.onnx cannot be loaded by onnxruntime"):
        load(lrs.Bundle(bundle.path, bundle.manifest)).embed_images(np.zeros((4, 4, 3), np.uint8))


def test_values_that_are_not_finite_are_refused(model: Embedder) -> None:
    pixels = np.zeros((2, 3, 32, 32), np.float32)
    pixels[1] = np.nan
    with pytest.raises(BackendError, match=r"not finite.*lrsclip check"):
        model.embed_pixels(pixels)


def test_threads_may_share_a_model(model: Embedder, pictures: list[NDArray[np.uint8]]) -> None:
    expected_texts, expected_images = load(model.bundle).embed_texts(TEXTS), model.embed_images(pictures)
    wrong: list[str] = []

    def work(seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(TEXTS))
        for _ in range(5):
            if not np.allclose(
                model.embed_texts([TEXTS[i] for i in order]), expected_texts[order], atol=1e-6
            ):
                wrong.append("texts")
            if not np.allclose(model.embed_images(pictures[:9]), expected_images[:9], atol=1e-6):
                wrong.append("images")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# Backends


def test_every_backend_of_the_command_line_is_in_the_table() -> None:
    assert list(BACKENDS) == ["onnxruntime", "openvino", "tensorrt", "onnxruntime-cuda"]
    assert why_not(BACKENDS["onnxruntime"]) is None
    assert BACKENDS["tensorrt"].precisions == ("int8", "fp8", "fp16")
    assert choose_backend("auto", precision="int8-cpu", device="CPU").name == "onnxruntime"
    for precision, reason in BACKENDS["onnxruntime"].refusals.items():
        assert reason in str(why_not(BACKENDS["onnxruntime"], precision=precision))


def test_the_probe_graph_is_what_onnx_writes() -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    from lrsclip_rt.backends.probe_graph import PROBE_GRAPH

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert onnx.load_from_string(PROBE_GRAPH) == model


def test_a_session_says_what_it_takes(made_bundle: Path) -> None:
    session = open_graph(made_bundle / "text-248.fp32.onnx", threads=1)
    assert session.inputs["tokens"].shape == (None, 248)
    assert session.inputs["eot"].dtype == "int32"
    assert session.output.shape == (None, 16)
    with pytest.raises(BackendError, match=r"text-248\.fp32\.onnx failed in onnxruntime"):
        session.run({"tokens": np.zeros((1, 5), np.int32), "eot": np.zeros(1, np.int32)})


# The package


def test_the_public_names_resolve_and_importing_them_is_lazy() -> None:
    heavy = {"numpy", "PIL", "onnxruntime", "click", "rich"}
    code = f"import lrsclip_rt, sys; print(sorted(set(sys.modules) & {heavy!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
    assert lrs.Embedder is Embedder
    assert lrs.load is load
    assert set(lrs.__all__) <= set(dir(lrs))
    assert isinstance(lrs.__version__, str)
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = lrs.Nonsense
