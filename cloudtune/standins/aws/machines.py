"""The machines of one attempt of a job: ``/opt/ml`` laid out in real folders, channels fetched, programs started and ended."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloudtune.standins.aws.files import Sync, fetch_prefix
from cloudtune.standins.runner import Program, Running

if TYPE_CHECKING:
    from cloudtune.standins.aws.logs import LogWriter
    from cloudtune.standins.aws.record import Record
    from cloudtune.standins.runner import Runner

ML: Final = "/opt/ml"
CHECKPOINTS: Final = f"{ML}/checkpoints"
_FOLDERS: Final = ("input/config", "input/data", "model", "output/data", "checkpoints")
SYNC_SECONDS: Final = 0.5


class DataError(Exception):
    """A channel could not be fetched; the text is the service's FailureReason."""


@dataclass
class Machine:
    """One machine: its number from 1, its folder, and what runs on it."""

    number: int
    name: str
    folder: Path
    syncs: list[Sync] = field(default_factory=list)
    running: Running | None = None
    code: int | None = None

    @property
    def ml(self) -> Path:
        return self.folder / "ml"

    @property
    def log_name(self) -> str:
        return f"algo-{self.number}"


class Machines:
    """All machines of an attempt. ``environ``: what the platform adds to the job's own environment."""

    def __init__(self, record: Record, folder: Path, runner: Runner, s3: Any, environ: Mapping[str, str]) -> None:
        self._record = record
        self._runner = runner
        self._s3 = s3
        self._environ = environ
        self._next_sync = 0.0
        # Plain processes cannot be told what algo-1 resolves to, so several machines are called by loopback addresses there.
        numbers = range(1, record.hosts + 1)
        by_name = record.hosts == 1 or runner.mode == "container"
        names = {number: f"algo-{number}" if by_name else f"127.0.0.{number}" for number in numbers}
        self.machines = [Machine(number, names[number], folder / f"algo-{number}") for number in numbers]

    def lay_out(self) -> None:
        """Make the folders, fetch channels and checkpoints. Raises DataError."""
        if self._runner.mode == "container" and len(self.machines) > 1:
            raise DataError("ClientError: this stand-in runs a job of several machines as plain processes only")
        for machine in self.machines:
            shutil.rmtree(machine.folder, ignore_errors=True)
            for name in _FOLDERS:
                (machine.ml / name).mkdir(parents=True)
            (machine.folder / "work").mkdir()
            self._write_config(machine)
            self._fetch(machine)
            _open(machine.folder)

    def _write_config(self, machine: Machine) -> None:
        request = self._record.request
        names = [one.name for one in self.machines]
        group = {"instance_group_name": "homogeneousCluster", "instance_type": self._record.selected, "hosts": names}
        config = {
            "hyperparameters": dict(request.get("HyperParameters") or {}),
            "resourceconfig": {
                "current_host": machine.name,
                "current_instance_type": self._record.selected,
                "current_group_name": group["instance_group_name"],
                "hosts": names,
                "instance_groups": [group],
                "network_interface_name": "lo" if self._runner.mode == "process" else "eth0",
            },
            "inputdataconfig": {channel["ChannelName"]: _channel_config(channel) for channel in request.get("InputDataConfig") or ()},
        }
        for name, body in config.items():
            (machine.ml / "input" / "config" / f"{name}.json").write_text(json.dumps(body))

    def _fetch(self, machine: Machine) -> None:
        request = self._record.request
        for channel in request.get("InputDataConfig") or ():
            source = channel["DataSource"]["S3DataSource"]
            if source["S3DataType"] != "S3Prefix" or channel.get("InputMode", "File") == "Pipe":
                raise DataError(f"ClientError: this stand-in fetches S3Prefix channels in File mode, not {channel['ChannelName']}")
            sharded = source.get("S3DataDistributionType") == "ShardedByS3Key"
            place = machine.ml / "input" / "data" / channel["ChannelName"]
            part, of = (machine.number - 1, len(self.machines)) if sharded else (0, 1)
            if not fetch_prefix(self._s3, source["S3Uri"], place, part=part, of=of) and not sharded:
                raise DataError(f'ClientError: Data download failed:No S3 objects found under S3 URL "{source["S3Uri"]}"')
        kept = request.get("CheckpointConfig")
        if kept:
            local = str(kept.get("LocalPath") or CHECKPOINTS)
            folder = machine.ml / local.removeprefix(f"{ML}/")
            sync = Sync(self._s3, folder, kept["S3Uri"])
            sync.restore()
            machine.syncs.append(sync)

    def start(self, log: LogWriter) -> None:
        request = self._record.request
        algorithm = request["AlgorithmSpecification"]
        entry = algorithm.get("ContainerEntrypoint") or ["python3", "-m", "cloudtune_entry"]
        arguments = algorithm.get("ContainerArguments") or ([] if algorithm.get("ContainerEntrypoint") else ["train"])
        platform = {**self._environ, "TRAINING_JOB_NAME": self._record.name, "TRAINING_JOB_ARN": self._record.arn}
        for machine in self.machines:
            program = Program(
                command=(*entry, *arguments),
                env={**platform, **(request.get("Environment") or {})},
                folders={ML: machine.ml},
                workplace=machine.folder / "work",
                host=machine.log_name,
                image=str(algorithm.get("TrainingImage", "")),
            )
            machine.running = self._runner.start(program, log.line)

    def look(self) -> dict[int, int] | None:
        """Exit codes by machine number once the attempt is over: all have ended, or one has failed. Checkpoints are synchronised."""
        for machine in self.machines:
            if machine.code is None and machine.running is not None:
                machine.code = machine.running.wait(0)
        if time.monotonic() >= self._next_sync:
            self.sync()
            self._next_sync = time.monotonic() + SYNC_SECONDS
        codes = {machine.number: machine.code for machine in self.machines if machine.code is not None}
        return codes if len(codes) == len(self.machines) or any(codes.values()) else None

    def sync(self) -> None:
        for machine in self.machines:
            for sync in machine.syncs:
                sync.push()

    def terminate(self) -> None:
        for machine in self.machines:
            if machine.running is not None and machine.code is None:
                machine.running.terminate()

    def kill(self) -> None:
        """End whatever still runs and read its exit code."""
        for machine in self.machines:
            if machine.running is not None and machine.code is None:
                machine.running.kill()
                machine.code = machine.running.wait(30)

    def failure(self) -> str:
        """What the first machine that failed left in its failure file."""
        for machine in self.machines:
            path = machine.ml / "output" / "failure"
            if machine.code and path.is_file():
                return path.read_text(errors="replace").strip()
        return ""

    def throw_away(self) -> None:
        """A machine that is gone takes its disk with it."""
        for machine in self.machines:
            shutil.rmtree(machine.folder, ignore_errors=True)


def _channel_config(channel: Mapping[str, Any]) -> dict[str, str]:
    source = channel["DataSource"]["S3DataSource"]
    return {
        "TrainingInputMode": str(channel.get("InputMode", "File")),
        "S3DistributionType": str(source.get("S3DataDistributionType", "FullyReplicated")),
        "RecordWrapperType": str(channel.get("RecordWrapperType", "None")),
    }


def _open(folder: Path) -> None:
    """For every user of a container, as the service's mounts are."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o777 if path.is_dir() else 0o666)
