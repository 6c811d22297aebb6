"""``lrsclip info``: what is installed, what runs here, and why the rest does not."""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.options import bundle_option, json_option
from lrsclip_rt.cli.output import progress_bar, wants_json

if TYPE_CHECKING:
    from lrsclip_rt.bundle import Bundle

__all__ = ["command"]

_PACKAGES = (
    "lrsclip-rt",
    "numpy",
    "pillow",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt_lean",
    "nvidia-cuda-nvrtc",
    "rasterio",
    "onnx",
    "torch",
    "open_clip_torch",
)


@click.command("info")
@bundle_option
@click.option(
    "--measure",
    is_flag=True,
    help="Time the bundle on every backend now, also where it was before; `auto` then takes the fastest.",
)
@click.option("--threads", type=click.IntRange(min=1), default=None, help="CPU threads of the model.")
@json_option
def command(bundle: Path | None, measure: bool, threads: int | None, as_json: bool) -> None:
    """Show versions, devices and backends, what `auto` chooses here and why the rest cannot run.

    `--backend auto` is ONNX Runtime until a bundle was measured, which takes seconds and is remembered for
    this model, number of threads, processor and these library versions.

    \b
    Example:
        lrsclip info --measure
    """
    import json

    if measure:
        _measure(bundle, threads)
    facts = collect_facts(bundle, threads=threads)
    if wants_json(as_json):
        click.echo(json.dumps(facts, ensure_ascii=False))
    else:
        _print(facts)


def _measure(path: Path | None, threads: int | None) -> None:
    """Measure and remember; what became of it is said on stderr."""
    from lrsclip_rt.backend_choice import keep_measurement
    from lrsclip_rt.backend_measuring import contenders, measure
    from lrsclip_rt.bundle import Bundle

    bundle = Bundle.open(path)
    choices = contenders(bundle)
    if not choices:
        click.echo("nothing to measure: no precision and no backend here has a rival", err=True)
        return
    with progress_bar("Measuring", len(choices)) as advance:
        measurement = measure(bundle, threads=threads, advance=advance)
    for row in measurement.timings:
        if row.reason is not None:
            click.echo(f"not measured: {row.precision} on {row.backend}: {row.reason}", err=True)
    if keep_measurement(bundle, measurement, threads=threads) is None:
        click.echo(f"measured {_measured_line(asdict(measurement))}", err=True)
        click.echo(
            "not remembered: the cache folder cannot be written. Set XDG_CACHE_HOME to one that can, "
            "or name what is fastest: --backend",
            err=True,
        )


def collect_facts(bundle: Path | None, *, threads: int | None = None) -> dict[str, Any]:
    """Everything that ``info`` shows, as JSON values; a missing built-in bundle is a fact too."""
    from lrsclip_rt.cpu import cpu_info, gpu_names
    from lrsclip_rt.jetson import jetson_from_files
    from lrsclip_rt.proven import PROOFS

    board = jetson_from_files()
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "warnings": _warnings(),
        "cpu": asdict(cpu_info()),
        "gpus": list(gpu_names()),
        "cuda": _cuda(),
        "jetson": None if board is None else asdict(board),
        "backends": _backends(),
        "bundle": _bundle(bundle, threads),
        "proven": {proof.what: proof.said for proof in PROOFS},
    }


def _cuda() -> dict[str, Any]:
    """What the driver says of the first GPU, or why it says nothing."""
    from lrsclip_rt.cuda.device import device_info
    from lrsclip_rt.cuda.driver import cuda_driver
    from lrsclip_rt.errors import BackendError

    try:
        driver = cuda_driver()
        return {"driver": driver.version, "device": asdict(device_info(driver)), "reason": None}
    except BackendError as error:
        return {"driver": None, "device": None, "reason": str(error)}


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
        # What this processor lacks is refused like what the backend lacks.
        lacking = {name: backend.precision_obstacle(name) for name in backend.precisions}
        rows.append(
            {
                "name": backend.name,
                "runs": reason is None,
                "devices": list(backend.devices),
                "precisions": [name for name, error in lacking.items() if error is None],
                "refuses": {
                    **backend.refusals,
                    **{name: str(error) for name, error in lacking.items() if error is not None},
                },
                "reason": None if reason is None else str(reason),
            }
        )
    return rows


def _bundle(path: Path | None, threads: int | None) -> dict[str, Any]:
    from lrsclip_rt.backend_choice import choose, kept_measurement, passed_on
    from lrsclip_rt.bundle import Bundle
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
            auto, reason = choose(bundle, precision=name, threads=threads).backend, None
        except (BackendError, DependencyError) as error:
            auto, reason = None, str(error)
        precisions[name] = {"passed": passed_on(bundle, name), "auto": auto, "reason": reason}
    try:
        fastest = choose(bundle, precision="auto", threads=threads).precision
    except (BackendError, DependencyError):
        fastest = None
    measured = kept_measurement(bundle, threads=threads)
    return {
        "name": bundle.spec.name,
        "built_in": path is None,
        "path": str(bundle.path),
        "architecture": bundle.spec.architecture,
        "embed_dim": bundle.spec.embed_dim,
        "image_size": bundle.spec.image_size,
        "patches": {"grid": list(bundle.spec.patch_grid), "recipe": bundle.spec.dense_recipe},
        "identity": bundle.identity,
        "default_precision": bundle.default_precision,
        "precisions": precisions,
        "auto_precision": fastest,
        "tasks": {
            name: {backend: report.to_dict() for backend, report in record.tasks.items()}
            for name, record in bundle.precisions.items()
            if record.tasks
        },
        "engines": _engines(bundle),
        "measured": None if measured is None else asdict(measured),
        "licence": bundle.source.licence,
        "training_data": bundle.source.training_data,
    }


def _engines(bundle: Bundle) -> list[dict[str, Any]]:
    """TensorRT engines that were built from the bundle's files, for whatever device."""
    from lrsclip_rt.errors import BackendError
    from lrsclip_rt.tensorrt.bundle_building import PRECISIONS
    from lrsclip_rt.tensorrt.engine_folders import builds_of

    rows: dict[str, dict[str, Any]] = {}
    for precision in (name for name in PRECISIONS if name in bundle.precisions):
        content = bundle.content(precision)
        try:
            for folder, build in builds_of(bundle.path, content):
                if build.precision == precision and str(folder) not in rows:
                    rows[str(folder)] = {
                        "precision": precision,
                        "architecture": build.architecture,
                        "tensorrt": build.tensorrt,
                        "towers": list(build.engines),
                        "fastest": build.race["fastest"] if build.race else None,
                        "current": build.content == content,
                        "folder": str(folder),
                    }
        except BackendError as error:
            rows[str(error)] = {"precision": precision, "error": str(error)}
    return list(rows.values())


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
    add("gpu", _gpu_line(facts))
    if facts["jetson"] is not None:
        board = facts["jetson"]
        mode = board["power_mode"] or "not readable"
        add("board", f"{board['board']}, L4T {board['release'] or 'unknown'}, power mode {mode}")
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
        rows, cols = bundle["patches"]["grid"]
        add("  patches", f"{rows} x {cols}, recipe: {bundle['patches']['recipe']}")
        for name, record in bundle["precisions"].items():
            gate = "passed its gate" if record["passed"] else "has not passed its gate"
            default = ", default" if name == bundle["default_precision"] else ""
            auto = f"--backend auto: {record['auto']}" if record["auto"] else record["reason"]
            add(f"  {name}", f"{gate}{default}; {auto}")
            for backend, report in bundle["tasks"].get(name, {}).items():
                add(f"    {backend}", _tasks_line(report))
        for row in bundle["engines"]:
            add("  engine", row.get("error") or _engine_line(row))
        add("  auto", f"--precision auto: {bundle['auto_precision'] or 'nothing runs here'}")
        add("  measured", _measured_line(bundle["measured"]))
    for where, proof in facts["proven"].items():
        add(f"proven, {where}", proof)
    for warning in facts["warnings"]:
        add("warning", warning)
    console.print(table)


def _gpu_line(facts: dict[str, Any]) -> str:
    """The GPU, or why there is none to use."""
    device = facts["cuda"]["device"]
    if device is None:
        seen = ", ".join(facts["gpus"]) or "none"
        # What to do about it is said where a GPU is asked for.
        return f"{seen}: {facts['cuda']['reason'].partition('. ')[0]}"
    major, minor = device["capability"]
    return f"{device['name']}, sm_{major}{minor}, driver for CUDA {facts['cuda']['driver']}"


def _engine_line(row: dict[str, Any]) -> str:
    """What was built, for which device and library."""
    old = "" if row["current"] else ", from other files than the bundle holds now"
    built = f"{row['precision']} for {row['architecture']}, TensorRT {row['tensorrt']}"
    fastest = f"; {row['fastest']} was fastest here" if row["fastest"] else ""
    return f"{built}: {', '.join(row['towers'])}{old}{fastest}"


def _tasks_line(report: dict[str, Any]) -> str:
    """What a precision costs on data, as it was recorded."""
    parts = []
    for one in report["sets"]:
        said = [
            f"{change['captions']} mR {change['fp32']['mR']:.2f} -> {change['found']['mR']:.2f}"
            for change in one["retrieval"][:1]
        ]
        said += [
            f"{p['reference_right']} -> {p['found_right']} of {p['images']} right" for p in one["predictions"]
        ]
        parts.append(f"{one['name']}{' ' + one['split'] if one['split'] else ''}: {', '.join(said)}")
    verdict = "passed" if report["passed"] else "FAILED"
    return f"{verdict} on data, {report['at'][:10]}: {'; '.join(parts)}"


def _measured_line(measured: dict[str, Any] | None) -> str:
    """When, and each median of one image and of one short query."""
    if measured is None:
        return "never with these libraries and threads; `lrsclip info --measure` takes seconds"
    rows = []
    for row in measured["timings"]:
        parts = [
            f"{row[key]:.2f} ms {what}"
            for key, what in (("image_ms", "an image"), ("text_ms", "a query"))
            if row[key] is not None
        ]
        rows.append(f"{row['precision']} {row['backend']} {', '.join(parts) or 'not run'}")
    return f"{measured['at']}: {'; '.join(rows)}"
