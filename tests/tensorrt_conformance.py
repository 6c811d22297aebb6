"""Hold code that uses TensorRT against the surface of its bindings, by reading the code.

Types are followed from what is known: ``trt`` is the module, annotations name classes
(``tensorrt.Builder``), and the surface says what methods return. What a followed expression touches must
exist; a name of TensorRT on an expression that cannot be followed is a problem too, so that nothing escapes
by missing annotations.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MODULE = ("module", "")
NUMBERS = {"int", "typing.SupportsInt"}


@dataclass
class Findings:
    """Everything of TensorRT that was followed, and what does not exist."""

    used: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def conformance(sources: dict[str, str], surface: dict[str, Any]) -> Findings:
    """Check files.

    Args:
        sources: Text of each file by its name.
        surface: Of ``tensorrt_surface.py``.
    """
    findings = Findings()
    trees = {name: ast.parse(text) for name, text in sources.items()}
    ours = _returns_of_ours(trees.values())
    for name, tree in trees.items():
        checker = _Checker(name, surface, ours, findings)
        checker.block(tree.body, {})
    return findings


def _returns_of_ours(trees: Any) -> dict[str, Any]:
    """What our own functions return, where that is something of TensorRT."""
    found = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                kind = _annotated(node.returns, "")
                if kind is not None:
                    found[node.name] = kind
    return found


def _annotated(node: ast.expr | None, name: str) -> Any:
    """``tensorrt.X`` or ``tensorrt.X | None`` is an instance of X; ``trt: ModuleType`` the module."""
    if node is None:
        return None
    if isinstance(node, ast.BinOp):
        return _annotated(node.left, name)
    text = ast.unparse(node)
    if text.startswith("tensorrt."):
        return ("instance", text.removeprefix("tensorrt."))
    if text == "ModuleType":
        return MODULE
    return None


class _Checker:
    def __init__(self, file: str, surface: dict[str, Any], ours: dict[str, Any], findings: Findings) -> None:
        self.file = file
        self.classes = surface["classes"]
        self.functions = set(surface["functions"]) | {"__version__"}
        self.ours = ours
        self.findings = findings
        self.attributes: dict[str, Any] = {}
        names = {n for c in self.classes.values() for n in (*c["methods"], *c["properties"])}
        # Words that could be anything's are no sign of TensorRT.
        self.telling = {name for name in names if "_" in name.strip("_") and name != "__init__"}

    def block(self, body: list[ast.stmt], scope: dict[str, Any]) -> None:
        for statement in body:
            self.statement(statement, scope)

    def statement(self, node: ast.stmt, scope: dict[str, Any]) -> None:
        if isinstance(node, ast.ClassDef):
            self.class_(node, scope)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            self.function(node, scope)
        elif isinstance(node, ast.Assign):
            kind = self.kind(node.value, scope)
            for target in node.targets:
                self.assign(target, kind, scope)
        elif isinstance(node, ast.AnnAssign):
            kind = _annotated(node.annotation, "") or (self.kind(node.value, scope) if node.value else None)
            if node.value is not None:
                self.kind(node.value, scope)
            self.assign(node.target, kind, scope)
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self.kind(child, scope)
                elif isinstance(child, ast.stmt):
                    self.statement(child, scope)
                else:
                    self.other(child, scope)

    def other(self, node: ast.AST, scope: dict[str, Any]) -> None:
        """Handlers, with-items and match-cases: their expressions and statements."""
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.kind(child, scope)
            elif isinstance(child, ast.stmt):
                self.statement(child, scope)

    def function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: dict[str, Any]) -> None:
        inner = dict(scope)
        arguments = node.args
        for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            inner[one.arg] = _annotated(one.annotation, one.arg) or (
                scope.get("self") if one.arg == "self" else None
            )
        self.block(node.body, inner)

    def class_(self, node: ast.ClassDef, scope: dict[str, Any]) -> None:
        outer, self.attributes = self.attributes, {}
        inner = dict(scope)
        inner["self"] = ("own", node.name)
        functions = [child for child in node.body if isinstance(child, ast.FunctionDef)]
        for base in node.bases:
            kind = self.kind(base, scope)
            if kind is not None and kind[0] == "class":
                self.overrides(kind[1], functions)
                inner["self"] = ("instance", kind[1])
                scope[node.name] = ("class", kind[1])
        # Attributes are known before the methods that use them, in whatever order they stand.
        for function in functions:
            known = dict(inner)
            for one in (*function.args.args, *function.args.kwonlyargs):
                known[one.arg] = _annotated(one.annotation, one.arg) or known.get(one.arg)
            for child in ast.walk(function):
                if isinstance(child, (ast.Assign, ast.AnnAssign)):
                    self.remember(child, known)
        self.block(node.body, inner)
        self.attributes = outer

    def remember(self, node: ast.Assign | ast.AnnAssign, scope: dict[str, Any]) -> None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                kind = _annotated(node.annotation, "") if isinstance(node, ast.AnnAssign) else None
                if kind is None and node.value is not None:
                    quiet = _Checker(self.file, {"classes": {}, "functions": []}, self.ours, Findings())
                    quiet.classes, quiet.attributes = self.classes, self.attributes
                    kind = quiet.kind(node.value, scope)
                if kind is not None:
                    self.attributes[target.attr] = kind

    def overrides(self, name: str, functions: list[ast.FunctionDef]) -> None:
        """Methods that TensorRT calls on an object of ours: they exist, with as many parameters."""
        for function in functions:
            self.member(name, function.name, function)
            for overload in self.lookup(name, function.name) or []:
                if function.name != "__init__" and len(overload["params"]) != len(function.args.args):
                    self.problem(
                        function, f"{name}.{function.name} takes {len(overload['params'])} parameters"
                    )

    def assign(self, target: ast.expr, kind: Any, scope: dict[str, Any]) -> None:
        if isinstance(target, ast.Name):
            scope[target.id] = kind
        elif isinstance(target, ast.Attribute):
            holder = self.kind(target.value, scope)
            if holder is not None and holder[0] == "instance" and not target.attr.startswith("_"):
                found = self.found_property(holder[1], target.attr)
                if found is None or not found["writable"]:
                    self.problem(target, f"{holder[1]}.{target.attr} cannot be set")
                self.findings.used.add(f"{holder[1]}.{target.attr}")
            elif holder is None and target.attr in self.telling:
                self.problem(target, f"cannot follow {ast.unparse(target)}")
        elif isinstance(target, (ast.Tuple, ast.List)):
            for one in target.elts:
                self.assign(one, None, scope)

    def kind(self, node: ast.expr, scope: dict[str, Any]) -> Any:
        if isinstance(node, ast.Name):
            return scope.get(node.id)
        if isinstance(node, ast.Attribute):
            return self.attribute(node, scope)
        if isinstance(node, ast.Call):
            return self.call(node, scope)
        if isinstance(node, ast.IfExp):
            self.kind(node.test, scope)
            return self.kind(node.body, scope) or self.kind(node.orelse, scope)
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp, ast.Lambda)):
            inner = dict(scope)
            for child in ast.walk(node):
                if isinstance(child, ast.comprehension):
                    self.kind(child.iter, inner)
            parts = [node.body] if isinstance(node, ast.Lambda) else list(_results(node))
            for part in parts:
                self.kind(part, inner)
            return None
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.kind(child, scope)
            else:
                self.other(child, scope)
        return None

    def attribute(self, node: ast.Attribute, scope: dict[str, Any]) -> Any:
        holder = self.kind(node.value, scope)
        if holder is None:
            if node.attr in self.telling:
                self.problem(node, f"cannot follow {ast.unparse(node)}")
            return None
        if holder == MODULE:
            if node.attr in self.classes:
                self.findings.used.add(node.attr)
                return ("class", node.attr)
            if node.attr not in self.functions:
                self.problem(node, f"TensorRT has no {node.attr}")
            return ("python", node.attr)
        if holder[0] == "own":
            return self.attributes.get(node.attr, ("python", ""))
        if holder[0] in {"class", "instance"}:
            return self.member(holder[1], node.attr, node)
        return ("python", "")

    def member(self, name: str, attribute: str, node: ast.AST) -> Any:
        nested = f"{name}.{attribute}"
        if attribute.startswith("_") and attribute != "__init__":
            return ("python", "")
        if nested in self.classes:
            return ("class", nested)
        if name not in self.classes:
            self.problem(node, f"TensorRT has no {name}")
            return ("python", "")
        if attribute in self.classes[name]["members"]:
            self.findings.used.add(nested)
            return ("instance", name)
        overloads = self.lookup(name, attribute)
        if overloads:
            self.findings.used.add(nested)
            return ("method", (nested, overloads))
        found = self.found_property(name, attribute)
        if found is not None:
            self.findings.used.add(nested)
            return self.returned(found["type"])
        if attribute != "__init__":
            self.problem(node, f"{name} has no {attribute}")
        return ("python", "")

    def call(self, node: ast.Call, scope: dict[str, Any]) -> Any:
        callee = self.kind(node.func, scope)
        kinds = [self.kind(one, scope) for one in node.args]
        named = {one.arg: self.kind(one.value, scope) for one in node.keywords}
        if callee is None or callee[0] not in {"class", "method"}:
            name = node.func.id if isinstance(node.func, ast.Name) else None
            return self.ours.get(name) if name is not None else None
        if callee[0] == "class":
            overloads = self.lookup(callee[1], "__init__") or []
            self.arguments(node, callee[1], overloads, kinds, named)
            return ("instance", callee[1])
        nested, overloads = callee[1]
        if nested.endswith(".__init__"):
            kinds = kinds[1:]
        fitting = self.arguments(node, nested, overloads, kinds, named)
        return self.returned(fitting["returns"]) if fitting else ("python", "")

    def arguments(
        self, node: ast.Call, name: str, overloads: list[Any], kinds: list[Any], named: dict[Any, Any]
    ) -> Any:
        """The first overload that takes these arguments; a problem where there is none."""
        for overload in overloads:
            params = overload["params"][1:]
            rest = params[len(kinds) :]
            names = {one["name"] for one in rest}
            needed = {one["name"] for one in rest if not one["optional"]}
            if len(kinds) > len(params) or not set(named) <= names or not needed <= set(named):
                continue
            by_name = {one["name"]: one["type"] for one in params}
            pairs = [*zip(kinds, (one["type"] for one in params), strict=False)]
            pairs += [(kind, by_name[key]) for key, kind in named.items()]
            if all(self.fits(kind, wanted) for kind, wanted in pairs):
                return overload
        self.problem(node, f"{name} does not take {ast.unparse(node)[:80]}")
        return None

    def fits(self, kind: Any, wanted: str) -> bool:
        if kind is None or kind[0] != "instance" or wanted not in self.classes:
            return True
        return wanted == kind[1] or wanted in self.classes[kind[1]]["bases"]

    def returned(self, kind: str) -> Any:
        return ("instance", kind) if kind in self.classes else ("python", kind)

    def lookup(self, name: str, method: str) -> Any:
        return self.classes.get(name, {"methods": {}})["methods"].get(method)

    def found_property(self, name: str, attribute: str) -> Any:
        return self.classes.get(name, {"properties": {}})["properties"].get(attribute)

    def problem(self, node: ast.AST, what: str) -> None:
        self.findings.problems.append(f"{self.file}:{getattr(node, 'lineno', 0)}: {what}")


def _results(node: Any) -> Iterator[ast.expr]:
    for name in ("elt", "key", "value"):
        part = getattr(node, name, None)
        if isinstance(part, ast.expr):
            yield part
