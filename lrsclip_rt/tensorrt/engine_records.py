"""build.json beside the plans: device, library, files and options of a build, and its report of parity."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lrsclip_rt.errors import BundleError
from lrsclip_rt.json_fields import Fields
from lrsclip_rt.tensorrt.profiles import BuildOptions, Profile

__all__ = ["FORMAT_VERSION", "BuildRecord", "EngineRecord", "folder_name"]

FORMAT_VERSION = 1


def folder_name(architecture: str, version: str, precision: str) -> str:
    """The folder of one device kind, library and precision.

    Example:
        >>> folder_name("sm_87", "10.3.0", "fp16")
        'sm_87-trt10.3.0-fp16'
    """
    return f"{architecture}-trt{version}-{precision}"


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """One engine of a build.

    Attributes:
        plan: Its file.
        sha256: Of the plan.
        bytes: Of the plan.
        graph: The ONNX file that it was built from.
        onnx_sha256: Of that file.
        profiles: The shapes that it runs, shortest first.
        layers_file: What TensorRT's inspector says of each layer.
        fused_attention: Whether attention became one kernel; None where the inspector does not tell.
    """

    plan: str
    sha256: str
    bytes: int
    graph: str
    onnx_sha256: str
    profiles: tuple[Profile, ...]
    layers_file: str
    fused_attention: bool | None = None


@dataclass(frozen=True, slots=True)
class BuildRecord:
    """All of build.json.

    Attributes:
        architecture: Of the GPU, for example ``sm_87``.
        device: The GPU's name.
        tensorrt: Version of the library.
        precision: Of the bundle.
        content: Hex SHA-256 that changes with any file of the precision, weights too.
        options: What was asked for.
        engines: By tower.
        parity: The report against fp32 on the probe, for the reader.
        race: Times of the image tower at the precisions that were built together, for the reader; None
            where there was nothing to compare.
    """

    architecture: str
    device: str
    tensorrt: str
    precision: str
    content: str
    options: BuildOptions
    engines: Mapping[str, EngineRecord]
    parity: Mapping[str, Any]
    race: Mapping[str, Any] | None = None

    @property
    def folder_name(self) -> str:
        """Where it belongs."""
        return folder_name(self.architecture, self.tensorrt, self.precision)

    def to_json(self) -> str:
        """The text of build.json."""
        record: dict[str, Any] = {"format_version": FORMAT_VERSION}
        for name in ("architecture", "device", "tensorrt", "precision", "content"):
            record[name] = getattr(self, name)
        record["options"] = asdict(self.options)
        record["engines"] = {
            tower: {
                **{key: getattr(engine, key) for key in EngineRecord.__slots__},
                "profiles": [profile.to_dict() for profile in engine.profiles],
            }
            for tower, engine in self.engines.items()
        }
        record["parity"] = dict(self.parity)
        record["race"] = None if self.race is None else dict(self.race)
        return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> BuildRecord:
        """Parse build.json strictly.

        Raises:
            BundleError: If anything is missing, unknown, of another type or newer.
        """
        top = Fields.from_json(text, "build.json")
        version = top.integer("format_version", minimum=1)
        if version > FORMAT_VERSION:
            raise BundleError(f"build.json has format_version {version}, this version reads {FORMAT_VERSION}")
        record = cls(
            architecture=top.text("architecture"),
            device=top.text("device"),
            tensorrt=top.text("tensorrt"),
            precision=top.text("precision"),
            content=top.sha256("content"),
            options=_options(top.group("options")),
            engines={
                tower: _engine(Fields(value, f"build.json: {tower}"))
                for tower, value in top.group("engines").items()
            },
            parity=top.take("parity"),
            race=top.take("race"),
        )
        top.end()
        return record


def _options(group: Fields) -> BuildOptions:
    flags = {name: group.take(name) for name in ("static_text", "version_compatible", "strip")}
    workspace = group.take("workspace_mib")
    image_batch = group.integer("image_batch", minimum=1)
    group.end()
    whole = workspace is None or (type(workspace) is int and workspace > 0)
    if not whole or not all(type(value) is bool for value in flags.values()):
        raise BundleError(
            f"build.json: options are {flags} and {workspace!r:.40}, expected true or false and MiB"
        )
    return BuildOptions(workspace_mib=workspace, image_batch=image_batch, **flags)


def _engine(entry: Fields) -> EngineRecord:
    profiles = entry.take("profiles")
    if not isinstance(profiles, list) or not profiles:
        raise BundleError(f"build.json: profiles must be a list, got {profiles!r:.60}")
    record = EngineRecord(
        plan=_file_name(entry.text("plan")),
        sha256=entry.sha256("sha256"),
        bytes=entry.integer("bytes", minimum=1),
        graph=_file_name(entry.text("graph")),
        onnx_sha256=entry.sha256("onnx_sha256"),
        profiles=tuple(_profile(Fields(value, "build.json: profiles")) for value in profiles),
        layers_file=_file_name(entry.text("layers_file")),
        fused_attention=_yes_no_or_unknown(entry.take("fused_attention")),
    )
    entry.end()
    return record


def _yes_no_or_unknown(value: object) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise BundleError(f"build.json: fused_attention must be true, false or null, got {value!r:.40}")


def _file_name(name: str) -> str:
    if not name or name.startswith(".") or "/" in name or "\\" in name or "\0" in name:
        raise BundleError(f"build.json: {name[:60]!r} is no name of a file beside it")
    return name


def _profile(entry: Fields) -> Profile:
    length = entry.take("length")
    if length is not None and (type(length) is not int or length < 1):
        raise BundleError(f"build.json: length must be a number of tokens or null, got {length!r:.40}")
    rows: dict[str, tuple[int, ...]] = {}
    maximum = entry.integer("maximum", minimum=1)
    optimum = entry.integer("optimum", minimum=1, maximum=maximum)
    for name, row in entry.group("rows").items():
        if not isinstance(row, list) or not all(type(n) is int and n > 0 for n in row):
            raise BundleError(f"build.json: the row of {name[:40]} must be a shape, got {row!r:.60}")
        rows[name] = tuple(row)
    entry.end()
    return Profile(length, optimum, maximum, rows)
