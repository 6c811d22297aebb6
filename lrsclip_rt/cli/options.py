"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = [
    "backend_option",
    "bundle_option",
    "json_option",
    "model_options",
    "overwrite_option",
    "split_commas",
]

F = TypeVar("F", bound=Callable[..., Any])


def bundle_option(function: F) -> F:
    """``-b/--bundle``: the model's folder; the built-in bundle without it."""
    return click.option(
        "-b",
        "--bundle",
        type=click.Path(path_type=Path),
        default=None,
        help="Bundle folder.  [default: built-in]",
    )(function)


def backend_option(function: F) -> F:
    """``--backend``: what runs the model."""
    return click.option(
        "--backend",
        type=click.Choice(["auto", "onnxruntime", "openvino", "tensorrt", "onnxruntime-cuda"]),
        default="auto",
        show_default=True,
        help="Inference library; one asked for by name runs or fails with the reason. "
        "auto: what `lrsclip info --measure` found fastest here, else onnxruntime.",
    )(function)


def model_options(function: F) -> F:
    """``--backend``, ``--precision``, ``--device`` and ``--threads``."""
    for option in (
        click.option("--threads", type=click.IntRange(min=1), default=None, help="CPU threads of the model."),
        click.option("--device", default=None, help="Device of the backend, e.g. cpu or cuda:0."),
        click.option(
            "--precision",
            default=None,
            help="fp32, int8-cpu, bf16 ... or auto: the fastest that passed.  [default: the bundle's]",
        ),
        backend_option,
    ):
        function = option(function)
    return function


def json_option(function: F) -> F:
    """``--json``: JSON lines on standard output, also on a terminal."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")(function)


def overwrite_option(function: F) -> F:
    """``--overwrite``: replace an existing output."""
    return click.option("--overwrite", is_flag=True, help="Replace an existing output.")(function)


def split_commas(values: tuple[str, ...]) -> list[str]:
    """Flatten repeated and comma-separated values.

    Example:
        >>> split_commas(("fp32,fp16", "int8-cpu"))
        ['fp32', 'fp16', 'int8-cpu']
    """
    return [part.strip() for value in values for part in value.split(",") if part.strip()]
