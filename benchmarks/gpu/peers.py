"""What others reach on this GPU: the matrix roof, and the same image tower in PyTorch, eager and compiled."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from benchmarks.gpu.job import Job
from benchmarks.gpu.steps import NotRun
from lrsclip_rt.benchmarking import BenchRow

__all__ = ["peers"]


def peers(job: Job) -> None:
    """Roofs first, then eager and compiled fp16 per batch."""
    try:
        import torch
    except ImportError as error:
        raise NotRun(f"PyTorch is not here: {error}") from error
    if not job.rehearsal and not torch.cuda.is_available():
        raise NotRun(f"PyTorch {torch.__version__} sees no GPU")
    device = torch.device("cpu" if job.rehearsal else "cuda")
    rows: list[Any] = [_matrix_roof(job, device), _copy_roof(job, device)]
    for row in _towers(job, device):
        rows.append(row)
        # Each record has all rows so far: what ends this step early costs only the rest.
        job.record("gpu_peers", rows, {"torch": torch.__version__})


def _matrix_roof(job: Job, device: Any) -> dict[str, Any]:
    import torch

    side = job.size(8192, 64)
    dtype = torch.float32 if job.rehearsal else torch.float16
    # Random, never zeros: those can run faster.
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = _seconds(device, lambda: left @ right, rounds=job.size(20, 2))
    row = BenchRow.of("matrix product", f"PyTorch {dtype}, {side}", seconds)
    rate = 2 * side**3 / (row.p50_ms / 1000) / 1e12
    print(f"{'matrix roof':24} {rate:.1f} TFLOP/s")
    return {"what": "matrix roof", "tflops": rate, "p50_ms": row.p50_ms, "rounds": row.rounds}


def _copy_roof(job: Job, device: Any) -> dict[str, Any]:
    import torch

    count = job.size(1 << 30, 1 << 16)
    source = torch.randint(0, 255, (count,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = _seconds(device, lambda: target.copy_(source), rounds=job.size(20, 2))
    row = BenchRow.of("copy", "PyTorch", seconds)
    rate = 2 * count / (row.p50_ms / 1000) / 1e9
    print(f"{'copy roof':24} {rate:.0f} GB/s, read and written")
    return {"what": "copy roof", "gb_per_second": rate, "p50_ms": row.p50_ms, "rounds": row.rounds}


def _towers(job: Job, device: Any) -> Iterator[BenchRow]:
    import torch

    from benchmarks.side_by_side.weights import CONFIGS, random_state
    from lrsclip_train.model import DualClip

    name = job.models[-1]
    model = DualClip(CONFIGS[name])
    model.load_state_dict(random_state(CONFIGS[name]))
    dtype = torch.float32 if job.rehearsal else torch.float16
    model = model.eval().to(device, dtype)
    contenders: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
        "eager": (model.encode_image, (1, 8, 32, 128, 256) if not job.rehearsal else (1, 3))
    }
    if not job.rehearsal:
        # A copy: what is compiled must not change what runs eagerly.
        compiled = torch.compile(copy.deepcopy(model).encode_image)
        contenders["torch.compile"] = (compiled, (32, 256))
    for contender, (run, batches) in contenders.items():
        for batch in batches:
            pixels = torch.randn(batch, 3, *[CONFIGS[name].image_size] * 2, device=device, dtype=dtype)
            runs = job.size(max(4, 512 // batch), 2)
            with torch.inference_mode():
                seconds = _seconds(device, partial(_repeated, run, pixels, runs), rounds=job.size(10, 2))
            row = BenchRow.of(
                f"image tower {name}",
                f"{str(dtype).partition('.')[2]} PyTorch {contender}",
                [one / runs for one in seconds],
                batch=batch,
            )
            print(f"{row.what} {row.contender}, batch {batch}: {row.per_second:.1f} images/s", flush=True)
            yield row


def _repeated(run: Callable[[Any], Any], pixels: Any, runs: int) -> None:
    for _ in range(runs):
        run(pixels)


def _seconds(device: Any, work: Callable[[], object], *, rounds: int) -> list[float]:
    """Times of calls that are waited for."""
    import torch

    found = []
    for number in range(-3, rounds):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number >= 0:
            found.append(time.perf_counter() - start)
    return found
