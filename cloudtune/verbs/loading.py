"""A collected result loaded in a new process by the trainer's own program: on this machine, or in a container of the image."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloudtune.resources import resource_dir
from cloudtune.verbs.rehearsal import Shortfall

if TYPE_CHECKING:
    from cloudtune.engine.client import Connection

Load = Callable[[Path, Path | None], dict[str, Any]]
"""(collected folder, base model's folder where the adapter does not name it) → the answer of cloudtune_trainer.evaluate."""
MOST_SECONDS = 600.0
_MODULE = "cloudtune_trainer.evaluate"


def load_here(result: Path, base: Path | None) -> dict[str, Any]:
    """In a process of this Python. Raises Shortfall when the evaluation loss is not the manifest's."""
    python_path = (resource_dir("containers") / "trainer", Path(__file__).resolve().parents[2])
    ran = subprocess.run(
        [sys.executable, "-m", _MODULE, str(result), "--json", *(["--base", str(base)] if base else [])],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, python_path)), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=MOST_SECONDS,
    )
    return _answer(ran.returncode, f"{ran.stderr}\n{ran.stdout}")


def load_in(connection: Connection, image: str, user: str | None, cache: Path) -> Load:
    """The same in a container of ``image``."""
    from cloudtune.engine.runner import ContainerRunner
    from cloudtune.rendering.container import ContainerSpec, Mount
    from cloudtune.rendering.contract import CACHE_DIR

    def load(result: Path, base: Path | None) -> dict[str, Any]:
        spec = ContainerSpec(
            image=image,
            entrypoint=("python3", "-m", _MODULE),
            command=("/result", "--json", *(("--base", "/base") if base else ())),
            env={"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CLOUDTUNE_CACHE": CACHE_DIR},
            mounts=(
                Mount(result, "/result", read_only=True),
                Mount(cache, CACHE_DIR, read_only=True),
                *((Mount(base, "/base", read_only=True),) if base else ()),
            ),
        )
        ended = ContainerRunner(connection, user).run(spec, seconds=MOST_SECONDS)
        return _answer(ended.exit_code, ended.log)

    return load


def _answer(code: int, text: str) -> dict[str, Any]:
    said = [line for line in text.splitlines() if line.startswith("{")]
    if code != 0 or not said:
        raise Shortfall("load", "the collected result does not give its evaluation loss again", text)
    answer: dict[str, Any] = json.loads(said[-1])
    return answer
