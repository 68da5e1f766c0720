"""Which fields of which classes the sources read, by the annotations in them.

`x.field` counts for a class only if `x` is known to be of that class: an annotated parameter, a
local name or an attribute of `self` that was assigned such a value, a field of another known class,
or the result of an annotated function. Reads in `__post_init__`, which validates, do not count.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable


def field_reads(sources: Iterable[str]) -> set[tuple[str, str]]:
    """Return every (class, attribute) that the sources read."""
    modules = [ast.parse(text) for text in sources]
    types = _Types()
    for _ in range(3):  # an attribute may be of a class whose attributes come in a later module
        for module in modules:
            _Reader(types).visit(module)
    reader = _Reader(types)
    for module in modules:
        reader.visit(module)
    return reader.reads


class _Types:
    """What is known of all modules: the class of each attribute and of each function's result."""

    def __init__(self) -> None:
        self.bases: dict[str, list[str]] = {}
        self.attributes: dict[str, dict[str, str]] = defaultdict(dict)
        self.results: dict[str, str] = {}

    def attribute(self, owner: str | None, name: str) -> str | None:
        """Return the class of an attribute, or of a method's result, by inheritance."""
        if owner is None:
            return None
        if name in self.attributes[owner]:
            return self.attributes[owner][name]
        inherited = (self.attribute(base, name) for base in self.bases.get(owner, []))
        return next((kind for kind in inherited if kind is not None), None)


def _class_in(annotation: ast.expr | None) -> str | None:
    """Return the class that an annotation names, without `| None` and quotes."""
    if isinstance(annotation, ast.Name):
        return annotation.id
    if isinstance(annotation, ast.Attribute):
        return annotation.attr
    if isinstance(annotation, ast.BinOp):
        return _class_in(annotation.left)
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return _class_in(ast.parse(annotation.value, mode="eval").body)
    return None


class _Reader(ast.NodeVisitor):
    def __init__(self, types: _Types) -> None:
        self.reads: set[tuple[str, str]] = set()
        self._types = types
        self._class: str | None = None
        self._names: dict[str, str] = {}

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outer, self._class = self._class, node.name
        bases = [_class_in(base) for base in node.bases]
        self._types.bases[node.name] = [base for base in bases if base is not None]
        self.generic_visit(node)
        self._class = outer

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        result = _class_in(node.returns)
        if result is not None:
            owned = self._types.attributes[self._class] if self._class else self._types.results
            owned[node.name] = result
        if node.name == "__post_init__":
            return
        outer, self._names = self._names, dict(self._names)
        parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        for parameter in parameters:
            self._know(ast.Name(parameter.arg), _class_in(parameter.annotation))
        if self._class and parameters and parameters[0].arg == "self":
            self._names["self"] = self._class
        self.generic_visit(node)
        self._names = outer

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            parts = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                parts = list(zip(target.elts, node.value.elts, strict=False))
            for name, value in parts:
                self._know(name, self._class_of(value))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        kind = _class_in(node.annotation)
        if self._class and isinstance(node.target, ast.Name) and "self" not in self._names and kind:
            self._types.attributes[self._class][node.target.id] = kind
        self._know(node.target, kind)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        owner = self._class_of(node.value)
        if owner is not None and isinstance(node.ctx, ast.Load):
            self.reads.add((owner, node.attr))

    def visit_Call(self, node: ast.Call) -> None:
        """`getattr(x, "field")` reads, too."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "getattr":
            owner, name = self._class_of(node.args[0]), node.args[1]
            if owner is not None and isinstance(name, ast.Constant):
                self.reads.add((owner, str(name.value)))

    def _know(self, target: ast.expr, kind: str | None) -> None:
        if isinstance(target, ast.Name):
            self._names.pop(target.id, None)
            if kind is not None:
                self._names[target.id] = kind
        elif isinstance(target, ast.Attribute) and kind is not None:
            owner = self._class_of(target.value)
            if owner is not None:
                self._types.attributes[owner][target.attr] = kind

    def _class_of(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            return self._names.get(node.id)
        if isinstance(node, ast.Attribute):
            return self._types.attribute(self._class_of(node.value), node.attr)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            name = node.func.id
            return self._types.results.get(name, name if name in self._types.bases else None)
        if isinstance(node, ast.Call):
            return self._class_of(node.func)
        return None
