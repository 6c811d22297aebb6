"""bundle.json, and the files that a bundle brings along: probe, vocabulary, graphs that name weight files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from random import Random

import handmade

from fuzz.harness import FilesHarness, packed
from fuzz.mutation import mutated_json
from lrsclip_rt.bpe import vocabulary_from_file
from lrsclip_rt.bundle import MANIFEST_FILE, PROBE_FILE, Bundle
from lrsclip_rt.bundle_records import VOCABULARY_FILE, Manifest
from lrsclip_rt.errors import LrsclipError
from lrsclip_rt.probe import probe_from_bundle

__all__ = ["BundleHarness"]

_GRAPH = "image.fp32.onnx"


class BundleHarness(FilesHarness):
    """Opens a folder as a bundle and asks it everything.

    Where an input leaves bundle.json alone, that is brought up to date with the hashes of what it changes:
    whoever forges a bundle would do so, and only then are the other files looked at.
    """

    name = "bundle.json"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        handmade.make_bundle(self.root, vocabulary=None, extra={"int8-cpu": 0.02, "fp16": 0.0001})
        names = (MANIFEST_FILE, PROBE_FILE, VOCABULARY_FILE, _GRAPH)
        self.sound = {name: (self.root / name).read_bytes() for name in names}
        record = json.loads(self.sound[MANIFEST_FILE])
        record["thresholds"] = {"fp16": {"mean": 0.9999}}
        record["presence_threshold"] = 0.2
        self.seeds = [
            packed({0: json.dumps(record).encode()}),
            packed({0: self.sound[MANIFEST_FILE]}),
            packed({1: self.sound[PROBE_FILE]}),
            packed({2: self.sound[VOCABULARY_FILE]}),
            packed({3: self.sound[_GRAPH]}),
        ]

    def case(self, rng: Random) -> bytes:
        """Mostly bundle.json."""
        data = self.seeds[0] if rng.randrange(10) < 7 else rng.choice(self.seeds)
        for _ in range(rng.choice((1, 1, 2, 4))):
            data = self.mutate(data, rng)
        return data

    def mutate_file(self, name: str, content: bytes, rng: Random) -> bytes:
        """The manifest as JSON, the others byte by byte."""
        if name == MANIFEST_FILE:
            return mutated_json(content, rng)
        return super().mutate_file(name, content, rng)

    def feed(self, data: bytes) -> None:
        """Open, then ask for every file that a user of the bundle asks for."""
        changed = self.put(data)
        if changed and MANIFEST_FILE not in changed:
            self.write(MANIFEST_FILE, self._manifest_of(changed))
            self._changed.add(MANIFEST_FILE)
        bundle = Bundle.open(self.root)
        root = self.root.resolve()
        assert all((root / name).resolve().is_relative_to(root) for name in bundle.files), "a path outside"
        assert Manifest.from_json(bundle.manifest.to_json()).to_json() == bundle.manifest.to_json()
        refused: list[LrsclipError] = []
        for precision in bundle.precisions:
            bundle.passed(precision)
            bundle.content(precision)
            for tower in bundle.towers(precision):
                try:
                    bundle.graph_path(tower, precision)
                except LrsclipError as error:
                    refused.append(error)
        try:
            probe_from_bundle(bundle)
            if VOCABULARY_FILE in changed:  # the sound one is a stub
                vocabulary_from_file(bundle.vocabulary_path)
        except LrsclipError as error:
            refused.append(error)
        if refused:
            raise refused[0]

    def _manifest_of(self, changed: dict[str, bytes]) -> bytes:
        record = json.loads(self.sound[MANIFEST_FILE])
        for name, content in changed.items():
            digest = hashlib.sha256(content).hexdigest()
            record["files"][name] = {"sha256": digest, "bytes": len(content)}
            if name == VOCABULARY_FILE:
                record["model"]["tokenizer_sha256"] = digest
        return json.dumps(record).encode()
