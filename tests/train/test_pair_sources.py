"""Folders and shards as sources of training pairs, and what is done about shards that are broken."""

from __future__ import annotations

import doctest
import importlib
import io
import json
import pickle
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lrsclip_rt.errors import ImageError, InputError, OutputExistsError
from lrsclip_train import shard_sidecars
from lrsclip_train.pair_sources import (
    FolderPairs,
    PairSource,
    ShardPairs,
    StoredImage,
    TrainingPair,
    data_files_from_spec,
    pair_source_from,
)
from lrsclip_train.shard_sidecars import shard_with_sidecar
from lrsclip_train.shards import MAX_TEXT_BYTES, shard_from_tar, write_shards
from lrsclip_train.tar_members import tar_members


def encoded(seed: int = 0, kind: str = "PNG") -> bytes:
    samples = np.random.default_rng(seed).integers(0, 255, (11, 17, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(samples).save(stream, kind)
    return stream.getvalue()


def make_tar(path: Path, members: Iterable[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def sample(key: str, seed: int = 0, **record: object) -> list[tuple[str, bytes]]:
    record = record or {"short": [f"caption of {key}"]}
    return [(f"{key}.png", encoded(seed)), (f"{key}.json", json.dumps(record).encode())]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven pairs, five of split train."""
    root = tmp_path / "pairs"
    (root / "images").mkdir(parents=True)
    lines = []
    for i, kind in enumerate(("PNG", "JPEG", "WEBP", "TIFF", "PNG", "PNG", "JPEG")):
        name = f"images/{i}.v2.{kind.lower()}"
        (root / name).write_bytes(encoded(i, kind))
        line = {"image": name, "short": [f"pond {i}", f"a pond {i}"], "split": "train" if i < 5 else "val"}
        lines.append(line | ({"long": f"A long text {i}.", "class": "Pond"} if i % 2 else {}))
    (root / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    return root


def same(a: PairSource, b: PairSource) -> None:
    assert len(a) == len(b)
    for i in reversed(range(len(a))):
        one, two = a[i], b[i]
        assert (one.shorts, one.long, one.category) == (two.shorts, two.long, two.category)
        assert one.image is not None
        assert two.image is not None
        assert one.image.read() == two.image.read()
        assert np.array_equal(np.asarray(a.image(i)), np.asarray(b.image(i)))


def test_a_folder_gives_the_pairs_of_its_split(folder: Path) -> None:
    source = pair_source_from(folder, split="val")
    assert isinstance(source, FolderPairs)
    assert [source.key(i) for i in range(len(source))] == ["images/5.v2.png", "images/6.v2.jpeg"]
    assert source[0].shorts == ("pond 5", "a pond 5")
    assert (source[0].long, source[0].category) == ("A long text 5.", "Pond")
    assert [pair.key for pair in source] == [source.key(0), source.key(1)]
    assert source.image(1).size == (17, 11)


def test_shards_written_from_a_folder_hold_the_same_pairs(folder: Path, tmp_path: Path) -> None:
    pairs = FolderPairs(folder)
    shards = write_shards(iter(pairs), tmp_path / "shards", samples_per_shard=3)
    assert [path.name for path in shards] == ["000000.tar", "000001.tar", "000002.tar"]
    source = pair_source_from(tmp_path / "shards" / "{000000..000002}.tar", split=None)
    assert isinstance(source, ShardPairs)
    assert [len(shard) for shard in source.shards] == [3, 3, 1]
    same(pairs, source)
    assert source.key(4) == "000001.tar:000000004"
    assert source[4].key == source.key(4)
    same(source, pickle.loads(pickle.dumps(source)))
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == [path.name for path in shards]


def test_other_tools_layouts_are_read(tmp_path: Path) -> None:
    path = make_tar(
        tmp_path / "a.tar",
        [
            ("deep/er/one.JPG", encoded(1, "JPEG")),
            ("two.tif", encoded(2, "TIFF")),
            # Captions may stand apart from their image.
            ("deep/er/one.txt", b"\xef\xbb\xbf a harbour\n"),
            ("deep/er/one.long.txt", "Ships in a häfen.".encode()),
            # A record of the download, not of captions: the plain text counts.
            ("two.json", b'{"caption": "x", "url": "y"}'),
            ("two.txt", b"a river"),
            ("two.npy", b"something else"),
            ("README", b"no sample"),
            (".hidden.txt", b"no sample"),
            *sample("three", short=[], long="Only long.", **{"class": "Port"}),
            ("three.txt", b"not this one"),
        ],
    )
    source = ShardPairs([path])
    assert [source.shards[0].key(i) for i in range(3)] == ["deep/er/one", "two", "three"]
    assert [(p.shorts, p.long, p.category) for p in source] == [
        (("a harbour",), "Ships in a häfen.", ""),
        (("a river",), "", ""),
        ((), "Only long.", "Port"),
    ]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_are_read_in_every_tar_format(form: int, tmp_path: Path) -> None:
    keys = ["f" * 90 + "/" + "k" * 90, "häfen/" + "ü" * 20] + ["d/" * 120 + "x"] * (
        form != tarfile.USTAR_FORMAT
    )
    path = make_tar(tmp_path / "a.tar", [m for key in keys for m in sample(key)], form)
    source = ShardPairs([path])
    assert [source[i].shorts for i in range(len(keys))] == [(f"caption of {key}",) for key in keys]
    assert [source.shards[0].key(i) for i in range(len(keys))] == keys


def test_names_are_never_paths_and_links_are_passed_over(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    path = inner / "tricks.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("../../evil", "/etc/passwd", "a\nb"):
            for member, content in sample(name):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo(f"link{kind.decode()}.png")
            info.type, info.linkname, info.size = kind, "/etc/passwd", 4096
            tar.addfile(info)
        for member, content in sample("last"):
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    source = ShardPairs([path], cache=tmp_path / "cache")
    keys = [source.shards[0].key(i) for i in range(len(source))]
    assert keys == ["../../evil", "/etc/passwd", "a\nb", "last"]
    assert source.image(3).size == (17, 11)
    assert [p.name for p in inner.iterdir()] == ["tricks.tar"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "inner"]


def test_whatever_stands_in_front_of_a_cut_can_still_be_used(tmp_path: Path) -> None:
    whole = make_tar(tmp_path / "whole.tar", [m for i in range(4) for m in sample(f"{i}", i)])
    content = whole.read_bytes()
    full = shard_from_tar(whole)
    ends = [int(full.places[i, 1].sum()) for i in range(4)]  # the caption is a sample's last member
    cut = tmp_path / "cut.tar"
    for length in [*range(0, ends[-1] + 600, 233), *(end + d for end in ends for d in (-1, 0, 1))]:
        cut.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"shard .*cut\.tar: cut\.tar is broken at byte \d+"):
            shard_from_tar(cut)
        shard = shard_from_tar(cut, strict=False)
        assert len(shard) == sum(end <= length for end in ends), length
        for i in range(len(shard)):
            assert shard.pair(i).shorts == (f"caption of {i}",)
            image = shard.image(i)
            assert image.read() == content[image.offset : image.offset + len(encoded(i))] == encoded(i)
        assert next(problem.key for problem in shard.problems) == ""


def _damaged(content: bytearray) -> None:
    content[content.index(b"two.png") + 3] ^= 0xFF


def _joined(content: bytearray) -> None:
    content += bytes(content)


def _endless_name(content: bytearray) -> None:
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 1 << 21
    content[:0] = info.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 21)


def _foolish_name(content: bytearray) -> None:
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 11
    content[:0] = info.tobuf(tarfile.USTAR_FORMAT) + b"999 path=ab".ljust(512, b"\0")


def _negative_size(content: bytearray) -> None:
    header = bytearray(tarfile.TarInfo("a.png").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 12
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content[:0] = header


def _compressed(content: bytearray) -> None:
    import gzip

    content[:] = gzip.compress(bytes(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_damaged, r"broken at byte \d+: bad checksum where a member should begin"),
        (_joined, "goes on behind its end mark"),
        (_endless_name, "a name header of 2097152 bytes"),
        (_foolish_name, "a name header that cannot be parsed"),
        (_negative_size, "a size of -1 bytes"),
        (_compressed, "is compressed by gzip"),
    ],
)
def test_a_damaged_archive_is_one_error_that_names_it(damage, message: str, tmp_path: Path) -> None:
    path = make_tar(tmp_path / "x.tar", sample("one") + sample("two"), tarfile.USTAR_FORMAT)
    content = bytearray(path.read_bytes())
    damage(content)
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.tar.*{message}"):
        ShardPairs([path])


def test_the_walk_agrees_with_tarfile(tmp_path: Path) -> None:
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        members = [(f"{'n' * (7 * i % 300)}{i}.bin", bytes(i * 37)) for i in range(60)]
        if form == tarfile.USTAR_FORMAT:
            members = [(name[-90:], content) for name, content in members]
        path = make_tar(tmp_path / f"{form}.tar", members, form)
        with tarfile.open(path) as tar, path.open("rb") as stream:
            expected = [(m.name, m.offset_data, m.size) for m in tar]
            assert [(m.name, m.offset, m.size) for m in tar_members(stream, "x")] == expected
            assert len(expected) == 60


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("bad.png", encoded())], "no caption, expected KEY.json or KEY.txt"),
        ([("bad.txt", b"a pond")], "0 images, expected one"),
        ([("bad.txt", b"a pond"), ("bad.png", encoded()), ("bad.jpg", encoded())], "2 images"),
        ([("bad.png", encoded()), ("bad.txt", b" \n")], "caption is empty"),
        ([("bad.png", encoded()), ("bad.txt", b"\xff\xfe")], "KEY.txt is not UTF-8"),
        ([("bad.png", encoded()), ("bad.json", b"{")], "KEY.json is not JSON"),
        ([("bad.png", encoded()), ("bad.json", b"[1]")], "expected an object"),
        (sample("bad", short=["a", " "]), "expected a list of captions, none empty"),
        (sample("bad", short="a pond"), "expected a list of captions"),
        (sample("bad", long=["a pond"]), "expected texts"),
        (sample("bad", split="train"), "no caption, expected short"),
        (sample("bad") + sample("bad"), "occurs twice"),
        (
            [("bad.png", encoded()), ("bad.txt", b"a" * (MAX_TEXT_BYTES + 1))],
            "1048577 bytes, more than 1048576",
        ),
    ],
)
def test_a_sample_that_cannot_be_used_is_named_or_left_out(members, message: str, tmp_path: Path) -> None:
    path = make_tar(tmp_path / "x.tar", [*sample("first", 1), *members, *sample("last", 2)])
    with pytest.raises(InputError, match=rf"x\.tar: sample 'bad': .*{message}"):
        ShardPairs([path])
    source = ShardPairs([path], strict=False)
    assert [source.key(i) for i in range(len(source))] == ["x.tar:first", "x.tar:last"]
    (problem,) = source.problems
    assert (problem.shard, problem.key) == (path, "bad")
    assert message in problem.reason


def test_a_broken_image_is_an_error_of_its_own_with_its_key(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "x.tar", [("a.jpg", encoded(1, "JPEG")[:300]), ("a.txt", b"a"), *sample("b")])
    source = ShardPairs([path])
    with pytest.raises(ImageError, match=r"^x\.tar:a: image bytes cannot be decoded as JPEG"):
        source.image(0)
    assert source.image(1).mode == "RGB"


def test_a_second_start_reads_the_sidecar_and_a_changed_shard_is_walked_through_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_tar(tmp_path / "x.tar", sample("a") + sample("b"))
    cache = tmp_path / "cache"
    first = ShardPairs([path], cache=cache)
    walks = []

    def counted(path: Path, *, strict: bool):
        walks.append(path)
        return shard_from_tar(path, strict=strict)

    monkeypatch.setattr(shard_sidecars, "shard_from_tar", counted)
    same(first, ShardPairs([path], cache=cache))
    assert walks == []
    (sidecar,) = cache.iterdir()
    sidecar.write_bytes(sidecar.read_bytes()[:-40])
    same(first, ShardPairs([path], cache=cache))
    assert len(walks) == 1
    same(first, ShardPairs([path], cache=cache))
    assert len(walks) == 1
    make_tar(path, sample("a") + sample("b") + sample("c"))
    assert len(ShardPairs([path], cache=cache)) == 3
    assert len(walks) == 2
    assert [p.name for p in cache.iterdir()] == [sidecar.name]


def test_a_sidecar_that_points_outside_its_shard_is_not_believed(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "x.tar", sample("a"))
    known = shard_with_sidecar(path, tmp_path / "cache")
    (sidecar,) = (tmp_path / "cache").iterdir()
    with np.load(sidecar) as stored:
        fields = dict(stored)
    fields["places"] = fields["places"] + np.array([0, 1 << 20])
    np.savez(sidecar, **fields)
    assert np.array_equal(shard_with_sidecar(path, tmp_path / "cache").places, known.places)


def test_problems_are_remembered_beside_the_places(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "x.tar", [*sample("a"), ("b.txt", b"no image")])
    for _ in range(2):
        source = ShardPairs([path], cache=tmp_path / "cache", strict=False)
        assert [problem.key for problem in source.problems] == ["b"]
    with pytest.raises(InputError, match="sample 'b': it has 0 images"):
        ShardPairs([path], cache=tmp_path / "cache")


def test_a_shard_that_changes_during_a_run_is_an_error(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "x.tar", sample("a"))
    source = ShardPairs([path])
    make_tar(path, sample("a") + sample("b"))
    for read in (source.image, source.__getitem__):
        with pytest.raises(InputError, match="has changed since it was indexed") as caught:
            read(0)
        assert not isinstance(caught.value, ImageError)


def test_shards_of_one_name_in_two_folders_give_different_keys(tmp_path: Path) -> None:
    paths = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        paths.append(make_tar(tmp_path / name / "0.tar", sample("k")))
    source = ShardPairs(paths)
    assert [source.key(0), source.key(1)] == ["a/0.tar:k", "b/0.tar:k"]
    with pytest.raises(InputError, match="is given twice"):
        ShardPairs([paths[0], tmp_path / "b" / ".." / "a" / "0.tar"])
    with pytest.raises(IndexError):
        source[2]


def test_every_form_of_a_spec_finds_its_files(folder: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    paths = tuple(make_tar(shards / f"{n:03d}.tar", sample(f"{n}")) for n in (8, 9, 10))
    assert data_files_from_spec(folder) == folder
    assert data_files_from_spec(str(folder / "pairs.jsonl")) == folder
    for spec in (shards, shards / "*.tar", shards / "{008..010}.tar", shards / "0{08..10}.tar"):
        assert data_files_from_spec(str(spec)) == paths
    assert data_files_from_spec(paths[1]) == paths[1:2]
    odd = tmp_path / "odd[1]"
    odd.mkdir()
    assert data_files_from_spec(make_tar(odd / "x.tar", [])) == (odd / "x.tar",)


def test_a_spec_that_finds_nothing_says_what_was_expected(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    make_tar(tmp_path / "000.tar", sample("a"))
    (tmp_path / "a.tar.gz").write_bytes(b"")
    for spec, message in (
        ("absent", "does not exist; expected a folder with pairs.jsonl, or shards"),
        ("empty", "holds neither pairs.jsonl nor shards"),
        ("{000..002}.tar", r"2 of 3 shards do not exist, first .*001\.tar"),
        ("q*.tar", "matches no file"),
        ("{5..2}.tar", "is no range of shards"),
        ("{0..999999999999}.tar", "is no range of shards"),
        ("a.tar.gz", r"a shard ends in \.tar"),
    ):
        with pytest.raises(InputError, match=message):
            pair_source_from(tmp_path / spec, split=None)
    make_tar(folder / "0.tar", [])
    with pytest.raises(InputError, match=r"holds both pairs\.jsonl and shards"):
        pair_source_from(folder, split=None)
    with pytest.raises(InputError, match="know no splits"):
        pair_source_from(tmp_path / "000.tar", split="train")
    with pytest.raises(InputError, match="hold no usable sample"):
        pair_source_from(folder / "0.tar", split=None)


def test_writing_refuses_what_it_cannot_do_and_leaves_nothing_half_done(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="no pair to write"):
        write_shards([], out)
    with pytest.raises(InputError, match="at least 1"):
        write_shards(iter(FolderPairs(folder)), out, samples_per_shard=0)
    bitmap = tmp_path / "a.bmp"
    bitmap.write_bytes(encoded(0, "BMP"))
    with pytest.raises(ImageError, match="k is BMP; a shard holds JPEG, PNG, WebP, TIFF"):
        write_shards([TrainingPair("k", ("a",), image=StoredImage(bitmap))], out)
    with pytest.raises(ImageError, match="does not exist"):
        write_shards([TrainingPair("k", ("a",), image=StoredImage(tmp_path / "absent.png"))], out)
    with pytest.raises(ImageError, match="no stored image"):
        write_shards([TrainingPair("k", ("a",))], out)
    assert list(out.iterdir()) == []
    write_shards(iter(FolderPairs(folder)), out)
    with pytest.raises(OutputExistsError, match=r"000000\.tar exists already"):
        write_shards(iter(FolderPairs(folder)), out)


@pytest.mark.parametrize("name", ["augment", "pair_sources", "shards", "tar_members"])
def test_the_examples_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"lrsclip_train.{name}"))
    assert result.failed == 0
    assert result.attempted > 0
