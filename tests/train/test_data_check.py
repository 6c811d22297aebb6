"""What the look through training data finds, on data that have every fault."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lrsclip_rt.datasets import pair_set_from_folder
from lrsclip_rt.errors import InputError
from lrsclip_rt.tokenizer import Tokenizer
from lrsclip_train.data_check import check_data
from lrsclip_train.data_report import MAX_COUNTED_TOKENS, TextLengths
from lrsclip_train.pair_sources import FolderPairs, ShardPairs, TrainingPair
from lrsclip_train.shards import write_shards

TOKENIZER = Tokenizer()


def png(seed: int) -> bytes:
    samples = np.random.default_rng(seed).integers(0, 255, (9, 9, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(samples).save(stream, "PNG")
    return stream.getvalue()


def write(root: Path, lines: list[object], images: dict[str, bytes]) -> Path:
    for name, content in images.items():
        (root / name).write_bytes(content)
    (root / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    return root


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    lines = [
        {"image": "0.png", "short": ["a pond", "two ponds"], "class": "Pond", "long": "word " * 80},
        {"image": "1.png", "short": ["a pond", "a pond"], "class": "Pond"},
        {"image": "2.png", "short": ["a pond", "  ", ""], "class": "River"},
        {"image": "3.png", "long": "a river in the north"},
        {"image": "4.png", "short": ["a river in the north", "upper left"]},
        {"image": "5.png", "short": ["word " * 30]},
        {"image": "absent.png", "short": ["a farm"]},
        {"image": "cut.png", "short": ["a field"]},
        {"image": "6.png", "short": []},
        {"image": "../out.png", "short": ["a field"]},
        {"image": "0.png", "short": ["again"]},
        {"image": "sub", "short": ["a folder"]},
    ]
    images = {f"{i}.png": png(i % 4) for i in range(7)} | {"cut.png": png(9)[:-60]}
    (tmp_path / "sub").mkdir()
    return write(tmp_path, lines, images)


def test_every_fault_is_found_and_counted(faulty: Path) -> None:
    done = []
    report = check_data(faulty, tokenizer=TOKENIZER, advance=done.append)
    assert sum(done) == report.images == 11
    assert not report.ok
    assert [(f.where, f.reason.split(";")[0]) for f in report.bad_records] == [
        ("line 3", "short holds 2 empty captions"),
        ("line 9", "no caption, expected short (a list), long or both"),
        ("line 10", "image '../out.png' leaves the data set"),
        ("line 11", "0.png occurs twice"),
    ]
    assert report.missing_files == ("absent.png",)
    assert [f.where for f in report.broken_images] == ["cut.png", "sub"]
    assert "cannot be decoded as PNG" in report.broken_images[0].reason
    assert report.empty_captions == 2
    assert report.images_with_captions == (2, 7, 2)
    # 0, 4 and the second 0 are one file; 1 and 5, 2 and 6 likewise.
    assert report.duplicate_images == (("0.png", "4.png", "0.png"), ("1.png", "5.png"), ("2.png", "6.png"))
    assert report.shared_captions.top == (("a pond", 3), ("a river in the north", 2))
    assert (report.shared_captions.texts, report.shared_captions.images) == (2, 5)
    assert (report.orientation_bound_captions, report.orientation_bound_images) == (3, 2)
    assert report.classes == (("", 8), ("Pond", 2), ("River", 1))
    assert (report.short.texts, report.long.texts) == (12, 2)
    assert report.short.longest == 32
    assert report.short.cut == ((20, 1), (77, 0), (248, 0))
    assert report.long.cut == ((20, 1), (77, 1), (248, 0))


def test_without_decoding_only_what_reading_shows_is_found(faulty: Path) -> None:
    report = check_data(faulty, tokenizer=TOKENIZER, decode=False)
    assert [f.where for f in report.broken_images] == ["sub"]
    assert report.missing_files == ("absent.png",)
    assert len(report.duplicate_images) == 3
    assert not report.decoded


def test_the_page_and_the_record_tell_the_same(faulty: Path) -> None:
    report = check_data(faulty, tokenizer=TOKENIZER)
    record = json.loads(json.dumps(report.as_dict()))
    assert record["images"] == 11
    assert record["ok"] is False
    assert record["short"]["cut"] == {"20": 1, "77": 0, "248": 0}
    assert record["classes"] == {"": 8, "Pond": 2, "River": 1}
    page = "\n".join(report.lines())
    for part in ("line 3: short holds 2 empty", "absent.png", "cut at 20 tokens: 1 (8.3 %)", "1.png = 5.png"):
        assert part in page
    assert sum(record["short"]["bins"].values()) == 12
    bars = {line.split()[0]: line.count("#") for line in report.lines() if "#" in line}
    assert bars["1-10"] == 30


def test_lengths_are_the_tokenizers_and_cuts_are_its_cuts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(["pond"] * int(n)) for n in rng.integers(1, 300, 600)]
    texts += ["pond " * (n - 2) for n in (20, 21, 77, 78, 248, 249, 2000)]
    lines: list[object] = [{"image": f"{i}.png", "short": [text]} for i, text in enumerate(texts)]
    report = check_data(write(tmp_path, lines, {}), tokenizer=TOKENIZER, decode=False)
    for context, cut in report.short.cut:
        assert cut == Tokenizer(context_length=context).encode_batch(texts).cut.sum()
    lengths = np.minimum([len(text.split()) + 2 for text in texts], MAX_COUNTED_TOKENS)
    start = 0
    for end, count in report.short.bins:
        assert count == ((lengths > start) & (lengths <= end)).sum()
        start = end
    assert report.short.median == np.quantile(lengths, 0.5, method="inverted_cdf")
    assert report.short.p95 == np.quantile(lengths, 0.95, method="inverted_cdf")
    assert report.short.longest == MAX_COUNTED_TOKENS
    assert len(report.missing_files) == len(texts)
    assert f"... and {len(texts) - 20} more" in "\n".join(report.lines())
    assert TextLengths.from_counts(np.zeros(MAX_COUNTED_TOKENS + 1, np.int64), (20,)).longest == 0


@pytest.mark.parametrize(
    "line",
    [
        b'{"image": "0.png", "short": ["a"]}',
        b'{"image": "0.png", "short": [], "long": "a", "split": "x", "class": "y"}',
        b'{"image": "0.png", "long": "a"}',
        b'{"image": "0.png", "short": ["a"], "long": ""}',
        b'{"image": "0.png", "short": ["a"], "long": null}',
        b'{"image": "0.png", "short": ["\\ud800"]}',
        b'\xef\xbb\xbf{"image": "0.png", "short": ["a"]}',
        b'{"image": "0.png", "short": ["a"]}\r\n\r\n',
        b'{"image": "0.png", "short": [""]}',
        b'{"image": "0.png", "short": [1]}',
        b'{"image": "0.png", "short": "a"}',
        b'{"image": "0.png", "short": null, "long": "a"}',
        b'{"image": "0.png", "short": ["a"], "long": ["b"]}',
        b'{"image": "0.png", "short": ["a"], "split": 1}',
        b'{"image": "0.png", "short": ["a"], "class": null}',
        b'{"image": "0.png"}',
        b'{"image": "", "short": ["a"]}',
        b'{"image": "/0.png", "short": ["a"]}',
        b'{"image": "a/../0.png", "short": ["a"]}',
        b'{"image": "0\\u0000.png", "short": ["a"]}',
        b'{"image": 1, "short": ["a"]}',
        b'{"short": ["a"]}',
        b'["0.png"]',
        b"{",
        b"[" * 100_000,
        b'{"image": "0.png", "short": ["\xff"]}',
        b'{"image": "0.png", "short": ["a"]}\n{"image": "0.png", "short": ["b"]}',
        b"",
    ],
)
def test_a_line_is_bad_exactly_where_a_run_would_refuse_it(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_bytes(line + b"\n")
    (tmp_path / "0.png").write_bytes(png(0))
    try:
        pair_set_from_folder(tmp_path)
        refused = False
    except InputError:
        refused = True
    report = check_data(tmp_path, tokenizer=TOKENIZER)
    assert bool(report.bad_records) == refused
    assert [row for row in report.lines() if not row.isprintable()] == []


def test_bad_lines_do_not_stop_at_the_first_and_the_split_is_kept_apart(tmp_path: Path) -> None:
    lines: list[object] = [
        {"image": f"{i}.png", "short": [""] if i % 3 == 0 else ["a"], "split": "train" if i < 20 else "val"}
        for i in range(30)
    ]
    write(tmp_path, lines, {f"{i}.png": png(i) for i in range(30)})
    report = check_data(tmp_path, tokenizer=TOKENIZER, split="val")
    assert [f.where for f in report.bad_records] == [f"line {i + 1}" for i in range(0, 30, 3)]
    assert (report.images, report.split) == (10, "val")
    nothing = check_data(tmp_path, tokenizer=TOKENIZER, split="test")
    assert nothing.images == 0
    assert nothing.bad_records[-1].reason == "names no image of split 'test'"


def test_shards_are_looked_through_past_what_is_broken(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, content in (
            ("a.png", png(1)),
            ("a.json", b'{"short": ["a pond"], "class": "Pond"}'),
            ("b.png", png(2)),
            ("c.png", png(1)),
            ("c.txt", b"a pond"),
            ("d.png", png(3)[:-50]),
            ("d.txt", b"a pond"),
            ("e.png", png(4)),
            ("e.txt", b"never reached"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    content = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(content[: content.index(b"never reached") + 4])
    report = check_data(str(tmp_path), tokenizer=TOKENIZER)
    assert report.images == 3
    assert [f.where for f in report.bad_records] == ["0.tar", "0.tar:b", "0.tar:e"]
    assert "0.tar is broken at byte" in report.bad_records[0].reason
    assert [f.where for f in report.broken_images] == ["0.tar:d"]
    assert report.duplicate_images == (("0.tar:a", "0.tar:c"),)
    assert report.shared_captions.top == (("a pond", 3),)


class _Drawn:
    """A source whose images lie in no file; every third cannot be drawn."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> TrainingPair:
        return TrainingPair(self.key(index), (f"drawn {index}",))

    def key(self, index: int) -> str:
        return f"drawn-{index}"

    def image(self, index: int) -> Image.Image:
        from lrsclip_rt.errors import ImageError

        if index % 3 == 2:
            raise ImageError(f"{index} cannot be drawn")
        return Image.new("RGB", (8, 8))


def test_an_opened_source_is_looked_through_as_it_is(tmp_path: Path) -> None:
    lines: list[object] = [{"image": f"{i}.png", "short": [f"pond {i}"]} for i in range(5)]
    write(tmp_path, lines, {f"{i}.png": png(i) for i in range(5)})
    pairs = FolderPairs(tmp_path)
    shards = ShardPairs(write_shards(iter(pairs), tmp_path / "shards", samples_per_shard=2))
    for source in (pairs, shards):
        report = check_data(source, tokenizer=TOKENIZER)
        assert report.ok
        assert report.images == 5
    drawn = check_data(_Drawn(), tokenizer=TOKENIZER)
    assert [f.where for f in drawn.broken_images] == ["drawn-2", "drawn-5"]
    assert drawn.duplicate_images == ()
    for context in (0, MAX_COUNTED_TOKENS + 1):
        with pytest.raises(InputError, match="contexts must lie between"):
            check_data(pairs, tokenizer=TOKENIZER, contexts=(20, context))
    with pytest.raises(InputError, match="knows no splits"):
        check_data(shards, tokenizer=TOKENIZER, split="train")
    with pytest.raises(InputError, match="does not exist"):
        check_data(tmp_path / "absent", tokenizer=TOKENIZER)


def test_what_is_known_of_the_real_pairs_is_found(data_dir: Path) -> None:
    report = check_data(data_dir / "aid_rsicd", tokenizer=TOKENIZER, decode=False)
    assert report.ok
    assert report.images == 8973
    assert len([name for name, _ in report.classes if name]) == 30
    assert report.images_with_captions[0] == 0
    assert [{Path(key).stem for key in group} for group in report.duplicate_images] == [
        {"industrial_203", "industrial_205"}
    ]
    # The joined captions have a median of 16 words.
    assert 16 + 2 <= report.long.median <= 16 + 5
    assert report.short.cut[1:] == ((77, 0), (248, 0))
    train = check_data(data_dir / "aid_rsicd", tokenizer=TOKENIZER, decode=False, split="train")
    assert train.images == 7207
