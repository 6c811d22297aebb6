"""What lrsclip info calls proven rests on recorded files, and what has not run on hardware says so."""

from __future__ import annotations

import json
from pathlib import Path

from lrsclip_rt.proven import PROOFS

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def records(device: str) -> list[dict[str, object]]:
    return [
        json.loads(line)
        for path in (RESULTS / device).glob("*.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]


def test_every_device_that_is_claimed_has_records_made_on_it() -> None:
    for proof in PROOFS:
        if proof.device is not None:
            assert records(proof.device), proof


def test_what_has_no_record_says_where_it_has_not_run() -> None:
    for proof in PROOFS:
        if proof.device is None:
            assert any(word in proof.said for word in ("nothing", "no engine", "no graph", "for the host"))


def test_records_of_gpus_are_claimed_and_no_rehearsal_is_among_them() -> None:
    claimed = {proof.device for proof in PROOFS}
    for folder in RESULTS.iterdir():
        if not folder.is_dir():
            continue
        for record in records(folder.name):
            settings = record["settings"]
            assert isinstance(settings, dict)
            assert not settings.get("rehearsal"), folder
            if "gpu" in settings:
                assert folder.name in claimed, f"{folder.name} was recorded: say so in lrsclip_rt/proven.py"


def test_each_claim_is_made_once() -> None:
    assert len({proof.what for proof in PROOFS}) == len(PROOFS)
