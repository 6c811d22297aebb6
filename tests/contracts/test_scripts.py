"""The two commands of the README: what they install, when they do not, and what they pass on."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAKE = """#!/bin/sh
echo "$0 $*" >>"{log}"
"""

pytestmark = pytest.mark.skipif(shutil.which("sh") is None, reason="the scripts need a POSIX shell")


@pytest.fixture
def house(tmp_path) -> Path:
    """A checkout of scripts alone, whose .venv writes down what it is asked to run."""
    root = tmp_path / "a house"  # a blank in the path must not matter
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / "scripts").mkdir()
    for name in ("demo", "test", "venv"):
        shutil.copy(ROOT / "scripts" / name, root / "scripts" / name)
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root / name)
    for name in ("python", "lrsclip"):
        fake(root / ".venv" / "bin" / name, root / "log")
    return root


def fake(path: Path, log: Path, *, status: int = 0) -> Path:
    path.write_text(FAKE.format(log=log) + f"exit {status}\n")
    path.chmod(0o755)
    return path


def run(root: Path, *command: str, status: int = 0, **environment: str) -> tuple[list[str], str]:
    """Run a script of ``root``; what .venv was asked, without the test of its python, and stderr."""
    (root / "log").unlink(missing_ok=True)
    done = subprocess.run(
        [str(root / command[0]), *command[1:]],
        capture_output=True,
        text=True,
        cwd=root.parent,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    log = (root / "log").read_text().splitlines() if (root / "log").exists() else []
    asked = [line.replace(str(root / ".venv" / "bin") + "/", "").replace(".venv/bin/", "") for line in log]
    return [line for line in asked if line != "python -c "], done.stderr


INSTALL_CPU = "python -m pip --disable-pip-version-check install -qq -c constraints.txt -e .[cpu]"


def test_the_first_start_installs_pinned_versions_and_the_second_nothing(house):
    first, message = run(house, "scripts/venv", "cpu")
    assert first == [INSTALL_CPU]
    assert "Installing" in message
    assert run(house, "scripts/venv", "cpu") == ([], "")


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_requirement_installs_again(house, name):
    run(house, "scripts/venv", "cpu")
    with (house / name).open("a") as stream:
        stream.write("# changed\n")
    assert run(house, "scripts/venv", "cpu")[0] == [INSTALL_CPU]


def test_a_moved_checkout_installs_again(house):
    run(house, "scripts/venv", "cpu")
    moved = house.rename(house.with_name("moved"))
    for name in ("python", "lrsclip"):
        fake(moved / ".venv" / "bin" / name, moved / "log")
    assert run(moved, "scripts/venv", "cpu")[0] == [INSTALL_CPU]


def test_an_install_that_failed_is_tried_again(house):
    python = house / ".venv" / "bin" / "python"
    python.write_text(python.read_text().replace("exit 0", '[ "$1" = -c ]'))
    run(house, "scripts/venv", "cpu", status=1)
    fake(python, house / "log")
    assert run(house, "scripts/venv", "cpu")[0] == [INSTALL_CPU]


def test_the_environment_of_the_tests_serves_the_demo_too(house):
    run(house, "scripts/venv", "dev")
    assert run(house, "scripts/venv", "cpu")[0] == []


def test_the_demo_s_environment_does_not_serve_the_tests(house):
    run(house, "scripts/venv", "cpu")
    assert run(house, "scripts/venv", "dev")[0] == [INSTALL_CPU.replace("[cpu]", "[dev]")]


def test_a_python_that_is_too_old_is_named(house):
    shutil.rmtree(house / ".venv")
    old = fake(house / "old-python", house / "log", status=1)
    _, message = run(house, "scripts/venv", "cpu", status=1, PYTHON=str(old))
    assert "expected Python 3.10 or newer" in message


def test_the_demo_passes_its_arguments_on_and_overwrites(house):
    run(house, "scripts/venv", "cpu")
    asked, _ = run(house, "scripts/demo", "--images", "my images", "-o", "out")
    assert asked == ["lrsclip demo --overwrite --images my images -o out"]


def test_arguments_of_the_test_script_go_to_pytest_alone(house):
    run(house, "scripts/venv", "dev")
    asked, _ = run(house, "scripts/test", "tests/rt", "-k", "tokens")
    assert asked == ["python -m pytest tests/rt -k tokens"]


JUNIT = """<?xml version="1.0"?><testsuites><testsuite errors="1" failures="2" skipped="{skipped}" tests="20"
time="12.5"></testsuite></testsuites>"""


def test_skipped_tests_are_counted_by_run_and_a_slow_run_is_recorded(tmp_path):
    (tmp_path / "a.xml").write_text(JUNIT.format(skipped=3))
    (tmp_path / "table.md").write_text("| date |\n")
    program = [sys.executable, str(ROOT / "scripts" / "count_tests.py")]
    runs = [f"checkout={tmp_path / 'a.xml'}", f"wheel={tmp_path / 'absent.xml'}"]
    done = subprocess.run(
        [*program, *runs, "--record", str(tmp_path / "table.md")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == [
        "checkout: 14 passed, 3 failed, 3 skipped in 12 s",
        "wheel: did not run",
    ]
    header, row = (tmp_path / "table.md").read_text().splitlines()
    assert header == "| date |"
    assert "14 passed, 3 failed, 3 skipped" in row
    assert row.startswith("| 20")


def test_the_skipped_number_of_several_suites_adds_up(tmp_path):
    spec = importlib.util.spec_from_file_location("count_tests", ROOT / "scripts" / "count_tests.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    suite = '<testsuite errors="0" failures="0" skipped="2" tests="5" time="1"/>'
    (tmp_path / "a.xml").write_text(f"<testsuites>{suite}{suite}</testsuites>")
    assert module.counts_from_junit(tmp_path / "a.xml") == (6, 0, 4, 2.0)
