"""``lrsclip info``: what is installed, what runs here, and why the rest does not."""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from lrsclip_rt.cli.options import bundle_option, json_option
from lrsclip_rt.cli.output import wants_json

__all__ = ["command"]

_PACKAGES = (
    "lrsclip-rt",
    "numpy",
    "pillow",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "pycuda",
    "rasterio",
    "onnx",
    "torch",
    "open_clip_torch",
)
_PROVEN = {
    "cpu": "tested on CPUs (x86-64)",
    "gpu": "nothing of this version has run on a GPU",
}


@click.command("info")
@bundle_option
@json_option
def command(bundle: Path | None, as_json: bool) -> None:
    """Show versions, devices and backends, what `auto` chooses here and why the rest cannot run.

    \b
    Example:
        lrsclip info --json
    """
    import json

    facts = collect_facts(bundle)
    if wants_json(as_json):
        click.echo(json.dumps(facts, ensure_ascii=False))
    else:
        _print(facts)


def collect_facts(bundle: Path | None) -> dict[str, Any]:
    """Everything that ``info`` shows, as JSON values; a missing built-in bundle is a fact too."""
    from lrsclip_rt.cpu import cpu_info, gpu_names

    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "warnings": _warnings(),
        "cpu": asdict(cpu_info()),
        "gpus": list(gpu_names()),
        "backends": _backends(),
        "bundle": _bundle(bundle),
        "proven": _PROVEN,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _warnings() -> list[str]:
    if _version("onnxruntime") and _version("onnxruntime-gpu"):
        return [
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files. "
            "Keep one: pip uninstall onnxruntime onnxruntime-gpu, then install one extra, cpu or gpu"
        ]
    return []


def _backends() -> list[dict[str, Any]]:
    from lrsclip_rt.backends import BACKENDS, why_not

    rows = []
    for backend in BACKENDS.values():
        reason = why_not(backend)
        rows.append(
            {
                "name": backend.name,
                "runs": reason is None,
                "devices": list(backend.devices),
                "precisions": list(backend.precisions),
                "refuses": dict(backend.refusals),
                "reason": None if reason is None else str(reason),
            }
        )
    return rows


def _bundle(path: Path | None) -> dict[str, Any]:
    from lrsclip_rt.backends import choose_backend
    from lrsclip_rt.bundle import Bundle
    from lrsclip_rt.embedder import load
    from lrsclip_rt.errors import BackendError, BundleError, DependencyError

    try:
        bundle = Bundle.open(path)
    except BundleError as error:
        if path is not None:
            raise
        return {"name": None, "built_in": True, "error": str(error)}
    precisions = {}
    for name in bundle.precisions:
        try:
            auto, reason = choose_backend("auto", precision=name).name, None
        except (BackendError, DependencyError) as error:
            auto, reason = None, str(error)
        precisions[name] = {"passed": bundle.passed(name), "auto": auto, "reason": reason}
    try:
        # Nothing is loaded by this: it only chooses.
        fastest = load(bundle, precision="auto").precision
    except (BackendError, DependencyError):
        fastest = None
    return {
        "name": bundle.spec.name,
        "built_in": path is None,
        "path": str(bundle.path),
        "architecture": bundle.spec.architecture,
        "embed_dim": bundle.spec.embed_dim,
        "image_size": bundle.spec.image_size,
        "identity": bundle.identity,
        "default_precision": bundle.default_precision,
        "precisions": precisions,
        "auto_precision": fastest,
        "licence": bundle.source.licence,
        "training_data": bundle.source.training_data,
    }


def _print(facts: dict[str, Any]) -> None:
    """The same facts for people."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    cpu = facts["cpu"]
    table = Table(show_header=False, box=None)

    def add(name: str, value: str) -> None:
        # As Text, or rich would take the brackets of lrsclip-rt[cpu] for markup.
        table.add_row(Text(name, style="bold"), Text(value))

    add("python", f"{facts['python']} on {facts['platform']}")
    add("cpu", f"{cpu['name'] or cpu['architecture']}, {cpu['cpus']} usable, {' '.join(cpu['instructions'])}")
    if facts["gpus"]:
        add("gpu", f"{', '.join(facts['gpus'])}: not used by this version")
    installed = [f"{name} {found}" for name, found in facts["versions"].items() if found]
    add("installed", ", ".join(installed))
    add("missing", ", ".join(name for name, found in facts["versions"].items() if not found))
    for row in facts["backends"]:
        runs = f"runs {', '.join(row['precisions'])} on {', '.join(row['devices'])}"
        add(row["name"], runs if row["runs"] else f"cannot run: {row['reason']}")
    bundle = facts["bundle"]
    if "error" in bundle:
        add("bundle", bundle["error"])
    else:
        where = "built-in" if bundle["built_in"] else bundle["path"]
        add("bundle", f"{bundle['name']} ({bundle['architecture']}, D = {bundle['embed_dim']}), {where}")
        for name, record in bundle["precisions"].items():
            gate = "passed its gate" if record["passed"] else "has not passed its gate"
            default = ", default" if name == bundle["default_precision"] else ""
            auto = f"--backend auto: {record['auto']}" if record["auto"] else record["reason"]
            add(f"  {name}", f"{gate}{default}; {auto}")
        add("  auto", f"--precision auto: {bundle['auto_precision'] or 'nothing runs here'}")
    for where, proof in facts["proven"].items():
        add(f"proven, {where}", proof)
    for warning in facts["warnings"]:
        add("warning", warning)
    console.print(table)
