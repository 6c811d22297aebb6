"""The repository itself: pins, scripts, and nothing that belongs to one machine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line.strip() and not line.startswith("#")
]
# Torch pins its own GPU libraries; a CPU build has none of them.
TORCHS_OWN = re.compile(r"nvidia-|cuda-|triton")


def tracked_files() -> list[Path]:
    """Files that git tracks, or would: what is ignored is left out."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout.decode()
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_every_constraint_is_an_exact_pin():
    loose = [str(pin) for pin in PINS if [spec.operator for spec in pin.specifier] != ["=="]]
    assert loose == []


def test_what_the_demo_and_the_tests_install_is_pinned_without_a_gap():
    pinned = {canonicalize_name(pin.name) for pin in PINS if pin.marker is None or pin.marker.evaluate()}
    missing = sorted(
        name for name in closure("lrsclip-rt", {"cpu", "dev"}) - pinned if not TORCHS_OWN.match(name)
    )
    assert missing == ["lrsclip-rt"]


def closure(name: str, extras: set[str]) -> set[str]:
    """Names of everything that is installed because of ``name`` with ``extras``."""
    found: set[str] = set()
    todo = [(canonicalize_name(name), frozenset(extras))]
    seen = set(todo)
    while todo:
        current, wanted = todo.pop()
        try:
            requirements = distribution(current).requires or []
        except PackageNotFoundError:
            continue
        found.add(current)
        for requirement in map(Requirement, requirements):
            environments = [{"extra": extra} for extra in wanted] or [{"extra": ""}]
            if requirement.marker and not any(requirement.marker.evaluate(e) for e in environments):
                continue
            item = (canonicalize_name(requirement.name), frozenset(requirement.extras))
            if item not in seen:
                seen.add(item)
                todo.append(item)
    return found


@pytest.mark.parametrize("name", ["scripts/demo", "scripts/test", "scripts/venv", ".ci/run"])
def test_a_script_is_executable_and_parses(name):
    path = ROOT / name
    assert path.stat().st_mode & 0o111
    assert path.read_text(encoding="utf-8").startswith("#!/bin/sh\n")
    if shutil.which("sh"):
        subprocess.run(["sh", "-n", str(path)], check=True, timeout=30)


def test_continuous_integration_runs_the_script_that_people_run():
    assert "scripts/test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_no_tracked_file_names_a_folder_of_one_machine():
    local = re.compile(rb"(?<![\w.:/~-])/(?:home|root|Users|work|workspace|farm)/[\w.-]")
    own = re.escape(str(ROOT)).encode()
    found = []
    for path in tracked_files():
        content = path.read_bytes()
        if b"\0" in content[:8192] or path == Path(__file__).resolve():
            continue
        hit = local.search(content) or re.search(own + rb"\b", content)
        if hit:
            found.append(f"{path.relative_to(ROOT)}: {hit.group().decode()}")
    assert found == []


def test_no_tracked_file_speaks_of_the_workplace():
    # Written apart, so that this file does not name what it looks for.
    words = ["issues" + " show", "work at " + "hand", "/tmp/" + "brief", "sub" + "agent"]
    numbered = re.compile(r"\b[Ii]ssue \d")
    found = []
    for path in tracked_files():
        content = path.read_bytes()
        if b"\0" in content[:8192]:
            continue
        text = content.decode("utf-8", errors="replace")
        hits = [word for word in words if word in text] + numbered.findall(text)
        found += [f"{path.relative_to(ROOT)}: {hit}" for hit in hits]
    assert found == []


def test_no_tracked_file_is_larger_than_the_built_in_model_allows():
    large = [
        f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes"
        for path in tracked_files()
        if path.stat().st_size > 2_000_000 and "bundles" not in path.parts
    ]
    assert large == []


def test_the_table_of_measurements_in_the_readme_is_up_to_date():
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "tables.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
