"""Watched folders, mostly with real processes: short rests, and files that grow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lrsclip_rt.archive import Archive, ArchiveWriter
from lrsclip_rt.archive.ingest import IndexReport, index_sources
from lrsclip_rt.archive.verifying import verify_archive
from lrsclip_rt.archive.watching import FolderWatch, watch_folders
from lrsclip_rt.embedder import load
from lrsclip_rt.errors import InputError

DEADLINE_S = 60.0

WATCHER = """
import signal, sys, threading
from lrsclip_rt.archive.watching import watch_folders
from lrsclip_rt.embedder import load
import json
archive, folder, bundle, rest = sys.argv[1:]
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=stop.set).start())
done = lambda r: print(json.dumps([r.rows, r.files, [name for name, _ in r.failures]]), flush=True)
print("ready", flush=True)
watch_folders(archive, [folder], load(bundle), stop=stop, every_s=0.05, rest_s=float(rest), done=done)
print("stopped", flush=True)
"""


def picture(path: Path, seed: int = 0, *, edge: int = 40) -> Path:
    noise = np.random.default_rng(seed).integers(0, 255, (edge, edge, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    path = tmp_path / "inputs"
    path.mkdir()
    return path


def names(watch: FolderWatch, now: float) -> list[str]:
    return [file.relative for file in watch.poll(now)]


def test_a_file_is_taken_when_it_has_rested_and_again_when_it_changes(inputs: Path) -> None:
    watch = FolderWatch([inputs], rest_s=5.0)
    picture(inputs / "a.png")
    assert names(watch, 100.0) == []
    assert names(watch, 104.9) == []
    picture(inputs / "b.png", 1)
    assert names(watch, 105.0) == ["a.png"]
    assert names(watch, 106.0) == []
    with (inputs / "b.png").open("ab") as stream:
        stream.write(b"more")
    assert names(watch, 110.0) == [], "it grew since 105"
    assert names(watch, 114.9) == []
    assert names(watch, 115.0) == ["b.png"]
    assert names(watch, 1000.0) == []
    os.utime(inputs / "a.png", ns=(1, 1))
    assert names(watch, 1001.0) == []
    assert names(watch, 1006.0) == ["a.png"]
    (inputs / "a.png").unlink()
    assert names(watch, 1007.0) == []
    picture(inputs / "a.png")
    assert names(watch, 1008.0) == []
    assert names(watch, 1013.0) == ["a.png"]


def test_files_that_are_no_images_or_hidden_are_left_alone(inputs: Path) -> None:
    (inputs / "notes.txt").write_text("x")
    picture(inputs / "a.png").rename(inputs / ".a.png.part.png")
    (inputs / "sub").mkdir()
    picture(inputs / "sub" / "b.png")
    watch = FolderWatch([inputs], rest_s=0.0)
    assert names(watch, 0.0) == ["sub/b.png"]


def test_only_folders_without_a_catalogue_are_watched(inputs: Path) -> None:
    with pytest.raises(InputError, match="only folders can be watched"):
        FolderWatch([picture(inputs / "a.png")])
    (inputs / "catalog.json").write_text(json.dumps({"type": "Catalog", "stac_version": "1.0.0"}))
    with pytest.raises(InputError, match="holds a STAC catalogue"):
        FolderWatch([inputs])


@pytest.fixture
def watcher(tmp_path: Path, inputs: Path, made_bundle: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", WATCHER, str(tmp_path / "archive"), str(inputs), str(made_bundle), "0.4"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def next_round(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def test_a_running_watch_takes_what_arrives_and_ends_with_everything_committed(
    watcher: subprocess.Popen[str], inputs: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    picture(inputs / "a.png", 0)
    assert next_round(watcher) == [1, 1, []]
    content = picture(tmp_path / "outside.png", 1, edge=200).read_bytes()
    with (inputs / "slow.png").open("wb") as stream:  # arrives in pieces, for longer than the rest
        for start in range(0, len(content), len(content) // 8 + 1):
            stream.write(content[start : start + len(content) // 8 + 1])
            stream.flush()
            time.sleep(0.12)
    assert next_round(watcher) == [1, 1, []]
    (inputs / "broken.png").write_bytes(b"no image")
    assert next_round(watcher) == [0, 1, [str(inputs / "broken.png")]]
    picture(inputs / "c.png", 2)
    assert next_round(watcher) == [1, 1, []], "the broken file is not tried again"
    picture(inputs / "broken.png", 3)
    assert next_round(watcher) == [1, 1, []], "but when it changes it is"
    watcher.send_signal(signal.SIGTERM)
    assert watcher.wait(DEADLINE_S) == 0
    assert watcher.stdout is not None
    assert watcher.stdout.read() == "stopped\n"
    with Archive.open(archive) as opened:
        assert len(opened) == 4
    assert not verify_archive(archive).damaged


def test_while_another_writer_is_at_work_the_files_wait(
    inputs: Path, tmp_path: Path, made_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load(made_bundle)
    archive = tmp_path / "archive"
    picture(inputs / "a.png")
    index_sources(archive, [inputs], model)
    stop = threading.Event()
    reports: list[IndexReport] = []

    def done(report: IndexReport) -> None:
        reports.append(report)
        stop.set()

    watch = threading.Thread(
        target=watch_folders,
        args=(archive, [inputs], model),
        kwargs={"stop": stop, "every_s": 0.02, "rest_s": 0.05, "done": done},
    )
    with ArchiveWriter.of_existing(archive):
        watch.start()
        wait_until(lambda: "1 files wait" in caplog.text)
        assert reports == []
    watch.join(DEADLINE_S)
    assert not watch.is_alive()
    assert [report.known_sources for report in reports] == [1]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_cleanly_on_a_signal(
    tmp_path: Path, inputs: Path, made_bundle: Path, number: signal.Signals
) -> None:
    picture(inputs / "a.png")
    archive = tmp_path / "archive"
    code = "from lrsclip_rt.cli import main; main()"
    arguments = [
        "index",
        str(inputs),
        "-a",
        str(archive),
        "-b",
        str(made_bundle),
        "--watch",
        "--every",
        "0.1",
    ]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    process.send_signal(number)
    rest, errors = process.communicate(timeout=DEADLINE_S)
    assert json.loads(line)["rows_added"] == 1
    assert (process.returncode, rest) == (0, "")
    assert "stopped" in errors
    assert not verify_archive(archive).damaged
