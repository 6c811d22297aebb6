"""Files that want to run code, waste memory or lie about themselves: one named error each, nothing else."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoint_makers as makers
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peak_memory import PEAK_KIB
from safetensors.torch import save_file

from lrsclip_rt.errors import CheckpointError
from lrsclip_train.checkpoint_files import open_checkpoint_file
from lrsclip_train.checkpoints import checkpoint_from_state, read_checkpoint

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def good() -> State:
    """A state dict that is read without complaint."""
    return makers.state_of(makers.random_model(makers.SMALL))


class Bomb:
    """Runs a shell command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


# ------------------------------------------------------------------------------------ code in a file


def plant(path: Path, canary: Path, how: str) -> None:
    """Write a checkpoint that makes ``canary`` when it is unpickled."""
    state = {"a": torch.zeros(3), "b": Bomb(f"touch {canary}")}
    if how == "archive":
        torch.save(state, path)
    elif how == "old pickle":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif how.startswith("protocol"):
        path.write_bytes(pickle.dumps(state["b"], protocol=int(how[-1])))
    elif how == "torchscript":
        write_archive(
            path, {"data.pkl": pickle.dumps(state["b"], protocol=2), "constants.pkl": b"\x80\x02)."}
        )


HOWS = ["archive", "old pickle", "protocol 2", "protocol 4", "torchscript"]


@pytest.mark.parametrize("how", HOWS)
def test_a_pickle_with_code_is_refused_and_never_run(tmp_path: Path, how: str) -> None:
    canary = tmp_path / "canary"
    plant(tmp_path / "evil.pt", canary, how)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path / "evil.pt")
    assert not canary.exists()
    message = str(caught.value)
    assert "Nothing of it was executed" in message
    assert len(message.splitlines()) == 1
    assert ("posix.system" if how != "protocol 4" else "pickle instruction") in message


def test_the_planted_code_does_run_where_it_is_let(tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing."""
    canary = tmp_path / "canary"
    plant(tmp_path / "evil.pt", canary, "protocol 2")
    with (tmp_path / "evil.pt").open("rb") as file:
        pickle.load(file)
    assert canary.exists()


def test_any_other_class_is_refused_by_its_name(tmp_path: Path, good: State) -> None:
    torch.save({"state_dict": good, "args": argparse.Namespace(lr=1)}, tmp_path / "run.pt")
    with pytest.raises(
        CheckpointError, match=r"asks for argparse\.Namespace.*torch\.save\(model\.state_dict"
    ):
        read_checkpoint(tmp_path / "run.pt")


# --------------------------------------------------------------------------- hand-made TorchScript pickles


def write_archive(path: Path, records: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(f"root/{name}", content)
    return path


def torchscript(path: Path, body: bytes, **records: bytes) -> Path:
    """An archive whose module has the attributes that ``body`` pushes, name and value in turn."""
    pickled = b"\x80\x02c__torch__\nM\n)\x81}(" + body + b"ub."
    content = {f"data/{name[1:]}": record for name, record in records.items()}
    return write_archive(path, {"data.pkl": pickled, "constants.pkl": b"\x80\x02).", **content})


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    if 0 <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    raw = pickle.encode_long(value)
    return b"\x8a" + bytes([len(raw)]) + raw


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(
    key: str, elements: int, size: tuple[int, ...], stride: tuple[int, ...], *, offset: int = 0
) -> bytes:
    """Instructions that declare a float32 tensor."""
    storage = (
        b"("
        + text("storage")
        + b"ctorch\nFloatStorage\n"
        + text(key)
        + text("cpu")
        + number(elements)
        + b"tQ"
    )
    rest = number(offset) + numbers(*size) + numbers(*stride) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"tR"


def test_the_hand_made_archive_is_read_where_it_is_honest(tmp_path: Path) -> None:
    values = struct.pack("<6f", *range(6))
    body = text("w") + tensor("0", 6, (2, 2), (3, 1), offset=1)
    content = open_checkpoint_file(torchscript(tmp_path / "m.pt", body, _0=values))
    assert isinstance(content.root, dict)
    assert content.root["w"].tolist() == [[1, 2], [4, 5]]


LIES = {
    "more elements than the record": tensor("0", 600, (600,), (1,)),
    "a stride of zero": tensor("0", 6, (10**12,), (0,)),
    "a stride out of the record": tensor("0", 6, (2, 2), (5, 1)),
    "an offset out of the record": tensor("0", 6, (2,), (1,), offset=5),
    "a huge size": tensor("0", 2**62, (2**62,), (1,)),
    "a size beyond 64 bits": tensor("0", 6, (2**300,), (1,)),
    "a stride beyond 64 bits": tensor("0", 6, (1,), (2**300,)),
    "a negative size": tensor("0", 6, (-4,), (1,)),
    "a negative stride": tensor("0", 6, (2,), (-1,), offset=3),
    "more strides than sizes": tensor("0", 6, (2,), (1, 1)),
    "no such record": tensor("1", 6, (2,), (1,)),
    "a record outside data/": tensor("../data.pkl", 6, (2,), (1,)),
}


@pytest.mark.parametrize("lie", LIES)
def test_tensors_that_their_record_does_not_hold_are_refused_before_allocation(
    tmp_path: Path, lie: str
) -> None:
    path = torchscript(tmp_path / "m.pt", text("w") + LIES[lie], _0=bytes(24))
    with pytest.raises(CheckpointError, match=r"declares|well-formed"):
        open_checkpoint_file(path)


ODD = {
    "a reduce of a name that is no call": (b"c__torch__\nM\n)R", "a call of"),
    "a reduce of data": (b")" + text("x") + b"R", "a call of|a str"),
    "an object of a function": (b"ctorch._utils\n_rebuild_tensor_v2\n)\x81", "an object of"),
    "an object with arguments": (b"c__torch__\nM\n" + text("x") + b"\x85\x81", "an object of"),
    "a build on a dict": (b"}}b", "well-formed"),
    "a build of a function": (b"ctorch._utils\n_rebuild_tensor_v2\n}b", "well-formed"),
    "a build from a tuple": (b"c__torch__\nM\n)\x81)b", "object built from"),
    "a foreign global": (b"cbuiltins\neval\n", r"builtins\.eval"),
    "a global of a submodule": (b"ctorch.hub\nload\n", r"torch\.hub\.load"),
    "a global by stack": (text("os") + text("system") + b"\x93", "STACK_GLOBAL"),
    "an instance": (b"(" + text("x") + b"ios\nsystem\n", "INST"),
    "a registered extension": (b"\x82\x01", "EXT1"),
    "a persistent text": (b"Pstorage\n", "PERSID"),
    "a persistent module": (
        b"(" + text("module") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(1) + b"tQ",
        "persistent",
    ),
    "a persistent object of a foreign type": (
        b"(" + text("storage") + b"c__torch__\nM\n" + text("0") + text("cpu") + number(1) + b"tQ",
        "persistent",
    ),
    "a number for an attribute's name": (b"}" + number(1) + number(2) + b"s", "well-formed"),
    "a terminal's escape in a name": (b"}" + text("\x1b[2J") + number(2) + b"s", "well-formed"),
    "a mark that is missing": (b"ttttttttttt", "well-formed"),
    "an empty stack": (b"0" * 30, "POP|well-formed"),
    "a memo that was never filled": (b"h\x07", "well-formed"),
    "another protocol": (b"\x80\x05", "protocol 5"),
    "a frame": (b"\x95" + bytes(8), "FRAME"),
}


@pytest.mark.parametrize("name", ODD)
def test_instructions_that_torchscript_never_writes_are_refused(tmp_path: Path, name: str) -> None:
    body, said = ODD[name]
    with pytest.raises(CheckpointError, match=said) as caught:
        open_checkpoint_file(torchscript(tmp_path / "m.pt", text("w") + body))
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_module_that_contains_itself_is_refused(tmp_path: Path) -> None:
    pickled = b"\x80\x02c__torch__\nM\n)\x81q\x00}(" + text("again") + b"h\x00ub."
    write_archive(tmp_path / "m.pt", {"data.pkl": pickled, "constants.pkl": b""})
    with pytest.raises(CheckpointError, match="occurs twice"):
        open_checkpoint_file(tmp_path / "m.pt")


def test_a_module_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    """Forty that each contain the next one twice would be walked 2 ** 40 times."""
    body = text("a") + b"c__torch__\nM\n)\x81q\x00" + text("b") + b"h\x00"
    with pytest.raises(CheckpointError, match="b occurs twice"):
        open_checkpoint_file(torchscript(tmp_path / "m.pt", body))


def test_deep_nesting_ends_in_an_error_not_in_a_crash(tmp_path: Path) -> None:
    """Python hashes and prints nested tuples by recursion in C, and very deep ones by dying."""
    deep = b")" + b"\x85" * 250_000
    torchscript(tmp_path / "called.pt", text("w") + deep + b")R")
    torchscript(tmp_path / "key.pt", text("w") + b"}" + deep + number(1) + b"s")
    torchscript(tmp_path / "size.pt", text("w") + tensor("0", 1, (1,), (1,)).replace(numbers(1), deep, 1))
    write_archive(tmp_path / "plain.pt", {"data.pkl": b"\x80\x02}" + deep + number(1) + b"s."})
    (tmp_path / "old.pt").write_bytes(b"\x80\x02}" + deep + number(1) + b"s.")
    second = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2)
    (tmp_path / "older.pt").write_bytes(second + b"\x80\x02}" + deep + number(1) + b"s.")
    code = (
        "import sys\n"
        "from lrsclip_rt.errors import CheckpointError\n"
        "from lrsclip_train.checkpoints import read_checkpoint\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        read_checkpoint(path)\n"
        "    except CheckpointError as error:\n"
        "        print(error)\n"
    )
    files = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split(" ")[0].rstrip(":") for line in done.stdout.splitlines()] == files


PIECES = st.sampled_from(
    [
        *(bytes([code]) for code in b"()]}.ab0eustQR\x81\x85\x86\x87\x88\x89N2"),
        *(b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"K\x01", b"K\x06", b"\x8a\x01\xff", b"G" + bytes(8)),
        *(text("w"), text("storage"), text("0"), text("cpu"), numbers(2), numbers(1), numbers()),
        *(b"c__torch__\nM\n", b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n", b"cos\nsystem\n"),
        *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch.jit._pickle\nbuild_intlist\n"),
        *(tensor("0", 6, (2,), (1,)), tensor("0", 6, (2,), (9,)), b"c__torch__\nM\n)\x81"),
    ]
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(PIECES, st.binary(max_size=3)), max_size=25))
def test_any_sequence_of_instructions_is_read_or_refused(tmp_path: Path, pieces: list[bytes]) -> None:
    path = torchscript(tmp_path / "m.pt", text("w") + b"".join(pieces), _0=bytes(24))
    try:
        content = open_checkpoint_file(path)
    except CheckpointError:
        return
    assert isinstance(content.root, dict)
    assert all(isinstance(value, torch.Tensor) for value in content.root.values())


# ------------------------------------------------------------------------------------- damaged files


def small_files(folder: Path) -> dict[str, Path]:
    """A few kilobytes of each kind; not models, but read to the last byte."""
    generator = torch.Generator().manual_seed(0)
    state = {f"w{n}": torch.randn(5, 7, generator=generator) for n in range(4)}
    names = ("archive.pt", "old.pt", "script.pt", "m.safetensors")
    paths = {name: folder / name for name in names}
    torch.save(state, paths["archive.pt"])
    torch.save(state, paths["old.pt"], _use_new_zipfile_serialization=False)
    makers.save_torchscript(paths["script.pt"], state)
    save_file(state, paths["m.safetensors"])
    return paths


KINDS = ["archive.pt", "old.pt", "script.pt", "m.safetensors"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_refused_at_every_length(tmp_path: Path, kind: str) -> None:
    content = small_files(tmp_path)[kind].read_bytes()
    cut = tmp_path / "cut.bin"
    lengths = {
        *range(0, len(content), max(1, len(content) // 150)),
        *range(40),
        *range(len(content) - 40, len(content)),
    }
    for length in sorted(lengths):
        cut.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            open_checkpoint_file(cut)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_refused_or_harmless(tmp_path: Path, kind: str) -> None:
    """Archives carry checksums, so there a flipped bit changes no weight; the other kinds carry none."""
    path = small_files(tmp_path)[kind]
    content, whole = path.read_bytes(), open_checkpoint_file(path).root
    assert isinstance(whole, dict)
    chooser, refused = random.Random(0), 0
    for _ in range(400):
        position, bit = chooser.randrange(len(content)), chooser.randrange(8)
        path.write_bytes(
            content[:position] + bytes([content[position] ^ (1 << bit)]) + content[position + 1 :]
        )
        try:
            root = open_checkpoint_file(path).root
        except CheckpointError:
            refused += 1
            continue
        if kind in ("archive.pt", "script.pt"):
            assert isinstance(root, dict)
            assert root.keys() == whole.keys()
            assert all(torch.equal(root[name], whole[name]) for name in whole), position
    assert refused > 50


def test_a_flipped_bit_in_a_weight_is_found(tmp_path: Path, good: State) -> None:
    torch.save(good, tmp_path / "m.pt")
    content = bytearray((tmp_path / "m.pt").read_bytes())
    content[content.index(good["ln_final.weight"].numpy().tobytes()) + 5] ^= 4
    (tmp_path / "m.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"record .*/data/\d+ has checksum .* damaged: fetch it again"):
        read_checkpoint(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes"),
        (b"\x00" * 4096, "no checkpoint that can be read"),
        (b"PK\x03\x04 and no more", "truncated or damaged"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", "git lfs pull"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", "truncated or damaged"),
        (b"\x80\x02.", "truncated or damaged|asks for"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        read_checkpoint(tmp_path / "weights.pt")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_checkpoint(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_checkpoint(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that cannot be read")
def test_a_file_that_cannot_be_read_is_one_named_error() -> None:
    with pytest.raises(CheckpointError, match=r"/proc/self/mem cannot be opened: .+"):
        read_checkpoint("/proc/self/mem")


# ----------------------------------------------------------------------------------- odd zip archives


def test_compressed_records_are_refused_unread(tmp_path: Path) -> None:
    """64 MiB of zeros in 64 kB: never inflated."""
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("root/data.pkl", b"\x80\x02}.")
        with archive.open("root/data/0", "w", force_zip64=True) as record:
            for _ in range(4):
                record.write(bytes(1 << 24))
    (tmp_path / "bomb.pt").write_bytes(bomb.getvalue())
    assert (tmp_path / "bomb.pt").stat().st_size < 1 << 17
    with pytest.raises(CheckpointError, match="is compressed"):
        read_checkpoint(tmp_path / "bomb.pt")


def test_a_zip_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    write_archive(tmp_path / "m.pt", {"readme.txt": b"hello"})
    with pytest.raises(CheckpointError, match=r"expected one data\.pkl"):
        read_checkpoint(tmp_path / "m.pt")


def test_two_records_of_one_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("root/data.pkl", b"\x80\x02}.")
        archive.writestr("root/data/0", b"1234")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("root/data/0", b"5678")
    with pytest.raises(CheckpointError, match="no doubled names"):
        read_checkpoint(tmp_path / "m.pt")


def test_a_file_of_the_other_byte_order_is_refused(tmp_path: Path) -> None:
    write_archive(tmp_path / "m.pt", {"data.pkl": b"\x80\x02}.", "byteorder": b"big"})
    with pytest.raises(CheckpointError, match="byte order b'big'"):
        read_checkpoint(tmp_path / "m.pt")


def test_an_overlong_pickle_is_refused(tmp_path: Path) -> None:
    write_archive(tmp_path / "m.pt", {"data.pkl": b"\x80\x02" + b"N" * (9 << 20) + b"."})
    with pytest.raises(CheckpointError, match=r"data\.pkl has \d+ bytes"):
        read_checkpoint(tmp_path / "m.pt")


# ------------------------------------------------------------------------------ honest files, wrong tensors


def changed(state: State, **changes: object) -> dict[str, object]:
    """``state`` with entries replaced, or removed where the new value is None; __ stands for a dot."""
    out: dict[str, object] = {**state, **{name.replace("__", "."): value for name, value in changes.items()}}
    return {name: value for name, value in out.items() if value is not None}


BLOCK = "transformer__resblocks__1__"
WRONG: dict[str, tuple[Callable[[State], object], str]] = {
    "nothing": (lambda s: {}, "holds nothing"),
    "a list": (lambda s: [1, 2], "holds a list"),
    "a tensor": (lambda s: torch.zeros(3), "holds a Tensor"),
    "numbers for names": (lambda s: {1: torch.zeros(3)}, "holds|for a key"),
    "an escape in a name": (lambda s: {**s, "\x1b[2J": torch.zeros(3)}, r"'\\x1b\[2J' for a key"),
    "a text among the tensors": (lambda s: changed(s, comment="hello"), "'comment' is a str"),
    "another model": (
        lambda s: {"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(9)},
        "conv1.weight, fc.bias; expected",
    ),
    "a missing tensor": (lambda s: changed(s, ln_final__bias=None), "ln_final.bias missing; expected the 7"),
    "an unknown tensor": (lambda s: changed(s, logit_bias=torch.zeros(1)), "logit_bias unknown"),
    "a missing projection": (lambda s: changed(s, visual__proj=None), "visual.proj has nothing"),
    "a missing block": (
        lambda s: {n: t for n, t in s.items() if not n.startswith("transformer.resblocks.1.")},
        "expected 0, 1, 2",
    ),
    "a block of a huge number": (
        lambda s: changed(s, transformer__resblocks__999999999__ln_1__bias=torch.zeros(64)),
        "999999999",
    ),
    "a block of no number": (
        lambda s: changed(s, transformer__resblocks__x__ln_1__bias=torch.zeros(64)),
        "expected 0, 1, 2",
    ),
    "a transposed matrix": (
        lambda s: changed(
            s, **{f"{BLOCK}mlp__c_fc__weight": s["transformer.resblocks.1.mlp.c_fc.weight"].T.clone()}
        ),
        r"shape \(64, 256\); expected \(256, 64\)",
    ),
    "a width of no whole heads": (
        lambda s: changed(s, text_projection=torch.zeros(72, 96)),
        "multiples of 64",
    ),
    "an oblong patch": (
        lambda s: changed(s, visual__conv1__weight=torch.zeros(128, 3, 8, 4)),
        "square patches",
    ),
    "four channels": (
        lambda s: changed(s, visual__conv1__weight=torch.zeros(128, 4, 8, 8)),
        "expected 3 channels",
    ),
    "positions of no square": (
        lambda s: changed(s, visual__positional_embedding=torch.zeros(16, 128)),
        "square grid",
    ),
    "no positions at all": (
        lambda s: changed(s, positional_embedding=None, positional_embedding_res=None),
        "text positions are no table; expected 77 rows, or 248",
    ),
    "positions of an odd length": (
        lambda s: changed(s, positional_embedding=torch.ones(200, 64), positional_embedding_res=None),
        "positional_embedding with 200 rows",
    ),
    "tables of two lengths": (
        lambda s: changed(s, positional_embedding=torch.ones(77, 64)),
        "with 77 rows, positional_embedding_res with 248 rows",
    ),
    "a table of three dimensions": (
        lambda s: changed(s, positional_embedding=torch.ones(1, 77, 64)),
        r"\(1, 77, 64\); expected \(positions, text width\)",
    ),
    "another vocabulary": (
        lambda s: changed(s, token_embedding__weight=torch.ones(32000, 64)),
        "32000 ids; expected the 49408",
    ),
    "a map out of its rows": (
        lambda s: changed(s, token_map=torch.full((49408,), 49408, dtype=torch.int32)),
        "points to rows 49408..49408",
    ),
    "a negative map": (
        lambda s: changed(s, token_map=torch.full((49408,), -1, dtype=torch.int32)),
        "points to rows -1..-1",
    ),
    "a map of fractions": (
        lambda s: changed(s, token_map=torch.zeros(49408)),
        "token_map is a torch.float32",
    ),
    "not a number": (
        lambda s: changed(s, ln_final__bias=torch.full((64,), float("nan"))),
        "ln_final.bias holds NaN",
    ),
    "infinity": (
        lambda s: changed(s, logit_scale=torch.tensor(float("inf"))),
        "logit_scale holds NaN or infinite",
    ),
    "whole numbers": (lambda s: changed(s, visual__proj=torch.ones(128, 96, dtype=torch.int8)), "torch.int8"),
    "complex numbers": (lambda s: changed(s, visual__proj=torch.ones(128, 96) * 1j), "torch.complex64"),
    "a sparse tensor": (
        lambda s: changed(s, visual__proj=torch.ones(128, 96).to_sparse()),
        "torch.sparse_coo",
    ),
    "a tensor without data": (lambda s: changed(s, visual__proj=torch.ones(128, 96, device="meta")), "meta"),
    "one number posing as a matrix": (
        lambda s: changed(s, visual__proj=torch.zeros(1).expand(128, 96)),
        "holds only 4 bytes",
    ),
    "a scale for every text": (
        lambda s: changed(s, logit_scale=torch.ones(3)),
        r"logit_scale has shape \(3,\)",
    ),
    "unequal q, k and v": (
        lambda s: {
            "vision_model.encoder.layers.0.self_attn.q_proj.weight": torch.zeros(64, 64),
            "vision_model.encoder.layers.0.self_attn.k_proj.weight": torch.zeros(64, 32),
        },
        r"\[\(64, 64\), \(64, 32\), None\]; expected three equal",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_contents_are_refused_with_what_was_found_and_expected(
    tmp_path: Path, good: State, case: str
) -> None:
    make, said = WRONG[case]
    torch.save(make(good), tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=said) as caught:
        read_checkpoint(tmp_path / "m.pt")
    assert "m.pt" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_tensors_that_share_bytes_cannot_outgrow_their_file(good: State) -> None:
    shared = torch.zeros(100_000)
    root = {**good, **{f"visual.transformer.resblocks.{n}.ln_1.bias": shared for n in range(400)}}
    with pytest.raises(CheckpointError, match="the tensors declare"):
        checkpoint_from_state(root, where="test", limit_bytes=sum(t.nbytes for t in good.values()))


@pytest.mark.parametrize("value", ["many", "-3", "1e3", ""])
def test_a_header_with_a_wrong_stretch_is_refused(tmp_path: Path, good: State, value: str) -> None:
    save_file(good, tmp_path / "m.safetensors", metadata={"kps_keep": value})
    with pytest.raises(CheckpointError, match=r"whole number|77 rows"):
        read_checkpoint(tmp_path / "m.safetensors")


@pytest.mark.parametrize(("keep", "ratio"), [(20, 10**9), (20, 0), (-1, 4), (76, 4), (10**9, 4)])
def test_a_stretch_that_cannot_be_is_refused_before_allocation(keep: int, ratio: int) -> None:
    with pytest.raises(CheckpointError, match="keep"):
        checkpoint_from_state(makers.plain_state(), where="test", keep=keep, ratio=ratio)


def test_declared_terabytes_cost_no_memory(tmp_path: Path) -> None:
    """Each kind of file declares far more than it holds."""
    evil = tmp_path / "evil.pt"
    torchscript(evil, text("w") + tensor("0", 2**40, (2**40,), (1,)), _0=bytes(64))
    header = b'{"w":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    (tmp_path / "evil.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    pickled = b"\x80\x02}" + text("w") + tensor("0", 2**40, (2**40,), (1,)) + b"s."
    write_archive(tmp_path / "plain.pt", {"data.pkl": pickled, "data/0": bytes(64), "version": b"3\n"})
    code = PEAK_KIB + (
        "import sys\n"
        "from lrsclip_rt.errors import CheckpointError\n"
        "from lrsclip_train.checkpoints import read_checkpoint\n"
        "before = peak_kib()\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        read_checkpoint(path)\n"
        "    except CheckpointError as error:\n"
        "        print('refused', error)\n"
        "print('grew', peak_kib() - before)\n"
    )
    files = [str(evil), str(tmp_path / "evil.safetensors"), str(tmp_path / "plain.pt")]
    done = subprocess.run([sys.executable, "-c", code, *files], check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["refused"] * 3 + ["grew"]
    assert int(lines[-1].split()[1]) < 100_000  # [kB]
