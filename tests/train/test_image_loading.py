"""Images of a step from worker processes: the same as without them, whatever breaks."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lrsclip_rt.errors import InputError, WorkerError
from lrsclip_rt.images import rgb_from_source
from lrsclip_rt.pixels import PixelSpec, pixels_from_image
from lrsclip_train.augment import Augmentation
from lrsclip_train.image_loading import ImageLoader, LoadedImages
from lrsclip_train.pair_sources import FolderPairs, ShardPairs
from lrsclip_train.shards import write_shards

SIZE = 24
EVERYTHING = Augmentation(
    crop_area=(0.4, 1.0),
    zoom_out=0.4,
    turns=True,
    mirror=0.5,
    brightness=0.3,
    contrast=0.3,
    saturation=0.3,
    blur=0.3,
    jpeg=0.3,
)
BROKEN = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pairs, of which number 5 is cut short and number 6 has an orientation-bound caption."""
    root = tmp_path_factory.mktemp("loading")
    lines = []
    for i in range(20):
        samples = np.random.default_rng(i).integers(0, 255, (30 + i, 45 - i, 3)).astype(np.uint8)
        Image.fromarray(samples).save(root / f"{i}.png")
        lines.append({"image": f"{i}.png", "short": ["a pond on the left" if i == 6 else f"pond {i}"]})
    whole = (root / f"{BROKEN}.png").read_bytes()
    (root / f"{BROKEN}.png").write_bytes(whole[: len(whole) // 2])
    (root / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    return root


def indices(step: int) -> list[int]:
    return [] if step >= 6 else np.random.default_rng((9, step)).permutation(20)[:11].tolist()


def steps(loader: ImageLoader, wanted: Sequence[int]) -> dict[int, LoadedImages]:
    with loader:
        return {step: loader.load(step, indices(step)) for step in wanted}


def same(a: LoadedImages, b: LoadedImages) -> None:
    assert torch.equal(a.pixels, b.pixels)
    assert torch.equal(a.ok, b.ok)
    assert a.failures == b.failures


def no_children() -> bool:
    return [child for child in multiprocessing.active_children() if "Spawn" in type(child).__name__] == []


def test_workers_work_ahead_and_a_resume_change_nothing(folder: Path) -> None:
    source = FolderPairs(folder)

    def loader(workers: int, **options: object) -> ImageLoader:
        return ImageLoader(
            source,
            workers=workers,
            augmentation=EVERYTHING,
            size=SIZE,
            seed=3,
            **options,  # type: ignore[arg-type]
        )

    plain = steps(loader(0), range(6))
    ahead = steps(loader(2, upcoming=indices, ahead=2), range(6))
    resumed = steps(loader(1, upcoming=indices), range(3, 6))
    for step in range(6):
        same(plain[step], ahead[step])
    for step in range(3, 6):
        same(plain[step], resumed[step])
    assert plain[0].pixels.shape == (11, 3, SIZE, SIZE)
    assert plain[0].pixels.dtype == torch.float32
    assert not torch.equal(plain[0].pixels, plain[1].pixels)
    assert no_children()


def test_position_step_and_seed_each_change_the_augmentation(folder: Path) -> None:
    source = FolderPairs(folder)
    with ImageLoader(source, workers=0, augmentation=Augmentation.overhead(), size=SIZE, seed=1) as loader:
        images = loader.load(4, [2, 2])
        later = loader.load(5, [2, 2])
    with ImageLoader(source, workers=0, augmentation=Augmentation.overhead(), size=SIZE, seed=2) as other:
        reseeded = other.load(4, [2, 2])
    rows = [*images.pixels, later.pixels[0], reseeded.pixels[0]]
    for i, row in enumerate(rows):
        assert not any(torch.equal(row, earlier) for earlier in rows[:i])


def test_plain_images_are_the_runtimes_in_float_and_in_bytes(folder: Path) -> None:
    source = FolderPairs(folder)
    spec = PixelSpec(SIZE, (0.4, 0.5, 0.6), (0.2, 0.3, 0.1))
    options = {"workers": 0, "augmentation": Augmentation.plain(), "size": SIZE}
    with ImageLoader(source, mean=spec.mean, std=spec.std, **options) as loader:  # type: ignore[arg-type]
        floats = loader.load(0, range(4)).pixels
    for i in range(4):
        expected = pixels_from_image(rgb_from_source(folder / f"{i}.png"), spec)
        assert np.array_equal(floats[i].numpy(), expected)
    with ImageLoader(source, mean=None, **options) as loader:  # type: ignore[arg-type]
        samples = loader.load(0, range(4)).pixels
    assert samples.dtype == torch.uint8
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    torch.testing.assert_close((samples / 255 - mean) / std, floats)


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_a_broken_image_costs_its_row_and_is_named(kind: str, folder: Path, tmp_path: Path) -> None:
    source: FolderPairs | ShardPairs = FolderPairs(folder)
    if kind == "shards":
        source = ShardPairs(write_shards(iter(source), tmp_path, samples_per_shard=8))
    known: dict[str, str] = {}
    loader = ImageLoader(
        source, workers=1, augmentation=Augmentation.overhead(), size=SIZE, failures=known, mean=None
    )
    with loader:
        images = loader.load(0, [3, BROKEN, 4])
        again = loader.load(1, [BROKEN])
    assert images.ok.tolist() == [True, False, True]
    assert not images.pixels[1].any()
    assert images.pixels[0].any()
    assert images.pixels[2].any()
    ((key, reason),) = images.failures
    assert key == source.key(BROKEN)
    assert "cannot be decoded as PNG" in reason
    assert again.ok.tolist() == [False]
    assert known == {key: reason}
    assert loader.failed == 2


def test_an_image_whose_caption_says_where_is_kept_upright(folder: Path) -> None:
    turning = Augmentation(turns=True, mirror=0.5, flip=0.5)
    source = FolderPairs(folder)
    results = []
    for keep in (True, False):
        with ImageLoader(
            source, workers=0, augmentation=turning, size=SIZE, mean=None, keep_upright=keep
        ) as loader:
            results.append(loader.load(0, [6] * 12 + [7] * 12).pixels)
    upright, free = results
    assert all(torch.equal(row, upright[0]) for row in upright[:12])
    assert not all(torch.equal(row, free[0]) for row in free[:12])
    assert torch.equal(upright[12:], free[12:])


def test_a_killed_worker_is_an_error_of_its_own(folder: Path) -> None:
    with ImageLoader(FolderPairs(folder), workers=1, augmentation=EVERYTHING, size=SIZE) as loader:
        loader.load(0, [0])
        (worker,) = multiprocessing.active_children()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        worker.join(20)
        with pytest.raises(WorkerError, match="died: it was killed, or memory ran out"):
            steps(loader, range(1, 50))
    assert no_children()


def test_an_interrupt_ends_the_workers(folder: Path) -> None:
    loader = ImageLoader(
        FolderPairs(folder), workers=2, augmentation=EVERYTHING, size=SIZE, upcoming=indices, ahead=3
    )

    def interrupted() -> None:
        with loader:
            loader.load(0, indices(0))
            assert not no_children()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert no_children()


SCRIPT = """
import multiprocessing, os, signal, sys
from lrsclip_train.augment import Augmentation
from lrsclip_train.image_loading import ImageLoader
from lrsclip_train.pair_sources import FolderPairs

if __name__ == "__main__":
    source = FolderPairs(sys.argv[1])
    with ImageLoader(source, workers=1, augmentation=Augmentation.plain(), size=8) as loader:
        loader.load(0, [0])
        # What Ctrl-C sends to the whole group does not stop a worker.
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGINT)
        assert loader.load(1, [1]).ok.all()
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="process states are read from /proc")
def test_workers_end_when_their_parent_is_killed(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    # The output goes to a file: an orphan would hold a pipe open, and the test would wait for it.
    with (tmp_path / "pids").open("w") as out:
        done = subprocess.run(
            [sys.executable, str(script), str(folder)], stdout=out, timeout=120, check=False
        )
    assert done.returncode == -signal.SIGKILL
    (pid,) = (tmp_path / "pids").read_text().split()
    stat = Path("/proc", pid, "stat")
    for _ in range(100):
        # A zombie has ended; who collects it is not ours to say.
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.2)
    os.kill(int(pid), signal.SIGKILL)
    pytest.fail("a worker outlived its parent by 20 s")


def test_wrong_use_is_refused(folder: Path, tmp_path: Path) -> None:
    source = FolderPairs(folder)
    for options, message in (
        ({"workers": -1}, "workers must be at least 0, got -1"),
        ({"workers": 0, "seed": -1}, "seed must be at least 0"),
        ({"workers": 0, "size": 0}, "size must be at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            ImageLoader(source, **{"augmentation": EVERYTHING, "size": SIZE} | options)  # type: ignore[arg-type]
    loader = ImageLoader(
        source, workers=1, augmentation=EVERYTHING, size=SIZE, upcoming=lambda step: [step], ahead=1
    )
    with pytest.raises(InputError, match="not open; use it as: with"):
        loader.load(0, [0])
    with loader:
        loader.load(0, [0])
        with pytest.raises(InputError, match=r"upcoming\(1\) named other images"):
            loader.load(1, [0])
        assert loader.load(2, [2]).ok.all()


def test_a_shard_that_vanishes_ends_the_run_with_its_name(folder: Path, tmp_path: Path) -> None:
    (path,) = write_shards([FolderPairs(folder)[0]], tmp_path)
    with ImageLoader(ShardPairs([path]), workers=1, augmentation=EVERYTHING, size=SIZE) as loader:
        assert loader.load(0, [0]).ok.all()
        path.unlink()
        with pytest.raises(InputError, match=r"000000\.tar cannot be read"):
            loader.load(1, [0])


def test_workers_do_not_import_torch() -> None:
    code = "import sys, lrsclip_train.image_loading; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
