"""The source of the package as data for tests: files, imports, names and prose."""

import ast
import functools
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import scalelab

PACKAGE = Path(scalelab.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """Return the dotted name of a file of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


@functools.cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text())


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """Return every node of a file's syntax tree, those at the top first."""
    return list(ast.walk(tree(path)))


TYPES_ONLY = {PACKAGE / "model" / "base.py"}
"""Files whose imports for type checkers do not count: an architecture, which does not import torch,
names the classes of torch modules that it creates."""


@functools.cache
def imported_modules(path: Path) -> frozenset[str]:
    """Return the modules of the package that a file imports, wherever in the file it does so."""
    found, left_out = set(), set()
    if path in TYPES_ONLY:
        for node in tree(path).body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                left_out |= set(ast.walk(node))
    for node in nodes(path):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
    return frozenset((found & set(MODULES)) - {module_name(path), "scalelab"})


def cycles() -> list[list[str]]:
    """Return every set of files that import one another, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in imported_modules(MODULES[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            members = stack[at:]
            del stack[at:]
            if len(members) > 1:
                found.append(sorted(members))

    for name in MODULES:
        if name not in index:
            visit(name)
    return found


def definitions(path: Path) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef]]:
    """Yield (qualified name, node) of every class and function of a file, nested ones included."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                yield f"{prefix}{child.name}", child
                yield from walk(child, f"{prefix}{child.name}.")
            else:
                yield from walk(child, prefix)

    yield from walk(tree(path), "")


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of every string of two words or more, and of every comment, of a file."""
    source = path.read_text()
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
