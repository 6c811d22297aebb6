"""``lrsclip pull`` against a server on this machine that answers as the Hugging Face Hub does."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import checkpoint_makers as makers
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from lrsclip_export.cli.pull import command
from lrsclip_export.published import PUBLISHED, download, published_model
from lrsclip_rt.errors import DownloadError, InputError, OutputExistsError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = published_model("dgtrs-clip-vit-b-16")
# The Hub's library writes 10 MiB at a time, so that much must arrive before a break to be kept.
SIZE, BREAK, KEPT = 24_000_000, 15_000_000, 10_485_760
RESOLVE = "/MitsuiChen14/DGTRS-CLIP-ViT-B-16/resolve/main/DGTRS-CLIP-ViT-B-16.pt"


@dataclass
class Hub:
    """What the server serves, how it misbehaves, and what it was asked."""

    content: bytes
    port: int = 0
    promised: str = ""  # SHA-256 it announces
    break_after: int | None = None  # bytes after which the next body's connection breaks
    refuse_bodies: bool = False
    ignore_ranges: bool = False
    commit: str | None = COMMIT
    requests: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def bodies(self) -> list[str | None]:
        """Range headers of the requests for the file's bytes."""
        return [
            ranges
            for method, path, ranges, _ in self.requests
            if method == "GET" and path.startswith("/store/")
        ]


def handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self._serve()

        def do_GET(self) -> None:
            self._serve()

        def _serve(self) -> None:
            given = (self.headers.get("Range"), self.headers.get("Authorization"))
            hub.requests.append((self.command, self.path, *given))
            if self.path == RESOLVE:
                # Large files lie on another host than the Hub itself.
                headers = {
                    "Location": f"http://localhost:{hub.port}/store/{hub.promised}",
                    "X-Linked-Etag": f'"{hub.promised}"',
                    "X-Linked-Size": str(len(hub.content)),
                }
                if hub.commit is not None:
                    headers["X-Repo-Commit"] = hub.commit
                self._answer(302, headers)
            elif self.path.startswith("/store/"):
                self._body(given[0])
            else:
                self._answer(404, {"X-Error-Code": "RepoNotFound"})

        def _body(self, ranges: str | None) -> None:
            if hub.refuse_bodies:
                self._answer(503, {})
                return
            start = (
                0
                if ranges is None or hub.ignore_ranges
                else int(ranges.removeprefix("bytes=").removesuffix("-"))
            )
            body, total = hub.content[start:], len(hub.content)
            headers = {"Content-Range": f"bytes {start}-{total - 1}/{total}"} if start else {}
            if hub.break_after is None:
                self._answer(206 if start else 200, headers, body)
                return
            self._answer(
                206 if start else 200, {**headers, "Content-Length": str(len(body))}, body[: hub.break_after]
            )
            hub.break_after = None
            self.close_connection = True

    return Handler


@pytest.fixture
def hub() -> Iterator[Hub]:
    content = np.random.default_rng(0).bytes(SIZE)
    served = Hub(content, promised=hashlib.sha256(content).hexdigest())
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(served))
    served.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _quiet_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_is_fetched_and_its_hash_and_origin_are_recorded(hub: Hub, tmp_path: Path) -> None:
    done = download(MODEL, tmp_path / "kept", endpoint=hub.endpoint)
    target = tmp_path / "kept" / "DGTRS-CLIP-ViT-B-16.pt"
    assert done.path == str(target)
    assert target.read_bytes() == hub.content
    assert (done.sha256, done.bytes, done.revision) == (hub.promised, len(hub.content), COMMIT)
    record = json.loads((tmp_path / "kept" / "DGTRS-CLIP-ViT-B-16.pt.json").read_text())
    assert record["sha256"] == hub.promised
    assert record["repository"] == "MitsuiChen14/DGTRS-CLIP-ViT-B-16"
    assert names_in(tmp_path / "kept") == [target.name, f"{target.name}.json"]


def test_a_complete_checkpoint_is_not_fetched_twice(hub: Hub, tmp_path: Path) -> None:
    first = download(MODEL, tmp_path, endpoint=hub.endpoint)
    asked = len(hub.requests)
    assert download(MODEL, tmp_path, endpoint=hub.endpoint) == first
    assert len(hub.requests) == asked


def test_a_token_goes_to_the_hub_but_not_to_the_store_behind_it(hub: Hub, tmp_path: Path) -> None:
    download(MODEL, tmp_path, endpoint=hub.endpoint)
    tokens = {path.split("/")[1]: token for _, path, _, token in hub.requests}
    assert tokens == {"MitsuiChen14": "Bearer hf_secret", "store": None}


def test_a_broken_connection_is_continued_where_it_broke(hub: Hub, tmp_path: Path) -> None:
    hub.break_after = BREAK
    done = download(MODEL, tmp_path, endpoint=hub.endpoint)
    assert Path(done.path).read_bytes() == hub.content
    assert hub.bodies == [None, f"bytes={KEPT}-"]


def break_off(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first run that ends after 15 megabytes."""
    import huggingface_hub.file_download as client

    hub.break_after = BREAK

    def give_up(seconds: float) -> None:
        hub.refuse_bodies = True

    monkeypatch.setattr(client.time, "sleep", give_up)
    with pytest.raises(DownloadError, match="503"):
        download(MODEL, folder, endpoint=hub.endpoint)
    monkeypatch.undo()
    hub.refuse_bodies = False
    hub.requests.clear()


def test_a_later_run_continues_what_an_earlier_one_left(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(hub, tmp_path, monkeypatch)
    (part,) = names_in(tmp_path)
    assert part.endswith(".part")
    assert (tmp_path / part).read_bytes() == hub.content[:KEPT]
    done = download(MODEL, tmp_path, endpoint=hub.endpoint)
    assert hub.bodies == [f"bytes={KEPT}-"]
    assert Path(done.path).read_bytes() == hub.content
    assert names_in(tmp_path) == [MODEL.file, f"{MODEL.file}.json"]


def test_a_server_that_ignores_ranges_is_read_from_the_start(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(hub, tmp_path, monkeypatch)
    hub.ignore_ranges = True
    done = download(MODEL, tmp_path, endpoint=hub.endpoint)
    assert Path(done.path).read_bytes() == hub.content


def test_another_version_never_continues_an_old_part(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(hub, tmp_path, monkeypatch)
    hub.content = hub.content[::-1]
    hub.promised = hashlib.sha256(hub.content).hexdigest()
    done = download(MODEL, tmp_path, endpoint=hub.endpoint)
    assert hub.bodies == [None]
    assert Path(done.path).read_bytes() == hub.content


def test_a_file_that_arrives_damaged_is_removed_and_named(hub: Hub, tmp_path: Path) -> None:
    hub.promised = "ab" * 32
    with pytest.raises(DownloadError, match=r"arrived damaged.*run again"):
        download(MODEL, tmp_path, endpoint=hub.endpoint)
    assert names_in(tmp_path) == []


def assert_one_line(error: BaseException) -> None:
    assert len(str(error).splitlines()) == 1
    assert "lrsclip export" in str(error) or "HF_ENDPOINT" in str(error)


def test_without_a_network_the_error_says_what_to_do(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(
        DownloadError, match=r"could not be fetched.*Check the connection and run again"
    ) as caught:
        download(MODEL, tmp_path, endpoint="http://127.0.0.1:9")
    assert_one_line(caught.value)
    assert names_in(tmp_path) == []


def test_a_repository_that_is_gone_is_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(
        DownloadError, match=r"BeichenZhang/LongCLIP-B/longclip-B\.pt could not be fetched"
    ) as caught:
        download(published_model("longclip-b"), tmp_path, endpoint=hub.endpoint)
    assert_one_line(caught.value)


def test_a_server_that_is_no_hub_is_recognised(hub: Hub, tmp_path: Path) -> None:
    hub.commit = None
    with pytest.raises(DownloadError, match="Check HF_ENDPOINT") as caught:
        download(MODEL, tmp_path, endpoint=hub.endpoint)
    assert_one_line(caught.value)


def test_a_file_of_unknown_origin_is_not_touched(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / MODEL.file).write_bytes(b"my own")
    with pytest.raises(DownloadError, match="without a record"):
        download(MODEL, tmp_path, endpoint=hub.endpoint)
    assert (tmp_path / MODEL.file).read_bytes() == b"my own"
    assert hub.requests == []


def test_a_file_that_changed_after_its_fetch_is_refused(hub: Hub, tmp_path: Path) -> None:
    path = Path(download(MODEL, tmp_path, endpoint=hub.endpoint).path)
    path.write_bytes(b"x" + hub.content[1:])
    with pytest.raises(DownloadError, match="Delete it and run again"):
        download(MODEL, tmp_path, endpoint=hub.endpoint)


def test_a_target_that_cannot_be_written_is_one_named_error(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="could not be fetched"):
        download(MODEL, tmp_path / "file" / "below", endpoint=hub.endpoint)


# -------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "repository", "file"),
    [
        ("dgtrs-clip-vit-b-16", "MitsuiChen14/DGTRS-CLIP-ViT-B-16", "DGTRS-CLIP-ViT-B-16.pt"),
        ("DGTRS-CLIP-ViT-L-14.pt", "MitsuiChen14/DGTRS-CLIP-ViT-L-14", "DGTRS-CLIP-ViT-L-14.pt"),
        ("LRSCLIP_ViT-B-16", "cwz14/LRSCLIP_ViT-B-16", "LRSCLIP_ViT-B-16.pt"),
        ("lrsclip-vit-l-14", "cwz14/LRSCLIP_ViT-L-14", "LRSCLIP_ViT-L-14.pt"),
        ("longclip-B.pt", "BeichenZhang/LongCLIP-B", "longclip-B.pt"),
        ("LongCLIP-L", "BeichenZhang/LongCLIP-L", "longclip-L.pt"),
    ],
)
def test_models_are_found_by_name_and_by_file_in_any_case(name: str, repository: str, file: str) -> None:
    model = published_model(name)
    assert (model.repository, model.file) == (repository, file)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError) as caught:
        published_model("clip-9000")
    assert all(model.name in str(caught.value) for model in PUBLISHED)


# ------------------------------------------------------------------------------------------ command


def test_the_command_makes_a_bundle_that_answers_as_the_checkpoint(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lrsclip_rt as lrs
    from lrsclip_rt.bundle import Bundle
    from lrsclip_train.checkpoint_writer import write_longclip

    model = makers.random_model(makers.SMALL)
    write_longclip(tmp_path / "served.pt", model)
    hub.content = (tmp_path / "served.pt").read_bytes()
    hub.promised = hashlib.sha256(hub.content).hexdigest()
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "bundle"
    result = CliRunner().invoke(command, ["DGTRS-CLIP-ViT-B-16.pt", "-o", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout)
    assert row["sha256"] == hub.promised
    assert row["checkpoint"] == str(tmp_path / "cache" / "lrsclip-rt" / "checkpoints" / MODEL.file)
    bundle = Bundle.open(out)
    assert bundle.spec.name == "dgtrs-clip-vit-b-16"
    assert bundle.source.checkpoint_sha256 == hub.promised
    assert bundle.source.layout == "longclip"
    assert COMMIT in bundle.source.how_made
    assert "huggingface.co/MitsuiChen14" in bundle.source.licence
    text = "a harbour with many ships"
    with torch.no_grad():
        wanted = model.encode_text(torch.from_numpy(lrs.Tokenizer().encode([text])))[0].numpy()
    wanted /= np.linalg.norm(wanted)
    assert float(lrs.load(out, threads=1).embed_texts([text])[0] @ wanted) > 0.99999


def test_an_existing_output_is_refused_before_anything_is_fetched(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    arguments = ["longclip-b", "-o", str(tmp_path / "out"), "--endpoint", hub.endpoint]
    with pytest.raises(OutputExistsError):
        CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("precision", "told"), [("int8", "must see real data"), ("int4", "int4 cannot be exported")]
)
def test_a_precision_that_cannot_be_made_is_refused_before_anything_is_fetched(
    hub: Hub, tmp_path: Path, precision: str, told: str
) -> None:
    words = [MODEL.name, "-o", str(tmp_path / "out"), "--endpoint", hub.endpoint, "--precision", precision]
    result = CliRunner().invoke(command, words)
    assert isinstance(result.exception, InputError)
    assert told in str(result.exception)
    assert hub.requests == []


def test_help_names_every_model() -> None:
    shown = CliRunner().invoke(command, ["--help"], catch_exceptions=False).output
    assert all(model.name in "".join(shown.split()) for model in PUBLISHED)
