"""A training step of ours against one as Long-CLIP's trainer takes it, on the same towers and weights.

    python benchmarks/train_vs_longclip.py ../shared/data/aid_rsicd --architecture mini --batch 64

Every pair brings its picture, a short and a long caption. Long-CLIP's loop pads both captions to 248
tokens and runs them in full; the long caption is compared with the image features, the short one with what
their 32 principal components keep of them; both directions are products of their own, with label smoothing
0.1. Ours is the step of ``lrsclip train`` with the same settings: texts by length without padding, one
product for both directions, the gradient's norm taken. Both run the image tower once and take an AdamW step;
no patch is left out, and decoding is outside. Captions are tokenised beforehand; ours looks them up in every
step.

Nothing is timed before both loops agreed on the losses of a few fp32 steps, updates included. Rounds are
interleaved, medians compared. Prints one JSON line per architecture last; ``--record`` appends it to
benchmarks/results/<device>/train_vs_longclip.jsonl.
"""

from __future__ import annotations

import argparse
import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from lrsclip_rt.benchmarking import BenchRow, append_record, interleaved_seconds, make_record
from lrsclip_rt.cpu import available_cpus
from lrsclip_rt.datasets import PairSet, pair_set_from_folder
from lrsclip_rt.errors import InputError, ParityError
from lrsclip_rt.images import rgb_from_source
from lrsclip_rt.pixels import pixels_from_image
from lrsclip_rt.tokenizer import Tokenizer
from lrsclip_train.batches import BatchPlan, Draw, TextsPlan
from lrsclip_train.config import DataConfig, LossConfig, OptimizerConfig, TrainConfig
from lrsclip_train.loop import train_step
from lrsclip_train.model import ARCHITECTURES, ClipConfig, DualClip
from lrsclip_train.run_state import RunState
from lrsclip_train.sources import pixel_spec
from lrsclip_train.texts import TokenTable

RESULTS = Path(__file__).resolve().parent / "results"
TINY = ClipConfig("tiny", 64, 32, 8, 64, 2, 64, 2)
CONFIGS = ARCHITECTURES | {TINY.name: TINY}
TARGETS = {"mini": 2.0, "ViT-B/16": 1.5}
COMPONENTS = 32
SMOOTHING = 0.1
AGREEMENT = 1e-3
"""Largest relative difference of a loss in fp32; a wrong loss or update is ten times as far off."""


@dataclass(frozen=True, eq=False)
class PairBatch:
    """N pairs.

    Attributes:
        pixels: (N, 3, S, S) float32, normalised.
        short_tokens: (N, 248) int64, padded with 0.
        long_tokens: (N, 248) int64, padded with 0.
        shorts: The N short captions.
        longs: The N long captions.
    """

    pixels: torch.Tensor
    short_tokens: torch.Tensor
    long_tokens: torch.Tensor
    shorts: tuple[str, ...]
    longs: tuple[str, ...]

    def to(self, device: torch.device) -> PairBatch:
        pixels, short_tokens, long_tokens = (
            tensor.to(device) for tensor in (self.pixels, self.short_tokens, self.long_tokens)
        )
        return PairBatch(pixels, short_tokens, long_tokens, self.shorts, self.longs)

    def batch(self, step: int, *, short: bool, long: bool) -> tuple[BatchPlan, torch.Tensor]:
        """The same at every step, as the trainer asks for it; image i owns text i and no other."""
        count = len(self.shorts)
        short_plan, long_plan = (own_texts(texts) for texts in (self.shorts, self.longs))
        draws = tuple(Draw(0, row, 0) for row in range(count))
        return BatchPlan(draws, tuple(str(row) for row in range(count)), short_plan, long_plan), self.pixels


@dataclass(frozen=True)
class StepLosses:
    """What a step minimised: the sum of both."""

    short: float
    long: float


def own_texts(texts: tuple[str, ...]) -> TextsPlan:
    own = np.eye(len(texts), dtype=bool)
    return TextsPlan(tuple(range(len(texts))), texts, texts, (), own, np.zeros_like(own))


def longclip_optimizer(model: DualClip, *, lr: float = 1e-6) -> torch.optim.AdamW:
    """AdamW with Long-CLIP's published settings, over everything that is trained."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2)


def eager_step(
    model: DualClip,
    optimizer: torch.optim.Optimizer,
    pixels: torch.Tensor,
    short_tokens: torch.Tensor,
    long_tokens: torch.Tensor,
    *,
    amp: bool = False,
) -> StepLosses:
    """One step on one device: forward, both losses, backward, update.

    Args:
        model: Stretched to 248 positions; its weights are float32 in any case.
        optimizer: Over the model's trained parameters.
        pixels: (N, 3, S, S) float32, normalised.
        short_tokens: (N, 248) int64, run in full.
        long_tokens: (N, 248) int64, run in full.
        amp: Run the towers in bfloat16 by autocast, which needs no scaling of gradients.
    """
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=amp):
        image = model.encode_image(pixels)
        long_text = model.encode_text(long_tokens)
        short_text = model.encode_text(short_tokens)
    image, long_text, short_text = (F.normalize(x.float(), dim=1) for x in (image, long_text, short_text))
    scale = model.logit_scale.exp()
    long_loss = smoothed_loss(image, long_text, scale)
    short_loss = smoothed_loss(principal_part(image), short_text, scale)
    optimizer.zero_grad(set_to_none=True)
    (long_loss + short_loss).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return StepLosses(short=short_loss.item(), long=long_loss.item())


def smoothed_loss(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE of (N, D) images and texts; image i owns text i and no other -> scalar."""
    own = torch.arange(len(image), device=image.device)
    image_to_text = scale * image @ text.T
    text_to_image = scale * text @ image.T  # computed again rather than transposed, as the trainer does
    return (
        F.cross_entropy(image_to_text, own, label_smoothing=SMOOTHING)
        + F.cross_entropy(text_to_image, own, label_smoothing=SMOOTHING)
    ) / 2


def principal_part(features: torch.Tensor, components: int = COMPONENTS) -> torch.Tensor:
    """What the batch's first principal components keep of (N, D) rows -> (N, D), not normalised again.

    Up to ``components + 1`` rows have no more components than that, so they stay as they are. No gradient
    flows through the basis: that of an SVD is infinite where two singular values are equal.
    """
    if len(features) <= components + 1:
        return features
    mean = features.mean(dim=0)
    centred = features - mean
    basis = torch.linalg.svd(centred.detach(), full_matrices=False).Vh[:components]  # (k, D)
    part: torch.Tensor = centred @ basis.T @ basis + mean
    return part


def pair_batches(pairs: PairSet, config: ClipConfig, size: int, *, seed: int) -> Iterator[PairBatch]:
    """Batches without end; the pairs are shuffled anew whenever too few are left.

    Args:
        pairs: Of which those with a short and a long caption are used.
        config: States S and the context.
        size: Pairs of a batch, N.
        seed: Of the order, and of which short caption is taken.

    Raises:
        InputError: If there are fewer pairs than a batch holds.
    """
    usable = [item for item in pairs.items if item.short and item.long]
    if not 1 <= size <= len(usable):
        raise InputError(
            f"{pairs.root} has {len(usable)} pairs with both captions, a batch of {size} cannot be made"
        )
    spec = pixel_spec(config)
    tokenizer = Tokenizer(context_length=config.context_length)
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(usable)).tolist()
        for start in range(0, len(order) - size + 1, size):
            items = [usable[i] for i in order[start : start + size]]
            shorts = [item.short[int(rng.integers(len(item.short)))] for item in items]
            longs = [item.long or "" for item in items]
            images = [pixels_from_image(rgb_from_source(pairs.image_path(item)), spec) for item in items]
            yield PairBatch(
                torch.from_numpy(np.stack(images)),
                torch.from_numpy(tokenizer.encode(shorts)).long(),
                torch.from_numpy(tokenizer.encode(longs)).long(),
                tuple(shorts),
                tuple(longs),
            )


class EagerLoop:
    """Long-CLIP's loop over a model of its own."""

    def __init__(self, model: DualClip, *, lr: float, precision: str) -> None:
        self.model, self.amp = model, precision == "bf16"
        self.optimizer = longclip_optimizer(model, lr=lr)

    def step(self, batch: PairBatch) -> StepLosses:
        return eager_step(
            self.model, self.optimizer, batch.pixels, batch.short_tokens, batch.long_tokens, amp=self.amp
        )


class OurLoop:
    """The trainer's step over a model of its own, with the same losses and the same optimizer."""

    def __init__(self, model: DualClip, *, lr: float, precision: str, batch: int) -> None:
        self.config = TrainConfig(
            run="",
            steps=1_000_000_000,  # so that the rate stays what it is
            batch=batch,
            precision=precision,
            data=DataConfig(train=("-",)),
            loss=LossConfig(weight="constant", components=COMPONENTS, smoothing=SMOOTHING),
            optimizer=OptimizerConfig(lr=lr, warmup=0, clip=1e9),
        )
        optimizer = longclip_optimizer(model, lr=lr)
        for group in optimizer.param_groups:
            group["factor"] = 1.0
        scaler = torch.amp.GradScaler(model.logit_scale.device.type, enabled=False)
        self.state = RunState(0, model, optimizer, scaler, model.state_dict())
        self.table = TokenTable()

    def tokenise(self, batches: Sequence[PairBatch]) -> None:
        """As the other loop has it: words become tokens before anything is timed."""
        for batch in batches:
            self.table.tokens((*batch.shorts, *batch.longs))

    def step(self, batch: PairBatch) -> StepLosses:
        row = train_step(self.state, self.config, batch, self.table)
        return StepLosses(short=row["short"], long=row["long"])


def largest_disagreement(
    model: DualClip, batches: Sequence[PairBatch], *, lr: float, ours: Callable[[DualClip], OurLoop]
) -> float:
    """Take an fp32 step on each batch with both loops and hold their losses together.

    Returns:
        The largest relative difference of a short or a long loss.

    Raises:
        ParityError: If it passes ``AGREEMENT``.
    """
    loops = EagerLoop(copy.deepcopy(model), lr=lr, precision="fp32"), ours(copy.deepcopy(model))
    worst = 0.0
    for number, batch in enumerate(batches, start=1):
        eager, trainer = (loop.step(batch) for loop in loops)
        print(
            f"step {number}  eager short {eager.short:.4f} long {eager.long:.4f}  "
            f"ours short {trainer.short:.4f} long {trainer.long:.4f}"
        )
        for a, b in ((eager.short, trainer.short), (eager.long, trainer.long)):
            worst = max(worst, abs(a - b) / abs(a))
        if not worst <= AGREEMENT:
            raise ParityError(
                f"the losses of step {number} differ by {worst:.2e}, allowed are {AGREEMENT:.0e}; "
                "nothing is timed"
            )
    return worst


def compare_architecture(name: str, pairs: PairSet, arguments: argparse.Namespace) -> None:
    config, device, lr, size = CONFIGS[name], torch.device(arguments.device), arguments.lr, arguments.batch
    made = pair_batches(pairs, config, size, seed=arguments.seed)
    batches = [batch.to(device) for batch in itertools.islice(made, arguments.batches)]
    torch.manual_seed(arguments.seed)
    model = DualClip(config).to(device).train()
    worst = largest_disagreement(
        model, batches[:2], lr=lr, ours=lambda own: OurLoop(own, lr=lr, precision="fp32", batch=size)
    )
    eager = EagerLoop(copy.deepcopy(model), lr=lr, precision=arguments.precision)
    ours = OurLoop(model, lr=lr, precision=arguments.precision, batch=size)
    ours.tokenise(batches)
    seconds = interleaved_seconds(
        {
            "Long-CLIP's loop, eager": lambda number: eager.step(batches[number % len(batches)]),
            "lrsclip train": lambda number: ours.step(batches[number % len(batches)]),
        },
        rounds=arguments.rounds,
    )
    times = [BenchRow.of("training step", who, values, batch=size) for who, values in seconds.items()]
    rows = [{**asdict(row), "ratio": times[0].p50_ms / row.p50_ms} for row in times]
    for row in rows:
        print(f"{name:12} {row['contender']:24} {row['p50_ms']:10.1f} ms  x{row['ratio']:.2f}")
    if name in TARGETS:
        reached = "reached" if rows[-1]["ratio"] >= TARGETS[name] else "missed"
        print(f"{name:12} target x{TARGETS[name]:g}: {reached}")
    longest = [int((batch.long_tokens.argmax(dim=1) + 1).max()) for batch in batches]
    settings = {
        "model": name,
        "weights": "random",
        "data": arguments.data.name,
        "device": arguments.device,
        **{key: getattr(arguments, key) for key in ("batch", "batches", "precision", "lr", "rounds", "seed")},
        "longest_caption_tokens": max(longest),
        "target": TARGETS.get(name),
    }
    parity = {"what": "losses", "contender": "lrsclip train", "largest_relative_difference": worst}
    record = make_record(
        "train_vs_longclip", threads=arguments.threads, settings=settings, results=[parity, *rows]
    )
    if arguments.record:
        append_record(record, RESULTS)
    print(record.to_json())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with pairs.jsonl")
    parser.add_argument("--architecture", action="append", choices=sorted(CONFIGS), help="repeats")
    parser.add_argument("--split", default="train")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=3, help="batches that are taken in turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="of both loops")
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help="append the result to benchmarks/results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pairs = pair_set_from_folder(arguments.data, split=arguments.split)
    for name in arguments.architecture or list(TARGETS):
        compare_architecture(name, pairs, arguments)


if __name__ == "__main__":
    main()
