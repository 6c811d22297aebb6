"""A recording double of TensorRT, generated from the surface of its real bindings.

It has the classes, methods, arities, enums and writable properties of that version and nothing else: a call
that the bindings would refuse is refused here. What a method does comes from ``behaviours``; without one it
answers with an instance of what it returns. Each call is kept in ``calls``.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NUMPY = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64"}
PLAIN: dict[str, Any] = {"bool": True, "int": 0, "str": "", "None": None}

Behaviours = dict[str, Callable[..., Any]]


class Double(ModuleType):
    """The module: classes as attributes, and what was called."""

    def __init__(self, surface: dict[str, Any], behaviours: Behaviours) -> None:
        super().__init__("tensorrt")
        self.__spec__ = ModuleSpec("tensorrt", None)
        self.__version__: str = surface["version"]
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.behaviours = behaviours
        self.surface = surface["classes"]
        self._classes: dict[str, type] = {}
        for name in sorted(self.surface, key=lambda key: (key.count("."), len(self.surface[key]["bases"]))):
            self._classes[name] = self._make_class(name)
            holder, _, last = name.rpartition(".")
            setattr(self._classes[holder] if holder else self, last, self._classes[name])
        unknown = [key for key in behaviours if not self._exists(key)]
        assert unknown == [], f"no such method or property in {self.__version__}: {unknown}"

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"tensorrt {self.__dict__.get('__version__')} has no {name}")

    def nptype(self, dtype: Any) -> str:
        """NumPy's name of a type."""
        return NUMPY[dtype.name]

    def new(self, kind: str, **state: Any) -> Any:
        """An instance as the library itself makes it."""
        made = object.__new__(self._classes[kind])
        object.__setattr__(made, "_state", state)
        return made

    def called(self, name: str) -> list[tuple[Any, ...]]:
        """Arguments of each call of ``Class.method``."""
        return [arguments for found, arguments in self.calls if found == name]

    def _exists(self, key: str) -> bool:
        name, _, member = key.rpartition(".")
        found = self.surface.get(name)
        return found is not None and (member in found["methods"] or member in found["properties"])

    def _make_class(self, name: str) -> type:
        described = self.surface[name]
        bases = tuple(self._classes[base] for base in described["bases"][:1] if base in self._classes)
        body: dict[str, Any] = {"__setattr__": _only_properties(name, described["properties"])}
        for method, overloads in described["methods"].items():
            body[method] = self._method(name, method, overloads)
        if "__init__" not in described["methods"]:
            body["__init__"] = _no_constructor(name)
        for key, value in described["properties"].items():
            body[key] = self._property(name, key, value)
        if name == "IHostMemory":
            body["__bytes__"] = lambda self: self._state["content"]
        made = type(name.rpartition(".")[2], bases, body)
        for number, member in enumerate(described["members"]):
            value = object.__new__(made)
            object.__setattr__(value, "_state", {})
            object.__setattr__(value, "_member", (member, number))
            type.__setattr__(made, member, value)
        if described["members"]:
            made.name = property(lambda self: self._member[0])  # type: ignore[attr-defined]
            made.__int__ = lambda self: self._member[1]  # type: ignore[attr-defined]
        return made

    def _method(self, name: str, method: str, overloads: list[Any]) -> Callable[..., Any]:
        full = f"{name}.{method}"

        def call(this: Any, *args: Any, **kwargs: Any) -> Any:
            overload = self._fitting(full, overloads, args, kwargs)
            ordered = _ordered(overload, args, kwargs)
            if method == "__init__":
                object.__setattr__(this, "_state", {"arguments": ordered})
            self.calls.append((full, ordered))
            if full in self.behaviours:
                return self.behaviours[full](this, *ordered)
            return None if method == "__init__" else self._answer(overload["returns"])

        return call

    def _property(self, name: str, key: str, described: dict[str, Any]) -> property:
        full = f"{name}.{key}"

        def get(this: Any) -> Any:
            if key in this._state:
                return this._state[key]
            if full in self.behaviours:
                return self.behaviours[full](this)
            return self._answer(described["type"])

        def put(this: Any, value: Any) -> None:
            self.calls.append((full, (value,)))
            this._state[key] = value

        return property(get, put if described["writable"] else None)

    def _answer(self, kind: str) -> Any:
        if kind in self._classes:
            return self.new(kind)
        assert kind in PLAIN, f"a behaviour is needed for what returns {kind}"
        return PLAIN[kind]

    def _fitting(self, full: str, overloads: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for overload in overloads:
            params = overload["params"][1:]
            names = [one["name"] for one in params]
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            needed = {one["name"] for one in params if not one["optional"]}
            if len(args) > len(params) or not needed <= set(given) <= set(names):
                continue
            kinds = {one["name"]: one["type"] for one in params}
            if all(self._takes(kinds[key], value) for key, value in given.items()):
                return overload
        raise TypeError(f"{full}(): incompatible function arguments: {args} {kwargs}")

    def _takes(self, kind: str, value: Any) -> bool:
        if kind == "Dims":
            return isinstance(value, tuple)
        if kind in self._classes:
            return isinstance(value, self._classes[kind])
        if kind in {"int", "typing.SupportsInt"}:
            return isinstance(value, int)
        plain = {"str": str, "bool": bool, "tuple": tuple, "list": list}
        if "uffer" in kind:
            return isinstance(value, (bytes, bytearray, memoryview))
        return isinstance(value, plain[kind]) if kind in plain else True


def _ordered(overload: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    rest = [one["name"] for one in overload["params"][1 + len(args) :]]
    return (*args, *(kwargs[name] for name in rest if name in kwargs))


def _only_properties(name: str, properties: dict[str, Any]) -> Callable[..., None]:
    def put(this: Any, key: str, value: Any) -> None:
        found = properties.get(key)
        if not key.startswith("_") and (found is None or not found["writable"]):
            raise AttributeError(f"{name}.{key} cannot be set")
        object.__setattr__(this, key, value)

    return put


def _no_constructor(name: str) -> Callable[..., None]:
    def refuse(this: Any, *args: Any, **kwargs: Any) -> None:
        raise TypeError(f"{name}: No constructor defined!")

    return refuse
