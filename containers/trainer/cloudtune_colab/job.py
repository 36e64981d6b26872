"""One job in a notebook, from its files to its result. ``start`` lays it out; each method is one cell and may be run again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloudtune_colab import inputs, keep, machine, packages, vault
from cloudtune_colab.ground import Place, Stop, find_place, say
from cloudtune_entry.mirror import KEEP_VARIABLE
from cloudtune_entry.rights import KEEP_VARIABLE as KEEP_USER

INTERRUPTED = 75
# What would make the supervisor believe that it runs as a job of a platform: some of Google's machines set one of these.
_FOREIGN = ("AIP_", "CLUSTER_SPEC", "CLOUD_ML_", "TRAINING_JOB_NAME", "SM_")


@dataclass
class Job:
    """``facts``: name, estimate, lock and the data to bring, as the notebook carries them."""

    place: Place
    facts: Mapping[str, Any]
    kept: keep.Kept = field(default_factory=lambda: keep.Folder(None))

    @property
    def root(self) -> Path:
        return self.place.home / "job"

    @property
    def orders(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / "input/data/job/job.json").read_bytes())
        return found

    def check_machine(self) -> None:
        """GPU and memory against the estimate. Raises Stop with what to choose instead."""
        for sentence in machine.judge(self.orders, self.facts["estimate"], machine.cards(), machine.host_memory()):
            say(sentence)

    def install(self) -> None:
        """What differs from the lock, into a folder of our own; nothing where everything is there."""
        packages.install(self.place, self.facts["lock"], self.orders["device"])

    def bring_data(self, source: str) -> None:
        """The data that the notebook does not carry."""
        inputs.bring(self.place, self.root / "input" / "data", self.facts["bring"], source)

    def keep_in(self, where: str) -> None:
        """Choose where checkpoints and results outlive this machine, and bring what an earlier one left there."""
        self.kept = keep.find_kept(where, self.facts["name"], self.place)
        self.kept.fetch()
        _take_back(self.kept.folder, self.root)

    def train(self) -> None:
        """Train to the end, or to the stop button: that saves a checkpoint, and the cell goes on from it when it is run again."""
        with vault.opened(tuple(self.orders["recipe"].get("secrets") or ()), colab=self.place.colab) as secrets, keep.sending(self.kept):
            code = _run([sys.executable, "-m", "cloudtune_entry", "train"], self._environment(secrets))
        if code == INTERRUPTED:
            raise Stop("stopped with a checkpoint saved: run this cell again to go on from it")
        if code:
            failure = self.root / "output" / "failure"
            said = failure.read_text().strip().split("\n", 1)[0] if failure.exists() else "the lines above say why"
            raise Stop(f"the job failed with exit code {code}: {said}")

    def show(self) -> None:
        """What came out: losses, memory beside the estimate, files."""
        manifest = self._manifest()
        before, after = manifest.get("eval_loss_before"), manifest.get("eval_loss_after")
        if before is not None and after is not None:
            say(f"evaluation loss {before:.4f} before, {after:.4f} after")
        measured = manifest.get("peak_memory") or {}
        peak = measured.get("device_bytes") or measured.get("reserved_bytes") or measured.get("host_rss_bytes")
        if peak:
            say(f"measured peak {peak / machine.GIB:.2f} GiB, estimated {self.facts['estimate']['peak'] / machine.GIB:.2f} GiB")
        place = self.kept.folder / "model" if self.kept.folder else self.root / "model"
        for item in manifest["artifacts"]:
            say(f"{item['bytes']:>13,} bytes  {place / item['path']}")

    def check_result(self) -> None:
        """Load the result in a new process and measure it again. Raises Stop when the loss is not the manifest's."""
        if self._manifest().get("eval_loss_after") is None:
            say("the recipe holds no rows out, so there is nothing to measure again")
            return
        command = [sys.executable, "-m", "cloudtune_trainer.evaluate", str(self.root / "model")]
        if _run(command, self._environment(None)):
            raise Stop("the result does not give the loss of the training when it is loaded again: the lines above say more")

    def _manifest(self) -> dict[str, Any]:
        path = self.root / "model" / "manifest.json"
        if not path.exists():
            raise Stop("there is no result yet: run the training cell to its end first")
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found

    def _environment(self, secrets: Path | None) -> dict[str, str]:
        home = self.place.home
        own = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        own.update(
            PYTHONPATH=self.place.python_path,
            PYTHONUNBUFFERED="1",
            CLOUDTUNE_ROOT=str(self.root),
            CLOUDTUNE_LAUNCH_ID=f"{self.facts['name']}-notebook",
            CLOUDTUNE_HOME_IN_JOB=str(home / "home"),
            **{KEEP_USER: "1"},  # a notebook is root, and Drive's folder is root's alone
        )
        own.setdefault("CLOUDTUNE_CACHE", str(home / "cache"))
        if secrets is not None:
            own["CLOUDTUNE_SECRETS_DIR"] = str(secrets)
        if self.kept.folder is not None:
            own[KEEP_VARIABLE] = str(self.kept.folder)
        return own


def start(wheel: bytes, facts: Mapping[str, Any], files: Mapping[str, bytes]) -> Job:
    """Lay the job out in the notebook's home. A folder that another job left is emptied first; checkpoints of this one stay."""
    place = find_place(os.environ)
    inputs.put_code(place, wheel)
    job = Job(place, facts)
    marker = job.root / "job.digest"
    if not marker.exists() or marker.read_text() != facts["digest"]:
        shutil.rmtree(job.root, ignore_errors=True)
        job.root.mkdir(parents=True)
        marker.write_text(facts["digest"])
    inputs.put_files(job.root / "input" / "data", files)
    say(f"job {facts['name']} of cloudtune {facts['version']} in {place.home}")
    return job


def _take_back(kept: Path | None, root: Path) -> None:
    """A finished result of an earlier machine: the trainer sees its manifest and has nothing to do. Checkpoints the supervisor takes."""
    told = kept / "model" / "manifest.json" if kept else None
    if kept is None or told is None or not told.exists() or json.loads(told.read_bytes()).get("outcome") != "complete":
        return
    if (root / "model" / "manifest.json").exists():
        return
    for name in ("model", "output"):
        if (kept / name).is_dir():
            shutil.copytree(kept / name, root / name, dirs_exist_ok=True)
    say("an earlier machine left its results here; they are taken over")


def _run(command: list[str], environ: Mapping[str, str]) -> int:
    """Run to the end with the lines below the cell; the notebook's stop button becomes one SIGTERM."""
    process = subprocess.Popen(
        command, env=dict(environ), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
    )
    with process:
        while True:
            try:
                for line in process.stdout or ():
                    say(line.rstrip("\n"))
                return process.wait()
            except KeyboardInterrupt:
                say("stopping: the trainer saves a checkpoint first")
                process.send_signal(signal.SIGTERM)
