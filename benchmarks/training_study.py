"""What the loss of dual-granularity training is worth: pair weights, principal components, one text alone.

    python benchmarks/training_study.py DATA --stem FILE.npz --cache DIR --work DIR
    python benchmarks/training_study.py ... --seeds 0 1 2 --only constant-0.5 short-only

Trains small towers on the train split, one setting after another, with the same images, order and steps, and
measures retrieval on the val split: short captions, and long texts of three captions or more against the
whole gallery. Finished runs are kept and not repeated. Nothing is timed. Prints a table and, with --record,
appends one JSON line to benchmarks/results/<device>/training_study.jsonl and prints it last.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lrsclip_rt.benchmarking import append_record, make_record
from lrsclip_train.config import (
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)

RESULTS = Path(__file__).resolve().parent / "results"
COMPONENTS = 32

SCHEDULES = {
    "constant-0.5": LossConfig(weight="constant", weight_start=0.5),
    "constant-0.25": LossConfig(weight="constant", weight_start=0.25),
    "linear": LossConfig(weight="linear"),
    "cosine": LossConfig(weight="cosine"),
    "three-stage": LossConfig(weight="three-stage"),
}
SETTINGS = {
    **SCHEDULES,
    **{f"{name}+pca": dataclasses.replace(loss, components=COMPONENTS) for name, loss in SCHEDULES.items()},
    "short-only": LossConfig(weight="short-only"),
    "long-only": LossConfig(weight="long-only"),
}


def study_config(arguments: argparse.Namespace, name: str, seed: int) -> TrainConfig:
    """The run of one setting and seed; all runs differ in the loss and the seed alone."""
    return TrainConfig(
        run=str(arguments.work / f"{name}-{seed}"),
        steps=arguments.steps,
        batch=arguments.batch,
        seed=seed,
        precision=arguments.precision,
        save_every=arguments.steps,
        eval_every=arguments.steps,
        model=ModelConfig(
            plain_steps=arguments.steps // 4,
            stem_weights=str(arguments.stem),
            image_layers=1,
            text_layers=2,
            patch_dropout=0.5,
        ),
        data=DataConfig(
            train=(str(arguments.data),),
            cached_views=arguments.views,
            cache=str(arguments.cache),
            cache_runner=arguments.cache_runner,
            mosaics=arguments.mosaics,
            mosaic_share=0.05 if arguments.mosaics else 0.0,
            tiles=arguments.tiles,
            scenes=arguments.scenes,
            category_share=0.1,
            word_drop=0.1,
        ),
        loss=dataclasses.replace(SETTINGS[name], smoothing=0.05),
        optimizer=OptimizerConfig(
            lr=1e-3, stem_lr=0.2, warmup=30, weight_decay=0.1, beta2=0.98, eps=1e-6, ema=0.98
        ),
    )


def scores_of(config: TrainConfig) -> dict[str, float]:
    """Train, unless that was done, and read the last line of the log."""
    import torch

    from lrsclip_train.loop import train
    from lrsclip_train.prepare import prepare

    run = Path(config.run)
    if not _finished(run):
        torch.set_num_threads(1)
        run.mkdir(parents=True, exist_ok=True)
        (run / "log.jsonl").unlink(missing_ok=True)
        sources, val = prepare(config)
        train(config, sources, val)
        (run / "last.pt").unlink()
    return {name: value for name, value in _last_row(run).items() if name.startswith("val_")}


def _finished(run: Path) -> bool:
    return not (run / "last.pt").exists() and (run / "log.jsonl").is_file() and "val_mR" in _last_row(run)


def _last_row(run: Path) -> dict[str, Any]:
    row: dict[str, Any] = json.loads((run / "log.jsonl").read_text("utf-8").splitlines()[-1])
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and seed standard deviation of each setting, the best short mR first."""
    lines = ["| setting | seeds | short mR | long mR |", "|---|---|---|---|"]
    names = {row["setting"] for row in rows}
    summaries = []
    for name in names:
        own = [row for row in rows if row["setting"] == name]
        means = [statistics.mean(row[key] for row in own) for key in ("val_mR", "val_long_mR")]
        spreads = [
            statistics.stdev(row[key] for row in own) if len(own) > 1 else None
            for key in ("val_mR", "val_long_mR")
        ]
        summaries.append((means, spreads, name, len(own)))
    for means, spreads, name, seeds in sorted(summaries, reverse=True, key=lambda summary: summary[0]):
        cells = [
            f"{mean:.2f}" + ("" if spread is None else f" ± {spread:.2f}")
            for mean, spread in zip(means, spreads, strict=True)
        ]
        lines.append(f"| {name} | {seeds} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with pairs.jsonl, splits train and val")
    parser.add_argument("--stem", type=Path, required=True, help="ImageNet MobileNetV2 .npz")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the stem's features")
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--cache-runner", default="torch", choices=["torch", "openvino"])
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--mosaics", type=int, default=6000)
    parser.add_argument("--tiles", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=0)
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"])
    parser.add_argument("--processes", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()

    asked = [(name, seed) for seed in arguments.seeds for name in arguments.only]
    configs = [study_config(arguments, name, seed) for name, seed in asked]
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        for (name, seed), scores in zip(asked, pool.map(scores_of, configs), strict=True):
            rows.append({"setting": name, "seed": seed, **scores})
            print(json.dumps(rows[-1]), flush=True)
    print(table(rows))
    settings = {
        key: value if isinstance(value, int) else str(value)
        for key, value in vars(arguments).items()
        if key in ("steps", "batch", "views", "mosaics", "precision")
    }
    record = make_record("training_study", threads=1, settings=settings, results=rows)
    if arguments.record:
        append_record(record, arguments.results)
    print(record.to_json())


if __name__ == "__main__":
    main()
