"""Long text: contradictions with one wrong detail, texts in full and cut, and the benchmark of both."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lrsclip_rt.bootstrapping import Estimate, estimate_from_resamples, resampled_percentages
from lrsclip_rt.bundle import BUILT_IN, MANIFEST_FILE
from lrsclip_rt.datasets import PairSet, pair_set_from_folder
from lrsclip_rt.demonstration.contradictions import (
    ALL,
    Case,
    contradicted_cases,
    noticed_shares,
    unseen_scenes,
    unseen_tiles,
)
from lrsclip_rt.embedder import load
from lrsclip_rt.errors import InputError
from lrsclip_rt.evaluation import Recalls, RetrievalMetrics
from lrsclip_rt.long_text import CutComparison, CutScore, compare_cuts, encode_cut
from lrsclip_rt.rendering import (
    CLASSES,
    TEST_SEEDS,
    RenderedScene,
    contradict,
    render_scene,
    render_tile,
)
from lrsclip_rt.rendering.descriptions import contradiction, facts_of
from lrsclip_rt.tokenizer import Tokenizer

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "long_text.py"
EOT = 49407


@cache
def tile_of(name: str) -> RenderedScene:
    return render_tile(name, TEST_SEEDS[0], size=64)


@cache
def scene_of_many() -> RenderedScene:
    return render_scene(TEST_SEEDS[0], height=512, width=512)


@pytest.fixture(scope="module")
def benchmark_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("long_text_benchmark", BENCHMARK)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rendered_pairs(tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    """Thirty-two rendered tiles with their short captions, in the place of photographs."""
    root = tmp_path_factory.mktemp("pairs")
    lines = []
    for name in CLASSES:
        for seed in TEST_SEEDS[:2]:
            tile = render_tile(name, seed, size=64)
            Image.fromarray(tile.pixels).save(root / f"{name}-{seed}.png")
            lines.append(json.dumps({"image": f"{name}-{seed}.png", "split": "val", "short": [tile.short]}))
    (root / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return pair_set_from_folder(root, split="val")


# -- contradictions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_a_contradiction_changes_exactly_one_detail(name: str) -> None:
    tile = tile_of(name)
    slots = [slot for fact in facts_of(tile) for slot in fact.slots]
    for index in range(12):
        found = contradiction(tile, index)
        assert any(
            slot.kind == found.kind and slot.text == found.right and found.wrong in slot.wrong
            for slot in slots
        )
        # The one place that differs reads "right" in the one and "wrong" in the other.
        truth, false = tile.long.lower(), found.text.lower()
        starts = [i for i in range(len(truth)) if truth.startswith(found.right.lower(), i)]
        swapped = [truth[:i] + found.wrong.lower() + truth[i + len(found.right) :] for i in starts]
        assert swapped.count(false) == 1
        assert found.text != tile.long


def test_contradictions_of_a_scene_differ_from_each_other_and_are_the_same_again() -> None:
    for scene in (tile_of("harbour"), scene_of_many()):
        count = sum(len(slot.wrong) for fact in facts_of(scene) for slot in fact.slots)
        texts = [contradiction(scene, index).text for index in range(count)]
        assert len(set(texts)) == count > 20
        assert texts == [contradiction(scene, index).text for index in range(count)]
        assert texts[0] == contradict(scene)
        for index in (-1, count):
            with pytest.raises(InputError, match=f"scene that has {count}"):
                contradiction(scene, index)


def test_the_kinds_of_details_take_turns() -> None:
    for scene in (*map(tile_of, CLASSES), scene_of_many()):
        kinds = sorted({slot.kind for fact in facts_of(scene) for slot in fact.slots if slot.wrong})
        assert sorted(contradiction(scene, index).kind for index in range(len(kinds))) == kinds
        assert len(kinds) >= 4


def test_the_classes_together_cover_every_kind_that_was_promised() -> None:
    kinds = {contradiction(tile_of(name), index).kind for name in CLASSES for index in range(6)}
    assert kinds >= {"object", "colour", "count", "size", "direction", "light"}
    assert "position" in {contradiction(scene_of_many(), index).kind for index in range(5)}


def test_contradictions_have_80_to_248_tokens() -> None:
    scenes = [*map(tile_of, CLASSES), scene_of_many()]
    batch = Tokenizer().encode_batch([contradiction(s, i).text for s in scenes for i in range(6)])
    assert not batch.cut.any()
    assert batch.eot.min() + 1 >= 80
    assert batch.eot.max() + 1 <= 248


def test_a_contradiction_is_noticed_only_if_the_truth_is_nearer() -> None:
    scenes = [tile_of("pond"), tile_of("river")]

    def answering(wrong_cosines: list[float]) -> SimpleNamespace:
        """A model for which images and truths are one vector, and wrong texts are at given cosines."""
        truths = {scene.long for scene in scenes}
        left = iter(wrong_cosines)

        def embed_texts(texts: list[str]) -> np.ndarray:
            cosines = np.array([1.0 if t in truths else next(left) for t in texts])
            return np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1).astype(np.float32)

        def stream_images(items: object) -> list[SimpleNamespace]:
            return [SimpleNamespace(embeddings=np.tile(np.float32([1, 0]), (len(list(items)), 1)))]

        return SimpleNamespace(embed_texts=embed_texts, stream_images=stream_images)

    cases = contradicted_cases(answering([0.5, 1.0, 0.9, 0.2]), (("tile", s) for s in scenes), each=2)
    assert [case.noticed for case in cases] == [True, False, True, True]
    assert [case.picture for case in cases] == [0, 0, 1, 1]
    assert [case.margin for case in cases] == pytest.approx([0.5, 0.0, 0.1, 0.8], abs=1e-6)
    expected = [contradiction(scene, index) for scene in scenes for index in range(2)]
    assert [(c.kind, c.right, c.wrong) for c in cases] == [(e.kind, e.right, e.wrong) for e in expected]


def test_shares_are_counted_by_group_and_kind() -> None:
    def case(group: str, picture: int, kind: str, margin: float) -> Case:
        return Case(group, picture, kind, "right", "wrong", margin)

    cases = [
        case("tile", 0, "colour", 0.1),
        case("tile", 0, "count", -0.1),
        case("tile", 1, "colour", 0.0),
        case("scene", 2, "count", 0.2),
    ]
    shares = {(s.group, s.kind): s for s in noticed_shares(cases, resamples=50)}
    assert {key: (s.share.value, s.cases, s.pictures) for key, s in shares.items()} == {
        (ALL, ALL): (50.0, 4, 3),
        (ALL, "colour"): (50.0, 2, 2),
        (ALL, "count"): (50.0, 2, 2),
        ("tile", ALL): (pytest.approx(100 / 3), 3, 2),
        ("tile", "colour"): (50.0, 2, 2),
        ("tile", "count"): (0.0, 1, 1),
        ("scene", ALL): (100.0, 1, 1),
        ("scene", "count"): (100.0, 1, 1),
    }
    assert all(s.share.low <= s.share.value <= s.share.high for s in shares.values())
    with pytest.raises(InputError, match="needs units"):
        noticed_shares([])


def test_a_model_of_mean_colours_gets_half_of_the_contradictions_right_by_chance(made_bundle: Path) -> None:
    model = load(made_bundle, threads=1)
    cases = contradicted_cases(model, unseen_tiles(3, size=32), each=4)
    assert len(cases) == 3 * 4 * len(CLASSES)
    overall = noticed_shares(cases)[0]
    assert 35 < overall.share.value < 65
    assert overall.share.low > 25
    assert overall.share.high < 75


def test_unseen_pictures_are_those_of_the_test_seeds() -> None:
    tiles = list(unseen_tiles(1, size=32))
    assert [(group, tile.objects[0].name) for group, tile in tiles] == [("tile", name) for name in CLASSES]
    assert {tile.seed for _, tile in tiles} == {TEST_SEEDS[0]}
    ((group, scene),) = unseen_scenes(1, size=512)
    assert (group, scene.seed, scene.long) == ("scene", TEST_SEEDS[0], scene_of_many().long)


# -- the bootstrap ----------------------------------------------------------------------------------


def test_resampled_percentages_equal_a_plain_loop() -> None:
    rng = np.random.default_rng(3)
    asked = rng.integers(0, 3, (9, 2)).astype(np.float64)
    hits = np.floor(asked * rng.random(asked.shape) + 0.5)
    resampled = resampled_percentages(hits, asked, resamples=20, seed=4)
    draws = np.random.default_rng(4).multinomial(9, np.full(9, 1 / 9), size=20)
    for draw, row in zip(draws, resampled, strict=True):
        drawn = np.repeat(np.arange(9), draw)
        assert row == pytest.approx(100 * hits[drawn].sum(axis=0) / asked[drawn].sum(axis=0))


def test_equal_columns_share_their_resamples_so_that_their_difference_is_certain() -> None:
    hits = np.repeat(np.random.default_rng(0).integers(0, 2, (50, 1)), 2, axis=1).astype(np.float64)
    resampled = resampled_percentages(hits, np.ones_like(hits))
    assert np.ptp(resampled[:, 0]) > 10
    assert (resampled[:, 0] == resampled[:, 1]).all()


def test_the_interval_of_a_share_is_that_of_the_binomial() -> None:
    hits = (np.arange(400) < 120).astype(np.float64)[:, None]
    interval = estimate_from_resamples(30.0, resampled_percentages(hits, np.ones_like(hits), seed=1)[:, 0])
    half = 1.96 * np.sqrt(0.3 * 0.7 / 400) * 100
    assert interval.low == pytest.approx(30 - half, abs=0.8)
    assert interval.high == pytest.approx(30 + half, abs=0.8)


def test_resamples_without_a_question_are_left_out_and_none_at_all_is_an_error() -> None:
    asked = np.array([[1.0, 0.0], [0.0, 0.0]])
    resampled = resampled_percentages(asked, asked, resamples=100)
    drawn = ~np.isnan(resampled[:, 0])
    assert 50 < drawn.sum() < 95
    assert estimate_from_resamples(100.0, resampled[:, 0]) == Estimate(100.0, 100.0, 100.0)
    with pytest.raises(InputError, match="no resample holds a question"):
        estimate_from_resamples(0.0, resampled[:, 1])
    with pytest.raises(InputError, match="must both be"):
        resampled_percentages(asked, asked[:, :1])


def test_one_interval_is_above_another_only_if_they_do_not_touch() -> None:
    assert Estimate(60, 55, 65).is_above(Estimate(50, 45, 54))
    assert not Estimate(60, 55, 65).is_above(Estimate(50, 45, 55))
    assert not Estimate(40, 35, 45).is_above(Estimate(50, 46, 54))


# -- cuts -------------------------------------------------------------------------------------------


def test_a_cut_text_is_its_first_tokens_and_the_end(made_bundle: Path) -> None:
    model = load(made_bundle, threads=1)
    text = tile_of("airport").long
    whole = model.tokenizer.encode(text)[0]
    for tokens in (77, 20, 3):
        batch = encode_cut(model, [text, "a pond"], tokens)
        assert batch.tokens.shape == (2, tokens)
        assert batch.tokens[0].tolist() == [*whole[: tokens - 1].tolist(), EOT]
        assert batch.cut.tolist() == [True, tokens < 4]
        assert batch.eot[0] == tokens - 1


class WordCounter:
    """A model whose text embedding holds which of N code words a text contains; images are the code words."""

    def __init__(self, texts: list[str], bundle: Path) -> None:
        self.spec = SimpleNamespace(context_length=248)
        self.bundle = SimpleNamespace(vocabulary_path=load(bundle).bundle.vocabulary_path)
        self.words = [Tokenizer().encode(text.split()[-1])[0, 1] for text in texts]

    def embed_tokens(self, batch) -> np.ndarray:
        rows = np.array([[1.0, *(float(word in row) for word in self.words)] for row in batch.tokens])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_images_are_found_only_while_the_word_that_tells_them_apart_is_not_cut_away(
    made_bundle: Path,
) -> None:
    marks = ["airport", "bridge", "river", "forest", "harbour", "desert", "farm", "beach"]
    padding = [120, 120, 120, 120, 50, 50, 10, 10]
    texts = [f"{'green ' * n}{mark}" for n, mark in zip(padding, marks, strict=True)]
    model = WordCounter(texts, made_bundle)
    images = np.eye(9, dtype=np.float32)[1:]
    found = compare_cuts(model, images, texts, resamples=200)
    assert [score.tokens for score in found.scores] == [248, 77, 20]
    assert [score.cut for score in found.scores] == [0, 4, 6]
    assert [score.t2i_r1.value for score in found.scores] == [100, 50, 25]
    assert [score.i2t_r1.value for score in found.scores] == [100, 50, 25]
    assert [score.metrics.t2i.r1 for score in found.scores] == [100, 50, 25]
    assert [gain.value for gain in found.t2i_gains] == [50, 25]
    assert found.scores[0].t2i_r1 == Estimate(100, 100, 100)
    # 50 and 25 % of eight pairs are no sure difference.
    assert not found.longer_finds_more_images
    assert not found.longer_is_found_more
    json.dumps([score.as_dict() for score in found.scores])


def test_longer_is_better_only_if_no_two_intervals_touch() -> None:
    none = RetrievalMetrics(Recalls(0, 0, 0), Recalls(0, 0, 0), 1, 1)
    high, middle, low, wide = (Estimate(v, v - h, v + h) for v, h in ((90, 4), (80, 5), (70, 4), (75, 9)))

    def compared(t2i: list[Estimate], i2t: list[Estimate]) -> tuple[bool, bool]:
        scores = [CutScore(9, 0, none, *pair) for pair in zip(t2i, i2t, strict=True)]
        found = CutComparison(tuple(scores), (), ())
        return found.longer_finds_more_images, found.longer_is_found_more

    assert compared([high, middle, low], [high, middle, wide]) == (True, False)
    assert compared([high, low, middle], [high, middle, low]) == (False, True)


def test_texts_that_the_cut_makes_equal_are_rivals(made_bundle: Path) -> None:
    model = load(made_bundle, threads=1)
    common = (
        "many green trees and some white buildings stand beside a long straight grey road in this place and"
    )
    texts = [f"{common} {word}" for word in ("a pond", "a river", "a bridge")]
    images = model.embed_texts(texts)
    found = compare_cuts(model, images, texts, cuts=(12,), resamples=20)
    assert found.scores[0].t2i_r1.value == 100
    assert found.scores[1].i2t_r1.value == 0
    assert found.scores[1].t2i_r1.value <= 100 / 3 + 1e-6


def test_cuts_and_texts_that_make_no_comparison_are_refused(made_bundle: Path) -> None:
    model = load(made_bundle, threads=1)
    images = model.embed_texts(["a pond"])
    for cuts in ((248,), (20, 77), (2,)):
        with pytest.raises(InputError, match="must fall from below the context of 248"):
            compare_cuts(model, images, ["a pond"], cuts=cuts)
    with pytest.raises(InputError, match="text 0 has more than the model's 248 tokens"):
        compare_cuts(model, images, ["green " * 300])
    with pytest.raises(InputError, match="a caption names image"):
        compare_cuts(model, images, ["a pond", "a river"])


# -- the benchmark ----------------------------------------------------------------------------------


def test_mosaics_are_dealt_without_repeats_and_have_100_to_220_tokens(
    benchmark_script, rendered_pairs
) -> None:
    tokenizer = Tokenizer()
    plans = benchmark_script.plan_mosaics(rendered_pairs, tokenizer, 12, seed=1)
    assert plans == benchmark_script.plan_mosaics(rendered_pairs, tokenizer, 12, seed=1)
    assert plans != benchmark_script.plan_mosaics(rendered_pairs, tokenizer, 12, seed=2)
    assert len(plans) == 12
    for plan in plans:
        assert len(plan.members) == len(set(plan.members)) == plan.rows * plan.cols
        assert int(tokenizer.encode_batch(plan.text).eot[0]) + 1 == plan.tokens
        assert 100 <= plan.tokens <= 220
        shorts = [rendered_pairs.items[i].short[0].rstrip(" .") for i in plan.members]
        assert all(short.lower() in plan.text.lower() for short in shorts)
    # The first deal: until too few images are left for another mosaic, every image is new.
    dealt: list[int] = []
    for plan in plans:
        if len(rendered_pairs) - len(dealt) < 12:
            break
        dealt += plan.members
    assert len(dealt) == len(set(dealt)) > 20


def test_mosaics_of_real_captions_come_in_many_layouts_and_use_every_image_alike(
    benchmark_script, data_dir: Path
) -> None:
    pairs = pair_set_from_folder(data_dir / "aid_rsicd", split="val")
    plans = benchmark_script.plan_mosaics(pairs, Tokenizer(), 500, seed=0)
    assert len({plan.text for plan in plans}) == 500
    assert len({(plan.rows, plan.cols) for plan in plans}) >= 5
    described = benchmark_script.described_plans(pairs, plans)
    deals = -(-sum(len(plan.members) for plan in plans) // (len(pairs) - 12))
    assert described["most_uses_of_an_image"] <= deals <= 3
    assert described["images_used"] > 0.95 * len(pairs)


def test_pairs_that_make_no_mosaic_are_refused(benchmark_script, rendered_pairs) -> None:
    few = PairSet(rendered_pairs.root, "val", rendered_pairs.items[:11])
    with pytest.raises(InputError, match="has 11 images with captions, expected 12"):
        benchmark_script.plan_mosaics(few, Tokenizer(), 1, seed=0)
    item = rendered_pairs.items[0]
    terse = [type(item)(f"{i}.png", ("x",)) for i in range(12)]
    with pytest.raises(InputError, match=r"no mosaic of .* has a text of 100-220 tokens"):
        benchmark_script.plan_mosaics(
            PairSet(rendered_pairs.root, None, tuple(terse)), Tokenizer(), 1, seed=0
        )


def test_a_mosaics_picture_shows_every_image_in_its_cell(benchmark_script, rendered_pairs) -> None:
    plan = benchmark_script.plan_mosaics(rendered_pairs, Tokenizer(), 1, seed=3)[0]
    picture = benchmark_script.picture_from_plan(rendered_pairs, plan, size=240)
    assert picture.shape == (240, 240, 3)
    for index, member in enumerate(plan.members):
        row, col = divmod(index, plan.cols)
        top, left = row * 240 // plan.rows, col * 240 // plan.cols
        cell = picture[top : top + 240 // plan.rows, left : left + 240 // plan.cols]
        with Image.open(rendered_pairs.image_path(rendered_pairs.items[member])) as image:
            whole = np.asarray(image).mean(axis=(0, 1))
        assert np.abs(cell.mean(axis=(0, 1)) - whole).max() < 6


@pytest.mark.skipif(
    not (BUILT_IN / MANIFEST_FILE).is_file(), reason="this checkout has no built-in bundle yet"
)
def test_the_built_in_model_reads_long_text_and_notices_a_wrong_object(
    benchmark_script, rendered_pairs
) -> None:
    model = load(threads=1)
    plans = benchmark_script.plan_mosaics(rendered_pairs, model.tokenizer, 40, seed=0)
    found = benchmark_script.measure_mosaics(model, rendered_pairs, plans, resamples=50, seed=0)
    whole, _, short = (score.metrics for score in found.scores)
    assert whole.t2i.r5 + whole.i2t.r5 > short.t2i.r5 + short.i2t.r5 + 20

    cases = contradicted_cases(model, unseen_tiles(3, size=192), each=4)
    shares = {(share.group, share.kind): share.share for share in noticed_shares(cases)}
    assert shares["tile", "object"].value > 75
    assert shares["tile", ALL].value > 50


def run_script(data: Path, bundle: Path, results: Path, *options: str) -> list[str]:
    small = "--mosaics 8 --tiles 1 --scenes 1 --each 2 --resamples 20 --threads 1".split()
    folders = [str(data), "-b", str(bundle), "--results", str(results)]
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *folders, *small, *options],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout.splitlines()


def test_the_script_prints_a_table_and_its_record_and_appends_it_only_when_told(
    rendered_pairs, made_bundle: Path, tmp_path: Path
) -> None:
    lines = run_script(rendered_pairs.root, made_bundle, tmp_path)
    assert not list(tmp_path.iterdir())
    record = json.loads(lines[-1])
    assert record["bench"] == "long_text"
    rows = record["results"]
    assert [row["tokens"] for row in rows if row["what"] == "retrieval"] == [248, 77, 20]
    assert [row["tokens"] for row in rows if row["what"] == "gain"] == [[248, 77], [77, 20]]
    overall = next(row for row in rows if row["what"] == "contradictions")
    assert (overall["group"], overall["kind"], overall["cases"]) == ("all", "all", 2 * (len(CLASSES) + 1))
    assert rows[0]["what"] == "mosaics"
    assert rows[-1]["noticed"] == overall["share"]
    assert any(line.split()[:2] == ["all", "all"] for line in lines)

    run_script(rendered_pairs.root, made_bundle, tmp_path, "--record")
    (path,) = tmp_path.glob("*/long_text.jsonl")
    again = json.loads(path.read_text(encoding="utf-8"))
    assert again["results"] == rows
