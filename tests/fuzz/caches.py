"""Calibration and other files of an earlier run that are read again, and the shards that images come from."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import handmade
import numpy as np
from PIL import Image

from fuzz.harness import FilesHarness
from fuzz.mutation import mutated_bytes, mutated_json
from lrsclip_rt import file_stamps
from lrsclip_rt.archive.content_stamps import ContentStamps
from lrsclip_rt.backend_choice import Measurement, Timing, keep_measurement, kept_measurement
from lrsclip_rt.bundle import PROBE_FILE, Bundle
from lrsclip_rt.errors import LrsclipError
from lrsclip_rt.probe import probe_from_bundle
from lrsclip_train.features import SPLIT, FeatureCache
from lrsclip_train.shard_sidecars import shard_with_sidecar
from lrsclip_train.shards import shard_from_tar, write_shards
from lrsclip_train.teacher import Teacher, save_teacher
from lrsclip_train.training_pairs import StoredImage, TrainingPair

__all__ = ["CachesHarness"]

_VECTORS = np.eye(4, 8, dtype=np.float32)
_SAMPLE = {
    "key": "a",
    "source": "real",
    "category": "",
    "shorts": ["a port"],
    "long": "a port with ships",
    "wrong": ["a field"],
    "rows": [0, 2],
}


class CachesHarness(FilesHarness):
    """Reads each of them; what cannot be used must cost a named error or the work of making it anew."""

    name = "calibration caches"
    links = False  # they are copied to where they are read

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.root.mkdir()
        self._bundle = handmade.make_bundle(folder / "bundle", vocabulary=None)
        self._readers: dict[str, Callable[[], object]] = {
            "probe.npz": self._probe,
            "teacher.npz": self._teacher,
            "shard.tar": self._shard,
            "sidecar.npz": self._sidecar,
            "cache.json": self._features,
            "samples.jsonl": self._features,
            "features.f16": self._features,
            "measured.json": self._measurement,
            "stamp.json": self._stamp,
            "content-stamps.sqlite": self._content_stamps,
        }
        self._make()
        self.sound = {name: (self.root / name).read_bytes() for name in self._readers}
        self.seeds = [b""]

    def mutate_file(self, name: str, content: bytes, rng: Random) -> bytes:
        """By the kind of file."""
        if name.endswith((".json", ".jsonl")):
            return mutated_json(content, rng)
        if name.endswith(".npz") and rng.randrange(3):
            return _other_arrays(content, rng)
        return mutated_bytes(content, rng)

    def feed(self, data: bytes) -> None:
        """Read what was changed."""
        refused: list[LrsclipError] = []
        for name in self.put(data) or self._readers:
            try:
                self._readers[name]()
            except LrsclipError as error:
                refused.append(error)
        if refused:
            raise refused[0]

    def _make(self) -> None:
        (self.root / "probe.npz").write_bytes(self._bundle.probe_path.read_bytes())
        save_teacher(
            self.root / "teacher.npz",
            image_keys=list("abcd"),
            images=_VECTORS,
            texts=list("efgh"),
            text_rows=_VECTORS,
        )
        picture = self.folder / "a.png"
        Image.new("RGB", (8, 8), (1, 2, 3)).save(picture)
        pairs = [TrainingPair(key, ("a port",), "a long text", "", StoredImage(picture)) for key in "abc"]
        [shard] = write_shards(pairs, self.folder / "shards")
        shard.rename(self.root / "shard.tar")
        shard_with_sidecar(self.root / "shard.tar", self.folder / "sidecars")
        [self._side] = (self.folder / "sidecars").iterdir()
        (self.root / "sidecar.npz").write_bytes(self._side.read_bytes())
        (self.root / "cache.json").write_text(
            json.dumps({"shape": [2, 160, 1, 1], "size": 32, "split": SPLIT})
        )
        (self.root / "samples.jsonl").write_text(json.dumps(_SAMPLE) + "\n")
        (self.root / "features.f16").write_bytes(bytes(2 * 160 * 2))
        kept = keep_measurement(
            self._bundle, Measurement("2026", (Timing("onnxruntime", "fp32", 1.0, 2.0, None),))
        )
        assert kept is not None
        self._kept = kept
        (self.root / "measured.json").write_bytes(kept.read_bytes())
        (self.root / "stamp.json").write_text('{"path": "a", "bytes": 1, "sha256": "ab"}')
        with ContentStamps(self.root / "content-stamps.sqlite"):
            pass

    def _probe(self) -> None:
        self._bundle.probe_path.write_bytes((self.root / PROBE_FILE).read_bytes())
        probe_from_bundle(Bundle(self._bundle.path, self._bundle.manifest))

    def _teacher(self) -> None:
        Teacher(self.root / "teacher.npz")

    def _shard(self) -> None:
        loose = shard_from_tar(self.root / "shard.tar", strict=False)
        for index in range(len(loose)):
            pair = loose.pair(index)
            if pair.image is not None:
                pair.image.read()
        shard_from_tar(self.root / "shard.tar")

    def _sidecar(self) -> None:
        """It names the shard's time, so the shard must be the sound one; it is here, unless both changed."""
        self._side.write_bytes((self.root / "sidecar.npz").read_bytes())
        shard = shard_with_sidecar(self.root / "shard.tar", self._side.parent, strict=False)
        for index in range(min(len(shard), 10)):
            shard.pair(index)

    def _features(self) -> None:
        cache = FeatureCache.open(self.root)
        for sample in cache.samples:
            first, count = sample.rows
            cache.features[first : first + count].sum()

    def _measurement(self) -> None:
        self._kept.write_bytes((self.root / "measured.json").read_bytes())
        kept_measurement(self._bundle)

    def _stamp(self) -> None:
        probe = self._bundle.probe_path
        stamp = file_stamps._stamp_path(probe.resolve())
        assert stamp is not None
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_bytes((self.root / "stamp.json").read_bytes())
        assert file_stamps.sha256_with_stamp(probe) == file_stamps.sha256_of_file(probe)

    def _content_stamps(self) -> None:
        path = self.root / "content-stamps.sqlite"
        for beside in ("-wal", "-shm"):
            path.with_name(path.name + beside).unlink(missing_ok=True)
        with ContentStamps(path) as stamps:
            assert stamps.sha256_and_size(self._bundle.probe_path, lambda _: ("ab", 1)) == ("ab", 1)


def _other_arrays(content: bytes, rng: Random) -> bytes:
    """Change an array inside, and write the archive anew with its checksums right."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
    except Exception:  # an archive damaged before: any of zipfile's many errors
        return mutated_bytes(content, rng)
    if not members:
        return mutated_bytes(content, rng)
    name = rng.choice(list(members))
    if rng.randrange(8) == 0:
        members.pop(name)
    else:
        members[name] = mutated_bytes(members[name], rng)
    stream = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(stream, "w", method) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return stream.getvalue()
