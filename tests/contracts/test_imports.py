"""What importing costs: the runtime needs its base dependencies alone, and none of them at import."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

# The base dependencies and what they bring; everything else is imported where it is used.
BASE = "numpy PIL click ftfy wcwidth regex rich markdown_it mdurl pygments colorama typing_extensions".split()
BASE += ["exceptiongroup", "lrsclip_rt"]

GUARD = """
import importlib, pkgutil, sys

allowed = set(sys.stdlib_module_names) | set({base!r}) | set({also!r})

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ImportError(f"{{name}} must not be imported here", name=name)

sys.meta_path.insert(0, Refuse())
"""


def run_guarded(code: str, *, base: list[str] = BASE, also: tuple[str, ...] = ()) -> str:
    """Run ``code`` where nothing but the standard library and ``base`` can be imported."""
    # An editable install finds the packages through a module of its own.
    finders = [name for name in sys.modules if name.startswith("__editable__")]
    program = GUARD.format(base=base, also=[*also, *finders, "sitecustomize", "usercustomize"])
    done = subprocess.run(
        [sys.executable, "-c", program + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_of_the_runtime_imports_with_the_base_dependencies_alone():
    out = run_guarded(
        """
        import lrsclip_rt
        failed = []
        for info in pkgutil.walk_packages(lrsclip_rt.__path__, "lrsclip_rt."):
            try:
                importlib.import_module(info.name)
                print(info.name)
            except ImportError as error:
                failed.append(f"{info.name}: {error}")
        sys.exit("; ".join(failed) or 0)
        """
    )
    assert "lrsclip_rt.cli.eval" in out
    assert "lrsclip_rt.evaluation" in out


def test_no_module_of_the_runtime_loads_an_optional_library_where_all_are_installed():
    optional = (
        "torch torchvision open_clip onnx onnxruntime openvino tensorrt pycuda rasterio cv2 scipy".split()
    )
    optional += ["faiss", "pyarrow", "lrsclip_train", "lrsclip_export"]
    code = f"""
        import importlib, pkgutil, sys
        import lrsclip_rt
        for info in pkgutil.walk_packages(lrsclip_rt.__path__, "lrsclip_rt."):
            importlib.import_module(info.name)
        print(" ".join(sorted(set({optional!r}) & set(sys.modules))))
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == []


def test_importing_the_package_loads_nothing_beside_the_standard_library():
    out = run_guarded(
        """
        import lrsclip_rt
        print(" ".join(sorted({name.partition(".")[0] for name in sys.modules})))
        """
    )
    assert set(out.split()) & set(BASE) == {"lrsclip_rt"}


@pytest.mark.parametrize("package", ["lrsclip_kernels", "lrsclip_train", "lrsclip_export"])
def test_importing_another_package_of_ours_loads_no_library(package):
    run_guarded(f"import {package}", also=(package,))


def test_help_works_with_the_base_dependencies_alone():
    out = run_guarded(
        """
        from lrsclip_rt.cli import main
        sys.argv = ["lrsclip", "--help"]
        main()
        """,
        also=("lrsclip_train", "lrsclip_export"),
    )
    assert "eval" in out
    assert "Usage" in out


def test_reading_the_command_line_loads_no_model_library():
    code = """
        import sys
        from lrsclip_rt.cli import main
        sys.argv = ["lrsclip", "--help"]
        try:
            main()
        except SystemExit:
            pass
        heavy = {"numpy", "PIL", "torch", "onnxruntime", "rasterio", "rich"}
        print("LOADED", *sorted(heavy & set(sys.modules)))
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines()[-1] == "LOADED"
