"""The floors: imports point downwards only, edges never import each other, heavy libraries stay at their edge."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house.source import PACKAGE, TRAINER, imports, module_name, python_files, top_level_imports

FLOORS = {
    "errors": 0, "units": 0, "clock": 0, "filelock": 0,
    "recipe": 1, "job": 1, "manifest": 1, "models": 1, "offers": 1, "resources": 1,
    "memory": 2, "cost": 2,
    "planning": 3, "rendering": 3,
    "providers": 4, "stores": 4, "sources": 4, "ledger": 4, "engine": 4, "wire": 4,
    "settings": 5, "session": 5, "verbs": 5, "standins": 5,
    "show": 6, "cli": 7, "__init__": 8, "__main__": 8,
}  # fmt: skip

EDGES = {"providers", "stores", "sources", "ledger"}
# Capabilities and registries of providers are shared by all of them.
SHARED_BY_PROVIDERS = {f"cloudtune.providers.{name}" for name in ("base", "checks", "meaning", "progress", "registry", "scripted")}
HEAVY = {
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "datasets",
    "boto3",
    "botocore",
    "sagemaker",
    "google",
    "grpc",
    "pandas",
    "numpy",
}
TRAINER_MAY = {"cloudtune.recipe", "cloudtune.manifest", "cloudtune.errors", "cloudtune.units", "cloudtune.clock"}


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def rooms_imported(path: Path) -> set[tuple[str, str]]:
    """(room, dotted name) of every import of our own package, type checking included."""
    return {(room(name), name) for name in imports(path) if name.split(".")[0] == "cloudtune"}


def test_every_file_was_visited_and_has_a_floor() -> None:
    files = python_files(PACKAGE)
    on_disk = [path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts and "_bundled" not in path.parts]
    assert len(files) == len(on_disk) >= 60
    assert sorted({room(module_name(path)) for path in files if path.parent != PACKAGE} - FLOORS.keys()) == []
    assert sorted({path.stem for path in files if path.parent == PACKAGE} - FLOORS.keys()) == []


def test_imports_point_downwards() -> None:
    upwards = []
    visited = 0
    for path in python_files(PACKAGE):
        own = path.stem if path.parent == PACKAGE else room(module_name(path))
        visited += 1
        for other, name in rooms_imported(path):
            target = other if other in FLOORS else "__init__"
            if target == "__init__" and own not in ("__init__",):
                # `import cloudtune` itself is only its version and the lazy names.
                continue
            if FLOORS[target] > FLOORS[own]:
                upwards.append(f"{path.relative_to(PACKAGE)} (floor {FLOORS[own]}) imports {name} (floor {FLOORS[target]})")
    assert visited == len(python_files(PACKAGE))
    # The seam's types name Plan and Bundle; base.py stands on floor 4, so that is downwards too.
    assert upwards == []


def test_edges_never_import_each_other() -> None:
    crossings = []
    for path in python_files(PACKAGE):
        own = room(module_name(path))
        if own not in EDGES:
            continue
        crossings += [
            f"{path.relative_to(PACKAGE)} imports {name}" for other, name in rooms_imported(path) if other in EDGES and other != own
        ]
    assert crossings == []


def test_providers_never_import_each_other() -> None:
    crossings = []
    places = sorted(path.name for path in (PACKAGE / "providers").iterdir() if path.is_dir() and path.name != "__pycache__")
    assert "local" in places
    for place in places:
        for path in python_files(PACKAGE / "providers" / place):
            for name in imports(path):
                foreign = name.startswith("cloudtune.providers.") and name.split(".")[2] != place
                if foreign and not any(name == shared or name.startswith(f"{shared}.") for shared in SHARED_BY_PROVIDERS):
                    crossings.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert crossings == []


def test_nothing_heavy_is_imported_at_the_top_of_a_launcher_module() -> None:
    heavy = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in python_files(PACKAGE)
        for name in top_level_imports(path)
        if name.split(".")[0] in HEAVY
    ]
    assert heavy == []


def test_below_the_edges_nothing_opens_a_socket_or_starts_a_process() -> None:
    doors = {"socket", "ssl", "http", "urllib.request", "subprocess", "sqlite3", "asyncio", "multiprocessing"}
    found = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in python_files(PACKAGE)
        if FLOORS[path.stem if path.parent == PACKAGE else room(module_name(path))] < 4
        for name in imports(path)
        if any(name == door or name.startswith(f"{door}.") for door in doors)
    ]
    assert found == []


def test_the_trainer_knows_only_the_recipe_and_the_manifest() -> None:
    files = python_files(TRAINER)
    assert len(files) >= 5
    foreign = [
        f"{path.name} imports {name}"
        for path in files
        for name in imports(path)
        if name.split(".")[0] == "cloudtune" and not any(name == allowed or name.startswith(f"{allowed}.") for allowed in TRAINER_MAY)
    ]
    assert foreign == []


@pytest.mark.parametrize("package", ["recipe", "models", "offers", "memory", "planning", "rendering", "verbs", "show", "cli"])
def test_package_faces_are_light(package: str) -> None:
    """Importing one module of a package must not drag in its neighbours through ``__init__``."""
    assert imports(PACKAGE / package / "__init__.py") == set()
