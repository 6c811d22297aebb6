"""The unit on docs/jetson.md is one that systemd takes, and its command one that lrsclip takes."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from lrsclip_rt.cli.index import command

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "jetson.md").read_text(encoding="utf-8")


def unit() -> str:
    (found,) = re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL)
    return found


def test_the_unit_is_accepted_by_systemd(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    path = tmp_path / "lrsclip-index.service"
    # What is started has to exist for the check.
    path.write_text(unit().replace("/opt/lrsclip/bin/lrsclip ", "/bin/true "))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if path.name in line]
    assert (done.returncode, said) == (0, [])


def test_the_command_of_the_unit_is_a_command_of_ours() -> None:
    words = shlex.split(re.search(r"^ExecStart=(.*)$", unit(), re.MULTILINE)[1])
    assert words[:2] == ["/opt/lrsclip/bin/lrsclip", "index"]
    known = {option for parameter in command.params for option in parameter.opts}
    given = [word for word in words if word.startswith("-")]
    assert "--watch" in given
    assert set(given) <= known
    assert "WatchdogSec=" in unit()
    assert "Type=notify" in unit()


def test_what_has_not_run_on_a_board_says_so() -> None:
    assert "Nothing on this page has run on a board yet" in PAGE
