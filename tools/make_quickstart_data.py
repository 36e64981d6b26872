"""Make ``recipes/data/quickstart.jsonl``: pairs of (question about a standard-library symbol, its docstring's first paragraph).

    python tools/make_quickstart_data.py > recipes/data/quickstart.jsonl

Parses the standard library's own sources with ``ast`` and imports none of them, so nothing runs and equal
interpreters give equal bytes. The committed file was made with CPython 3.11; the texts are under the PSF licence,
see recipes/data/README.md.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROWS = 1500
SHORTEST, LONGEST = 24, 320  # characters of an answer: a phrase says too little, a page does not fit the small model
SKIPPED_FOLDERS = frozenset({"test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages", "pydoc_data", "encodings", "ensurepip"})


@dataclass(frozen=True, slots=True)
class Symbol:
    """A public function, method or class with its signature (empty for classes) and docstring."""

    name: str
    kind: str
    signature: str
    text: str


def sources(library: Path) -> Iterator[tuple[str, Path]]:
    """(module name, file) of every public pure-Python module, sorted."""
    for path in sorted(library.rglob("*.py")):
        pieces = path.relative_to(library).with_suffix("").parts
        if not any(piece in SKIPPED_FOLDERS or piece.startswith(("_", "lib-")) for piece in pieces if piece != "__init__"):
            yield ".".join(piece for piece in pieces if piece != "__init__"), path


def symbols(module: str, tree: ast.Module) -> Iterator[Symbol]:
    """Public symbols of one module, in the order of the source; methods of public classes included."""
    for node in tree.body:
        yield from _documented(module, node, kind="function")
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for member in node.body:
                yield from _documented(f"{module}.{node.name}", member, kind="method")


def _documented(scope: str, node: ast.stmt, *, kind: str) -> Iterator[Symbol]:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
        return
    text = first_paragraph(ast.get_docstring(node) or "")
    if SHORTEST <= len(text) <= LONGEST and text.isascii():
        is_class = isinstance(node, ast.ClassDef)
        signature = "" if is_class else f"({_arguments(node)})"
        yield Symbol(f"{scope}.{node.name}", "class" if is_class else kind, signature, text)


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return ", ".join(name for name in names if name not in {"self", "cls"})


def first_paragraph(docstring: str) -> str:
    """The text up to the first empty line, on one line, ending as a sentence."""
    text = " ".join(docstring.split("\n\n", maxsplit=1)[0].split())
    return text if not text or text[-1] in ".!?:" else f"{text}."


def rows(library: Path) -> list[dict[str, str]]:
    """``ROWS`` rows; the choice and the order go by a digest of the symbol's name, so they look random and never change."""
    found: dict[str, Symbol] = {}
    for module, path in sources(library):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for symbol in symbols(module, tree):
            found.setdefault(symbol.text, symbol)  # one row per text: a copied docstring must not be both learned and held out
    chosen = sorted(found.values(), key=lambda symbol: hashlib.sha256(symbol.name.encode()).hexdigest())[:ROWS]
    return [{"instruction": f"What does the {symbol.kind} {symbol.name}{symbol.signature} do?", "output": symbol.text} for symbol in chosen]


def main() -> None:
    """Write the rows to standard output, one JSON object a line."""
    for row in rows(Path(sysconfig.get_path("stdlib"))):
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
