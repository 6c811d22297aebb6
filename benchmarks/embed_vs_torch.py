"""Image files to embeddings and query latency, side by side with eager PyTorch of the same weights.

    python benchmarks/embed_vs_torch.py                      # random weights: ViT-B/16 and the built-in shape
    python benchmarks/embed_vs_torch.py --model FILE.pt --images DIR --precision fp32,int8-cpu

One process, the same number of threads for both, rounds interleaved, medians compared. Nothing is timed
before fp32 agreed with PyTorch at a cosine of 0.99999 on the files and queries themselves; a lower precision
that falls below its gate is left out. PyTorch decodes with open_clip's transform on as many threads as it
computes with, and runs texts at 248 tokens as the published code does, and once more at the query's length.

Appends one JSON line per model to benchmarks/results/<device>/embed_vs_torch.jsonl and prints it last.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from lrsclip_export.exporting import export_bundle
from lrsclip_rt.benchmarking import BenchRow, append_record, interleaved_seconds, make_record
from lrsclip_rt.cpu import available_cpus
from lrsclip_rt.embedder import Embedder, load
from lrsclip_rt.errors import ParityError
from lrsclip_rt.images import iter_image_paths
from lrsclip_rt.model_timing import LONG_QUERY_TOKENS, SHORT_QUERY_TOKENS, query_of_tokens, write_jpegs
from lrsclip_rt.parity import GATES, Embeddings, ParityReport, compare
from lrsclip_train.checkpoints import model_from_checkpoint, read_checkpoint
from lrsclip_train.model import MINI, VIT_B_16, ClipConfig, DualClip
from lrsclip_train.open_clip_import import import_open_clip

RESULTS = Path(__file__).resolve().parent / "results"
TINY = ClipConfig("tiny", 64, 32, 8, 64, 2, 64, 2)
CONFIGS = {"vit-b-16": VIT_B_16, "mini": MINI, "tiny": TINY}


@dataclass(frozen=True)
class EagerClip:
    """The yardstick: PyTorch as people run it.

    Attributes:
        model: Eager, fp32, in evaluation mode.
        transform: open_clip's, which is torchvision's Resize, CenterCrop, ToTensor and Normalize.
        threads: Threads that decode; torch's own are set globally.
    """

    model: DualClip
    transform: Any
    threads: int

    def embed_files(self, paths: Sequence[Path], *, batch: int) -> NDArray[np.float32]:
        """(N, D) float32 unit rows."""
        rows = []
        with ThreadPoolExecutor(self.threads) as pool, torch.inference_mode():
            for start in range(0, len(paths), batch):
                pixels = torch.stack(list(pool.map(self._pixels, paths[start : start + batch])))
                rows.append(F.normalize(self.model.encode_image(pixels), dim=-1).numpy())
        return np.concatenate(rows)

    def embed_tokens(self, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        """(N, T) token ids -> (N, D) float32 unit rows."""
        with torch.inference_mode():
            row: NDArray[np.float32] = F.normalize(
                self.model.encode_text(torch.from_numpy(tokens)), dim=-1
            ).numpy()
        return row

    def _pixels(self, path: Path) -> torch.Tensor:
        with Image.open(path) as image:
            pixels: torch.Tensor = self.transform(image.convert("RGB"))
        return pixels


def eager_clip(checkpoint: Path, model: Embedder, *, threads: int) -> EagerClip:
    """PyTorch of the same file, with the preprocessing that the bundle states."""
    spec = model.spec
    transform = import_open_clip().image_transform(
        spec.image_size, is_train=False, mean=spec.mean, std=spec.std, interpolation="bicubic"
    )
    return EagerClip(model_from_checkpoint(read_checkpoint(checkpoint)).eval(), transform, threads)


def random_checkpoint(config: ClipConfig, path: Path, *, seed: int = 0) -> Path:
    """Random weights of a shape: speed does not depend on what a model knows."""
    torch.manual_seed(seed)
    torch.save(DualClip(config).state_dict(), path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", action="append", help="vit-b-16, mini, tiny or a checkpoint; repeats")
    parser.add_argument("--precision", default="fp32,int8-cpu")
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--files", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--images", type=Path, help="folder of images instead of made-up JPEGs")
    parser.add_argument("--no-record", action="store_true", help="print the record, append nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.model or ["vit-b-16", "mini"]:
        with tempfile.TemporaryDirectory() as folder:
            compare_model(name, Path(folder), arguments)


def compare_model(name: str, folder: Path, arguments: argparse.Namespace) -> None:
    known = CONFIGS.get(name)
    checkpoint = Path(name) if known is None else random_checkpoint(known, folder / f"{name}.pt")
    precisions = arguments.precision.split(",")
    bundle = export_bundle(checkpoint, folder / "bundle", precisions=precisions, allow_failed=True)
    models = {
        p: load(bundle, precision=p, threads=arguments.threads) for p in dict.fromkeys(["fp32", *precisions])
    }
    eager = eager_clip(checkpoint, models["fp32"], threads=arguments.threads)
    if arguments.images is None:
        paths = write_jpegs(folder, arguments.files)
    else:
        paths = list(iter_image_paths([arguments.images]))[: arguments.files]

    checks = check_answers(eager, models, paths, batch=arguments.batch)
    fp32, *others = checks
    if not fp32.passed:
        raise ParityError(f"{name}: fp32 does not answer as PyTorch does, so nothing is timed: {fp32}")
    for report in others:
        if not report.passed:
            print(f"left out: {report.precision} fell below its gate: {report}")
            del models[report.precision]

    rows = []
    for what, items, runs in contests(eager, models, paths, batch=arguments.batch):
        repeats, settle_s = (10, 0.05) if items == 1 else (1, 0.0)
        seconds = interleaved_seconds(runs, rounds=arguments.rounds, repeats=repeats, settle_s=settle_s)
        times = [BenchRow.of(what, contender, values, batch=items) for contender, values in seconds.items()]
        rows += [{**asdict(row), "ratio": times[0].p50_ms / row.p50_ms} for row in times]
    for row in rows:
        print(f"{row['what']:24} {row['contender']:24} {row['p50_ms']:10.2f} ms  x{row['ratio']:.2f}")
    settings = {
        "model": models["fp32"].spec.architecture,
        "weights": "random" if known is not None else checkpoint.name,
        "batch": arguments.batch,
        "files": len(paths),
        "images": "made-up JPEGs, 600 x 450 px" if arguments.images is None else arguments.images.name,
        "rounds": arguments.rounds,
    }
    parity = [{"what": "parity", "contender": report.precision, **report.to_dict()} for report in checks]
    record = make_record(
        "embed_vs_torch", threads=arguments.threads, settings=settings, results=[*parity, *rows]
    )
    if not arguments.no_record:
        append_record(record, RESULTS)
    print(record.to_json())


def check_answers(
    eager: EagerClip, models: dict[str, Embedder], paths: Sequence[Path], *, batch: int
) -> list[ParityReport]:
    """Every precision against PyTorch on the very files and queries that will be timed; fp32 first."""
    queries = [query(models["fp32"], tokens) for tokens in (SHORT_QUERY_TOKENS, LONG_QUERY_TOKENS)]
    tokens = models["fp32"].tokenizer.encode_batch(queries).tokens
    reference = Embeddings(eager.embed_files(paths, batch=batch), eager.embed_tokens(tokens))
    reports = []
    for precision, model in models.items():
        answers = Embeddings(model.embed_images(list(paths), batch_size=batch), model.embed_texts(queries))
        # Two queries are too few for a ranking: cosines decide.
        gate = GATES[precision]
        report = compare(
            reference, answers, precision=precision, gate=type(gate)(gate.mean, gate.minimum, 0.0)
        )
        reports.append(report)
    return reports


def contests(
    eager: EagerClip, models: dict[str, Embedder], paths: Sequence[Path], *, batch: int
) -> list[tuple[str, int, dict[str, Callable[[int], object]]]]:
    """What is timed: name, items of a round, and the contenders with PyTorch first."""
    files: dict[str, Callable[[int], object]] = {
        "PyTorch fp32": lambda _: eager.embed_files(paths, batch=batch)
    }
    for precision, model in models.items():
        files[precision] = _files(model, paths, batch)
    found = [("files to embeddings", len(paths), files)]
    for length in (SHORT_QUERY_TOKENS, LONG_QUERY_TOKENS):
        text = query(models["fp32"], length)
        runs: dict[str, Callable[[int], object]] = {
            "PyTorch fp32, 248 tokens": _eager_text(eager, models["fp32"], text, trimmed=False),
            "PyTorch fp32, trimmed": _eager_text(eager, models["fp32"], text, trimmed=True),
        }
        for precision, model in models.items():
            runs[precision] = _text(model, text)
        found.append((f"query of {length} tokens", 1, runs))
    return found


def query(model: Embedder, tokens: int) -> str:
    return query_of_tokens(model.tokenizer, tokens, seed=tokens)


def _files(model: Embedder, paths: Sequence[Path], batch: int) -> Callable[[int], object]:
    return lambda _: model.embed_images(list(paths), batch_size=batch)


def _text(model: Embedder, text: str) -> Callable[[int], object]:
    # Not embed_texts, which remembers recent queries.
    return lambda _: model.embed_tokens(model.tokenizer.encode_batch([text]))


def _eager_text(eager: EagerClip, model: Embedder, text: str, *, trimmed: bool) -> Callable[[int], object]:
    def run(_: int) -> object:
        encoded = model.tokenizer.encode_batch([text])
        length = int(encoded.eot[0]) + 1 if trimmed else encoded.tokens.shape[1]
        return eager.embed_tokens(encoded.tokens[:, :length])

    return run


if __name__ == "__main__":
    main()
