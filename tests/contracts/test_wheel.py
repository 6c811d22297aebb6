"""The wheel holds the four packages and the built-in bundle, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOMES = {
    "lrsclip_rt": ".",
    "lrsclip_kernels": "kernels",
    "lrsclip_export": "export",
    "lrsclip_train": "train",
}
SOURCES = ["pyproject.toml", "README.md", "LICENSE", "lrsclip_rt", "export", "train", "kernels"]


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory) -> list[str]:
    """Names inside a wheel: of the installed one, or of one built from a copy of the checkout."""
    if not (ROOT / "lrsclip_rt").is_dir():
        files = distribution("lrsclip-rt").files or []
        kept = [str(PurePosixPath(file)) for file in files]
        return [name for name in kept if not name.startswith("..") and "__pycache__" not in name]
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, folder / name)
    build = "import setuptools.build_meta as backend; print(backend.build_wheel('dist'))"
    subprocess.run([sys.executable, "-c", build], cwd=folder, check=True, capture_output=True, timeout=300)
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_outside_the_checkout_the_packages_under_test_are_the_installed_ones():
    import lrsclip_rt

    home = Path(lrsclip_rt.__file__).resolve()
    if (ROOT / "lrsclip_rt").is_dir():
        assert home.is_relative_to(ROOT / "lrsclip_rt")
    else:
        assert home.is_relative_to(Path(sys.prefix).resolve())


def test_the_wheel_holds_four_packages_and_nothing_beside_them(wheel_files):
    tops = {PurePosixPath(name).parts[0] for name in wheel_files}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(HOMES)


def test_the_wheel_holds_source_type_marks_kernels_and_the_built_in_bundle_only(wheel_files):
    strange = [
        name
        for name in wheel_files
        if PurePosixPath(name).suffix not in {".py", ".cu", ".cuh"}
        and PurePosixPath(name).name != "py.typed"
        and not name.startswith("lrsclip_rt/bundles/mini/")
        and ".dist-info/" not in name
    ]
    assert strange == []


def test_every_package_is_marked_as_typed(wheel_files):
    assert {f"{package}/py.typed" for package in HOMES} <= set(wheel_files)


def test_the_licence_is_in_the_wheel(wheel_files):
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel_files)


def test_no_test_and_no_script_is_in_the_wheel(wheel_files):
    assert [name for name in wheel_files if "test" in PurePosixPath(name).name] == []


@pytest.mark.skipif(not (ROOT / "lrsclip_rt").is_dir(), reason="compares with the checkout")
def test_every_source_file_of_the_checkout_is_in_the_wheel(wheel_files):
    missing = []
    for package, home in HOMES.items():
        for path in sorted((ROOT / home / package).rglob("*.py")):
            name = path.relative_to(ROOT / home).as_posix()
            if "__pycache__" not in name and name not in wheel_files:
                missing.append(name)
    assert missing == []


@pytest.mark.skipif(not (ROOT / "lrsclip_rt").is_dir(), reason="compares with the checkout")
def test_every_file_of_the_built_in_bundle_is_in_the_wheel_and_small_enough(wheel_files):
    folder = ROOT / "lrsclip_rt" / "bundles" / "mini"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    missing = [path.name for path in files if path.relative_to(ROOT).as_posix() not in wheel_files]
    assert missing == []
    assert sum(path.stat().st_size for path in files) <= 40_000_000
