"""What a board says of itself, from files in the form of JetPack's."""

from __future__ import annotations

from pathlib import Path

from lrsclip_rt.jetson import Jetson, jetson_from_files

RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: made up\n"
MODES = """
# MODES
< PARAM TYPE=FILE NAME=CPU_ONLINE >
< POWER_MODEL ID=0 NAME=15W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
"""


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_board_names_itself_its_release_and_its_mode(tmp_path: Path) -> None:
    write(tmp_path, "proc/device-tree/model", "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit\0")
    write(tmp_path, "etc/nv_tegra_release", RELEASE)
    write(tmp_path, "etc/nvpmodel.conf", MODES)
    write(tmp_path, "var/lib/nvpmodel/status", "pmode:0002 fmode:quiet\n")
    board = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit"
    assert jetson_from_files(tmp_path) == Jetson(board, "R36.4.3", "MAXN_SUPER")
    write(tmp_path, "var/lib/nvpmodel/status", "pmode:0007\n")
    assert jetson_from_files(tmp_path) == Jetson(board, "R36.4.3", "mode 7")


def test_what_cannot_be_read_is_left_empty(tmp_path: Path) -> None:
    write(tmp_path, "proc/device-tree/model", "NVIDIA Jetson AGX Thor\0")
    assert jetson_from_files(tmp_path) == Jetson("NVIDIA Jetson AGX Thor", "", "")


def test_another_machine_is_none(tmp_path: Path) -> None:
    assert jetson_from_files(tmp_path) is None
    write(tmp_path, "proc/device-tree/model", "Raspberry Pi 5 Model B\0")
    assert jetson_from_files(tmp_path) is None
