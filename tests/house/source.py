"""What the house tests look at: the project's files and their syntax trees, found once. Not a test itself."""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "cloudtune"
TRAINER = ROOT / "containers" / "trainer" / "cloudtune_trainer"


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def python_files(folder: Path) -> list[Path]:
    """Every Python file below ``folder``, by walking the disk."""
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts and "_bundled" not in path.parts)


@cache
def project_files() -> tuple[Path, ...]:
    """Every file that belongs to the project: what git tracks or would track; in an unpacked archive, everything."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
        ).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        hidden = {".venv", ".git", "runs", "build", "dist", "__pycache__"}
        return tuple(path for path in sorted(ROOT.rglob("*")) if path.is_file() and not hidden.intersection(path.parts))
    return tuple(path for name in sorted(listed.split("\0")) if name and (path := ROOT / name).is_file())


def module_name(path: Path) -> str:
    """``cloudtune/recipe/spec.py`` → ``cloudtune.recipe.spec``."""
    base = ROOT if PACKAGE in path.parents else TRAINER.parent
    parts = list(path.relative_to(base).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, running_only: bool = False) -> set[str]:
    """Modules that ``path`` imports, at any depth of its code; ``running_only`` leaves out ``if TYPE_CHECKING`` blocks."""
    found: set[str] = set()
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    skipped = _type_checking_nodes(tree(path)) if running_only else set()
    for node in ast.walk(tree(path)):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


def _type_checking_nodes(module: ast.Module) -> set[ast.AST]:
    blocks = [node for node in ast.walk(module) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    return {inner for block in blocks for part in block.body for inner in ast.walk(part)}


def top_level_imports(path: Path) -> set[str]:
    """Modules imported when ``path`` itself is imported: not inside functions, not for type checking only."""
    skipped = _type_checking_nodes(tree(path))
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            skipped.update(inner for inner in ast.walk(node) if inner is not node)
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names
