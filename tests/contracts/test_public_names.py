"""Public names: listed, sorted, documented, and never hiding a module."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re

import pytest

from lrsclip_rt import errors

PACKAGES = ("lrsclip_rt", "lrsclip_kernels", "lrsclip_train", "lrsclip_export")


def module_names() -> list[str]:
    names = []
    for package in PACKAGES:
        root = importlib.import_module(package)
        names += [package]
        names += [info.name for info in pkgutil.walk_packages(root.__path__, f"{package}.")]
    return names


MODULES = module_names()


def is_private(name: str) -> bool:
    return any(part.startswith("_") for part in name.split("."))


@pytest.mark.parametrize("name", [name for name in MODULES if not is_private(name)])
def test_the_list_of_public_names_is_sorted_and_every_name_exists(name):
    module = importlib.import_module(name)
    public = getattr(module, "__all__", None)
    if public is None:
        defined = [key for key, value in vars(module).items() if defined_in(value, name) and key[0] != "_"]
        assert defined == [], f"{name} has public names but no __all__"
        return
    assert list(public) == sorted(public, key=sort_key)
    assert len(set(public)) == len(public)
    missing = [key for key in public if not hasattr(module, key)]
    assert missing == []


def sort_key(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest: the order that ruff writes."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def defined_in(value: object, module: str) -> bool:
    return getattr(value, "__module__", None) == module and (
        inspect.isclass(value) or inspect.isfunction(value)
    )


@pytest.mark.parametrize("name", [name for name in MODULES if not is_private(name)])
def test_modules_public_functions_classes_and_methods_have_docstrings(name):
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    bare = []
    for key in getattr(module, "__all__", ()):
        value = getattr(module, key)
        if not defined_in(value, name):
            continue
        if not value.__doc__ or is_generated_doc(value):
            bare.append(key)
        if inspect.isclass(value):
            bare += [f"{key}.{method}" for method in undocumented_methods(value)]
    assert bare == []


def is_generated_doc(value: object) -> bool:
    """A dataclass without a docstring gets its signature as one."""
    name = getattr(value, "__name__", "")
    return bool(value.__doc__) and inspect.isclass(value) and value.__doc__.startswith(f"{name}(")


def undocumented_methods(cls: type) -> list[str]:
    found = []
    for name, member in vars(cls).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if name[0] == "_" or not inspect.isfunction(function):
            continue
        overrides = any(hasattr(base, name) for base in cls.__mro__[1:])
        if not function.__doc__ and not overrides:
            found.append(name)
    return found


def test_no_public_name_hides_a_module():
    # By name alone: once the module is imported it sits where the function should be.
    hidden = []
    for name in MODULES:
        module = importlib.import_module(name)
        siblings = {info.name for info in pkgutil.iter_modules(getattr(module, "__path__", []))}
        hidden += [f"{name}.{key}" for key in siblings & set(getattr(module, "__all__", ()))]
    assert hidden == ["lrsclip_rt.errors"]  # that one is meant to be the module


def test_the_tree_in_the_docstring_is_the_tree_of_the_error_classes():
    drawn = {}
    parents: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        found = re.match(r"^(?P<lead>[\s|`-]*)(?P<name>\w+Error)(?:\s+\((?P<builtin>\w+)\))?", line)
        if found is None:
            continue
        depth = len(found["lead"])
        while parents and parents[-1][0] >= depth:
            parents.pop()
        above = (parents[-1][1],) if parents else ("Exception",)
        drawn[found["name"]] = above + ((found["builtin"],) if found["builtin"] else ())
        parents.append((depth, found["name"]))
    real = {name: tuple(base.__name__ for base in getattr(errors, name).__bases__) for name in errors.__all__}
    assert drawn == real


def test_every_error_of_ours_comes_from_the_one_file():
    strays = [
        f"{name}.{key}"
        for name in MODULES
        for key, value in vars(importlib.import_module(name)).items()
        if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == name
    ]
    assert [stray for stray in strays if not stray.startswith("lrsclip_rt.errors.")] == []
