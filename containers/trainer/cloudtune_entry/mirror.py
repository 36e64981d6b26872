"""Vertex AI and Colab keep nothing of a machine: checkpoints, metrics and results are copied away as they appear.

The place is the mounted bucket on Vertex AI, and any folder that CLOUDTUNE_KEEP names elsewhere (Google Drive in a notebook).

The mount is no real file system (no atomic rename), so a checkpoint is written on the local disk first and copied with
its completion marker last; only marked ones are copied back at a restart. Files that vanish here vanish there too.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cloudtune_entry.ground import Ground, bucket_path
from cloudtune_entry.outcome import say

EVERY_SECONDS = 20.0
LAST_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5)  # of that, between the tries of the last copy: the machine is gone after it
VARIABLE = "CLOUDTUNE_MIRROR_SECONDS"  # another pause between copies: rehearsals are short
HISTORY = ("data/starts.jsonl", "data/metrics.jsonl")  # below the output; the next start goes on writing them
KEEP_VARIABLE = "CLOUDTUNE_KEEP"
BEST = "best*.safetensors"  # beside the checkpoints; written under another name, so whole
LAST = ("COMPLETE", "manifest.json")  # the markers: whoever sees one may trust everything beside it


@dataclass
class Mirror:
    """Pairs of (local folder, mounted folder). Without pairs it does nothing: other platforms synchronise by themselves."""

    pairs: tuple[tuple[Path, Path], ...] = ()
    checkpoints: tuple[Path, Path] | None = None
    every_seconds: float = EVERY_SECONDS
    _known: dict[Path, tuple[int, int]] = field(default_factory=dict)
    _next: float = 0.0

    def restore(self) -> int:
        """Copy the run's history and marked checkpoints back from the bucket; returns how many checkpoints."""
        for local, remote in self.pairs:
            for name in HISTORY:
                if (remote / name).is_file() and not (local / name).exists() and (local / name).parent.is_dir():
                    shutil.copyfile(remote / name, local / name)
        if self.checkpoints is None or not self.checkpoints[1].is_dir():
            return 0
        local, remote = self.checkpoints
        marked = [folder for folder in sorted(remote.iterdir()) if folder.is_dir() and is_complete(folder)]
        for folder in marked:
            shutil.copytree(folder, local / folder.name, dirs_exist_ok=True)
        for best in remote.glob(BEST) if marked else ():
            shutil.copyfile(best, local / best.name)
        return len(marked)

    def tick(self) -> None:
        """Copy what is new, every ``every_seconds``."""
        if self.pairs and time.monotonic() >= self._next:
            self.copy()
            self._next = time.monotonic() + self.every_seconds

    def finish(self) -> bool:
        """The last copy, tried again for a minute while the mount refuses; whether all is there."""
        for share in LAST_PAUSES:
            if self.copy():
                return True
            time.sleep(share * self.every_seconds)
        return self.copy()

    def copy(self) -> bool:
        """Copy what is new now; whether all is there. A mount that refuses is said and tried again later: the training goes on."""
        arrived = True
        for local, remote in self.pairs:
            only_complete = self.checkpoints is not None and local == self.checkpoints[0]
            try:
                self._copy_tree(local, remote, only_complete=only_complete)
            except OSError as error:
                arrived = False
                say(f"copying {local} to {remote} failed ({error.strerror}); trying again later")
        return arrived

    def _copy_tree(self, local: Path, remote: Path, *, only_complete: bool) -> None:
        tops = [path for path in sorted(local.iterdir()) if not only_complete or path.match(BEST) or (path.is_dir() and is_complete(path))]
        files = [file for top in tops for file in ([top] if top.is_file() else top.rglob("*")) if file.is_file()]
        for file in sorted(files, key=lambda path: (path.name in LAST, str(path))):
            facts = file.stat()
            if self._known.get(file) != (facts.st_size, facts.st_mtime_ns):
                place = remote / file.relative_to(local)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)
                self._known[file] = (facts.st_size, facts.st_mtime_ns)
        self._prune(local, remote)

    def _prune(self, local: Path, remote: Path) -> None:
        for file in [known for known in self._known if known.is_relative_to(local) and not known.exists()]:
            (remote / file.relative_to(local)).unlink(missing_ok=True)
            del self._known[file]


def is_complete(folder: Path) -> bool:
    """Whether a checkpoint folder bears its completion marker."""
    return any((folder / name).exists() for name in LAST)


def make_mirror(ground: Ground, environ: Mapping[str, str]) -> Mirror:
    """The pairs for Vertex AI as its variables say, output beside the model; or below the folder that is to keep everything."""
    every = float(environ.get(VARIABLE) or EVERY_SECONDS)
    target, kept = environ.get("AIP_MODEL_DIR"), environ.get("AIP_CHECKPOINT_DIR")
    if ground.kind == "vertex" and target:
        model = bucket_path(target)
        return _mirror(ground, model, bucket_path(kept) if kept else model.parent / "checkpoints", every)
    folder = environ.get(KEEP_VARIABLE)
    if ground.kind == "local" and folder:
        return _mirror(ground, Path(folder) / "model", Path(folder) / "checkpoints", every)
    return Mirror()


def _mirror(ground: Ground, model: Path, checkpoints: Path, every_seconds: float) -> Mirror:
    pair = (ground.root / "checkpoints", checkpoints)
    # The model last: its manifest tells the launcher that everything else has arrived.
    pairs = (pair, (ground.output, model.parent / "output"), (ground.root / "model", model))
    return Mirror(pairs=pairs, checkpoints=pair, every_seconds=every_seconds)
