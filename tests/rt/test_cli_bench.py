"""`lrsclip bench`: checked before timed, and its last line is the record."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from PIL import Image

from lrsclip_rt.benchmarking import RECORD_KEYS
from lrsclip_rt.cli.bench import command
from lrsclip_rt.embedder import load
from lrsclip_rt.errors import InputError
from lrsclip_rt.model_timing import probe_parity, query_of_tokens, time_files, write_jpegs

QUICK = ["--rounds", "1", "--files", "3", "--batch", "2", "--threads", "1", "--no-starts"]

SHARED = {"pillow", "numpy"}
"""Who does the stages that are the same for every precision."""


def run(*arguments, status=0):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output + str(result.exception)
    return result


def test_the_last_line_is_a_record_of_every_part(made_bundle, cache_home):
    result = run("-b", made_bundle, "--precision", "fp32,int8-cpu", *QUICK)
    record = json.loads(result.stdout.splitlines()[-1])
    assert tuple(record) == RECORD_KEYS
    contenders = {"fp32 onnxruntime", "int8-cpu onnxruntime"}
    for what, batch in (
        ("parity on the probe", None),
        ("image tower", 2),
        ("text query, 12 tokens", 1),
        ("text query, 12 tokens", 2),
        ("text query, 200 tokens", 1),
        ("files to embeddings", 3),
        ("stage: tower", 3),
    ):
        rows = [row for row in record["results"] if row["what"] == what and row.get("batch") == batch]
        assert {row["contender"] for row in rows} == contenders, what
        assert all(row["passed"] for row in rows if batch is None)
        assert all(0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] for row in rows if batch is not None)
    stages = {row["what"]: row for row in record["results"] if row["what"].startswith("stage: ")}
    assert set(stages) == {f"stage: {name}" for name in ("decode", "resize", "tower", "search", "fuse")}
    assert stages["stage: decode"]["contender"] == "pillow"
    assert stages["stage: search"]["batch"] == stages["stage: fuse"]["batch"] == 1
    assert record["threads"] == 1
    assert record["settings"]["model"] == "handmade"
    assert record["peak_rss_bytes"] > 0


def test_without_a_wish_what_nothing_here_runs_is_noted_and_left_out(made_bundle, cache_home):
    result = run("-b", made_bundle, *QUICK)
    assert "left out: fp16: " in result.stderr
    record = json.loads(result.stdout.splitlines()[-1])
    ran = {row["contender"].split()[0] for row in record["results"] if row["contender"] not in SHARED}
    assert ran == {"fp32", "int8-cpu"}


def test_a_precision_asked_for_by_name_that_cannot_run_is_a_failure(made_bundle, cache_home):
    result = run("-b", made_bundle, "--precision", "fp32,fp16", *QUICK, status=1)
    assert "failed: fp16 auto: " in result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["results"]


def test_a_backend_that_cannot_run_names_the_reason(made_bundle, cache_home):
    result = CliRunner().invoke(command, ["-b", str(made_bundle), "--backend", "tensorrt", *QUICK])
    assert result.exit_code == 1
    assert "failed: fp32 tensorrt: " in result.stderr


def test_a_precision_below_its_gate_is_not_timed(tmp_path, handmade, cache_home):
    handmade.make_bundle(tmp_path / "bundle", extra={"int8-cpu": 2.0})
    result = run("-b", tmp_path / "bundle", *QUICK, status=1)
    record = json.loads(result.stdout.splitlines()[-1])
    rows = [row for row in record["results"] if row["contender"] not in SHARED]
    timed = {row["contender"].split()[0] for row in rows if "p50_ms" in row}
    checked = {row["contender"].split()[0]: row["passed"] for row in record["results"] if "passed" in row}
    assert timed == {"fp32"}
    assert checked == {"fp32": True, "int8-cpu": False}
    assert "fell below its gate" in result.stderr


def test_images_of_a_folder_are_timed_and_an_empty_folder_is_named(tmp_path, made_bundle, cache_home):
    result = CliRunner().invoke(command, ["-b", str(made_bundle), "--images", str(tmp_path), *QUICK])
    assert result.exit_code == 1
    assert "no images found" in str(result.exception)
    for index in range(4):
        Image.new("RGB", (30, 20), (index, 0, 0)).save(tmp_path / f"{index}.png")
    record = json.loads(run("-b", made_bundle, "--images", tmp_path, *QUICK).stdout.splitlines()[-1])
    files = [row for row in record["results"] if row["what"] == "files to embeddings"]
    assert {row["batch"] for row in files} == {3}
    assert record["settings"]["images"] == tmp_path.name


def test_a_folder_holds_the_record_a_page_and_pictures_and_is_not_overwritten(
    tmp_path, made_bundle, cache_home
):
    folder = tmp_path / "speed"
    arguments = ["-b", made_bundle, "--precision", "fp32,int8-cpu", *QUICK[:-1], "--starts", "-o", folder]
    result = run(*arguments)
    names = {"bench.jsonl", "bench.md", "throughput-parity.svg", "latency-batch.svg", "stages.svg"}
    assert {path.name for path in folder.iterdir()} == names
    record = json.loads((folder / "bench.jsonl").read_text())
    assert record == json.loads(result.stdout.splitlines()[-1])
    starts = [row for row in record["results"] if row["what"] == "start"]
    assert len(starts) == 2
    assert all(row["cold_s"] > 0 and row["warm_s"] > 0 and row["file_bytes"] > 0 for row in starts)
    page = (folder / "bench.md").read_text()
    for row in record["results"]:
        assert row["contender"] in page
    for name in names - {"bench.jsonl", "bench.md"}:
        assert f"]({name})" in page
        drawing = ElementTree.fromstring((folder / name).read_text())
        assert "fp32 onnxruntime" in "".join(drawing.itertext())
    refused = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert refused.exit_code == 1
    assert "pass --overwrite" in str(refused.exception)


def test_text_lengths_are_those_that_were_asked_for(made_bundle, cache_home):
    record = json.loads(run("-b", made_bundle, "--tokens", "5,20", *QUICK).stdout.splitlines()[-1])
    found = {row["what"] for row in record["results"] if row["what"].startswith("text query")}
    assert found == {"text query, 5 tokens", "text query, 20 tokens"}
    assert CliRunner().invoke(command, ["-b", str(made_bundle), "--tokens", "2"]).exit_code == 2


@pytest.mark.parametrize("batch", ["0", "eight", "-1"])
def test_a_batch_that_is_no_number_is_a_usage_mistake(batch, made_bundle):
    assert CliRunner().invoke(command, ["-b", str(made_bundle), "--batch", batch]).exit_code == 2


def test_the_probe_of_the_bundle_is_what_precisions_are_held_against(made_bundle, cache_home):
    assert probe_parity(load(made_bundle)).image.minimum > 0.999999
    worse = probe_parity(load(made_bundle, precision="int8-cpu"))
    assert worse.passed
    assert worse.image.mean < 0.999999


@pytest.mark.parametrize("tokens", [3, 12, 200, 248])
def test_a_made_up_query_has_the_tokens_that_were_asked_for(tokens, made_bundle, cache_home):
    tokenizer = load(made_bundle).tokenizer
    query = query_of_tokens(tokenizer, tokens, seed=1)
    assert (tokenizer.encode(query)[0] != 0).sum() == tokens
    assert query != query_of_tokens(tokenizer, tokens, seed=2) or tokens == 3


@pytest.mark.parametrize("tokens", [2, 249])
def test_a_query_that_cannot_be_is_refused(tokens, made_bundle, cache_home):
    with pytest.raises(InputError, match="tokens"):
        query_of_tokens(load(made_bundle).tokenizer, tokens, seed=0)


def test_made_up_jpegs_are_the_same_for_the_same_seed(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = write_jpegs(tmp_path / "a", 2, width=64, height=48)
    second = write_jpegs(tmp_path / "b", 2, width=64, height=48)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[0].read_bytes() != first[1].read_bytes()
    with Image.open(first[0]) as image:
        assert (image.format, image.size) == ("JPEG", (64, 48))


def test_a_file_that_cannot_be_read_stops_the_timing(tmp_path, made_bundle, cache_home):
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.jpg cannot be timed"):
        time_files({"fp32": load(made_bundle)}, [tmp_path / "a.jpg"], batch=1, rounds=1)
