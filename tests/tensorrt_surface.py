"""What the Python bindings of TensorRT really offer, read from the bindings themselves.

Run as a program with the bindings on ``PYTHONPATH`` it prints JSON: classes with their methods (each overload
with its parameters and what it returns), properties (type, writable), members of enums, and bases.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

PREFIX = "tensorrt_bindings.tensorrt."
# The bindings print the C++ name of what they register later.
LATE = {"nvonnxparser::IParserError": "ParserError", "nvonnxparser::OnnxParserFlag": "OnnxParserFlag"}


def overloads_from_doc(name: str, doc: str) -> list[dict[str, Any]]:
    """Signatures as pybind11 writes them into the docstring."""
    lines = [line.strip() for line in doc.splitlines()]
    numbered = [re.sub(r"^\d+\. ", "", line) for line in lines if re.match(rf"\d+\. {name}\(", line)]
    found = numbered if "Overloaded function." in lines else lines[:1]
    return [signature(line) for line in found if line.startswith(f"{name}(")]


def signature(line: str) -> dict[str, Any]:
    opened = line.index("(")
    closed = matching(line, opened)
    returns = line[closed + 1 :].partition("->")[2].strip()
    params = [parameter(part) for part in split_commas(line[opened + 1 : closed])]
    return {"params": params, "returns": plain(returns)}


def parameter(text: str) -> dict[str, Any]:
    name, _, rest = text.partition(":")
    kind, has_default, _ = rest.partition(" = ")
    return {"name": name.strip(), "type": plain(kind), "optional": bool(has_default)}


def plain(kind: str) -> str:
    kind = kind.strip().replace(PREFIX, "")
    return LATE.get(kind, kind)


def matching(text: str, opened: int) -> int:
    depth = 0
    for i in range(opened, len(text)):
        depth += text[i] in "([<{"
        depth -= text[i] in ")]}" or (text[i] == ">" and text[i - 1] != "-")
        if depth == 0:
            return i
    return len(text) - 1


def split_commas(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for i, sign in enumerate(text):
        depth += sign in "([<{"
        depth -= sign in ")]}" or (sign == ">" and text[i - 1] != "-")
        if sign == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [part for part in (*parts, text[start:]) if part.strip()]


def describe(cls: type) -> dict[str, Any]:
    members = getattr(cls, "__members__", None)
    methods: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    for name in dir(cls):
        if name.startswith("_") and name != "__init__":
            continue
        value = getattr(cls, name)
        if isinstance(value, property):
            written = re.search(r"->\s*(.+)", value.fget.__doc__ or "") if value.fget else None
            kind = plain(written[1]) if written else ""
            properties[name] = {"type": kind, "writable": value.fset is not None}
        elif callable(value) and not isinstance(value, type):
            found = overloads_from_doc(name, value.__doc__ or "")
            if found:
                methods[name] = found
    return {
        "methods": methods,
        "properties": properties,
        "members": sorted(members) if members is not None else [],
        "bases": [base.__name__ for base in cls.__mro__[1:] if base.__module__ == cls.__module__],
    }


def surface() -> dict[str, Any]:
    import tensorrt_bindings

    classes: dict[str, Any] = {}

    def add(prefix: str, holder: Any) -> None:
        for name, value in sorted(vars(holder).items()):
            ours = isinstance(value, type) and value.__module__.startswith("tensorrt_bindings")
            if ours and f"{prefix}{name}" not in classes:
                classes[f"{prefix}{name}"] = describe(value)
                add(f"{prefix}{name}.", value)

    add("", tensorrt_bindings)
    functions = [
        name for name, value in vars(tensorrt_bindings).items() if type(value).__name__ == "function"
    ]
    return {"version": tensorrt_bindings.__version__, "classes": classes, "functions": sorted(functions)}


if __name__ == "__main__":
    json.dump(surface(), sys.stdout)
