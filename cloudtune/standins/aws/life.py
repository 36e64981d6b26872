"""One job from its start to its end, in a thread of its own: the service's states, limits and interruptions around real machines.

Starting (Pending while sold out) → Downloading → Training ⇄ Interrupted → Uploading → Completed | Failed | Stopped
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from cloudtune.errors import CloudtuneError
from cloudtune.standins.aws.files import upload_results
from cloudtune.standins.aws.logs import LogWriter
from cloudtune.standins.aws.machines import DataError, Machines

if TYPE_CHECKING:
    from cloudtune.standins.aws.account import Account
    from cloudtune.standins.aws.record import Record
    from cloudtune.standins.clock import StandinClock
    from cloudtune.standins.runner import Runner

Ending = Literal["exited", "stop", "interrupt", "runtime", "wait", "closed"]
GRACE_SECONDS: Final = 120.0
_LOOK_SECONDS: Final = 0.05
SOLD_OUT: Final = "CapacityError: Unable to provision requested ML compute capacity. Please retry using a different ML instance type."
RETRYING: Final = "Insufficient capacity error from EC2 while launching instances, retrying!"


@dataclass(frozen=True)
class World:
    """What a job's life needs: the account, a clock, clients of the stand-in itself, and what runs programs."""

    account: Account
    clock: StandinClock
    s3: Any
    logs: Any
    runner: Runner
    folder: Path
    environ: Mapping[str, str]
    least_grace: float = 10.0
    """Real seconds between SIGTERM and SIGKILL, however fast the clock runs."""


class Life:
    """Lives one record. ``closed`` is asked often: True ends everything at once, for the stand-in's own end."""

    def __init__(self, record: Record, world: World) -> None:
        self.record = record
        self.world = world
        self.closed = False
        stopping = record.request["StoppingCondition"]
        self._max_runtime = float(stopping.get("MaxRuntimeInSeconds") or 86_400)
        self._max_wait = float(stopping.get("MaxWaitTimeInSeconds") or 0)
        self._max_pending = float(stopping.get("MaxPendingTimeInSeconds") or 0)

    def run(self) -> None:
        """From Starting to the end; trouble of the stand-in itself ends the job as the service's own failures do."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            while self._attempt():
                pass
        except (BotoCoreError, ClientError, OSError, CloudtuneError) as error:
            self._end("Failed", "Failed", f"InternalServerError: {error}")

    def _move(self, secondary: str, message: str, *, status: str = "") -> None:
        self.record.move(secondary, message, self.world.clock.now(), status=status)

    def _attempt(self) -> bool:
        """One attempt; whether another follows."""
        record, durations = self.record, self.world.account.durations
        record.attempts += 1
        self._move("Starting", "Starting the training job")
        if not self._machines_come() or not self._pause(durations.starting):
            return False
        machines = Machines(
            record, self.world.folder / record.name / f"attempt-{record.attempts}", self.world.runner, self.world.s3, self.world.environ
        )
        log = LogWriter(self.world.logs, self.world.clock, self.world.account.quirks, record.name, time.time_ns() // 1_000_000)
        try:
            return self._on(machines, log)
        finally:
            machines.kill()
            log.close()
            machines.throw_away()

    def _on(self, machines: Machines, log: LogWriter) -> bool:
        record, clock = self.record, self.world.clock
        self._move("Downloading", "Downloading the training image and the input data")
        record.attempt_began = clock.now()
        record.training_began = record.training_began or record.attempt_began
        try:
            machines.lay_out()
            if not self._pause(self.world.account.durations.downloading):
                return False
            self._move("Training", "Training image download completed. Training in progress.")
            machines.start(log)
        except DataError as error:
            self._end("Failed", "Failed", str(error))
            return False
        except (OSError, CloudtuneError) as error:
            self._end("Failed", "Failed", f"ClientError: Cannot pull algorithm container or start it: {error}")
            return False
        ending = self._watch(machines)
        log.close()
        return self._after(machines, ending)

    def _watch(self, machines: Machines) -> Ending:
        """Look after running machines until the attempt ends; whatever the reason, nothing runs any more then."""
        while True:
            if machines.look() is not None:
                machines.kill()  # the others of a job whose one machine has failed
                return "exited"
            ending = self._asked()
            if ending == "closed" or (ending == "interrupt" and not self.world.account.quirks.spot_sigterm):
                machines.kill()
                return ending
            if ending is not None:
                self._press(machines, ending)
                return ending
            time.sleep(_LOOK_SECONDS)

    def _asked(self) -> Ending | None:
        """Why the attempt must end now."""
        record, now = self.record, self.world.clock.now()
        if self.closed:
            return "closed"
        if record.asked.stop:
            return "stop"
        if record.asked.interrupt:
            record.asked.interrupt = False
            return "interrupt"
        if record.ran(now) > self._max_runtime:
            return "runtime"
        if self._max_wait and (now - record.created).total_seconds() > self._max_wait:
            return "wait"
        return None

    def _press(self, machines: Machines, ending: Ending) -> None:
        """SIGTERM, 120 s, SIGKILL."""
        if ending in ("stop", "runtime", "wait"):
            self._move("Stopping", "Stopping the training job", status="Stopping" if ending == "stop" else "")
        machines.terminate()
        began = time.monotonic()
        over = self.world.clock.monotonic() + GRACE_SECONDS
        while machines.look() is None and not self.closed:
            if self.world.clock.monotonic() > over and time.monotonic() - began > self.world.least_grace:
                break
            time.sleep(_LOOK_SECONDS)
        machines.kill()

    def _after(self, machines: Machines, ending: Ending) -> bool:
        record = self.record
        if ending == "closed":
            return False
        machines.sync()
        if ending == "interrupt":
            record.end_attempt(self.world.clock.now())
            self._move("Interrupted", "Training job interrupted because of a loss of spot capacity")
            return self._pause(self.world.account.durations.interrupted)
        failed = [code for code in (machine.code for machine in machines.machines) if code]
        if ending == "exited" and failed:
            return self._failed(machines, failed[0])
        self._move("Uploading", "Uploading generated training model")
        reason = self._upload(machines)
        if reason:
            self._end("Failed", "Failed", reason)
            return False
        if not self._pause(self.world.account.durations.uploading, stop=False):
            return False
        secondary = {"exited": "Completed", "stop": "Stopped", "runtime": "MaxRuntimeExceeded", "wait": "MaxWaitTimeExceeded"}[ending]
        self._end("Completed" if ending == "exited" else "Stopped", secondary, "")
        return False

    def _failed(self, machines: Machines, code: int) -> bool:
        """An attempt whose program failed; its output is uploaded all the same."""
        self._move("Uploading", "Uploading generated training model")
        self._upload(machines)
        words = machines.failure() or "Please use an API such as CloudWatch Logs to see the error"
        self._end("Failed", "Failed", f"AlgorithmError: {words}, exit code: {code}")
        return False

    def _upload(self, machines: Machines) -> str:
        """Model and output to S3; a FailureReason when that fails."""
        from botocore.exceptions import BotoCoreError, ClientError

        if self.world.account.quirks.disk_full:
            return "ClientError: Artifact upload failed:Insufficient disk space"
        output = self.record.request["OutputDataConfig"]
        uri = f"{output['S3OutputPath'].rstrip('/')}/{self.record.name}/output/"
        raw = output.get("CompressionType") == "NONE"
        try:
            homes = [machine.ml for machine in machines.machines]
            self.record.artifacts = upload_results(self.world.s3, [home / "model" for home in homes], uri, raw=raw, archive="model")
            outputs = [home / "output" / "data" for home in homes]
            upload_results(self.world.s3, outputs, uri, raw=raw, archive="data" if raw else "output")
        except (ClientError, BotoCoreError) as error:
            return f"ClientError: Artifact upload failed:{error}"
        return ""

    def _machines_come(self) -> bool:
        """Wait for capacity; False when the job ended meanwhile."""
        record, account, clock = self.record, self.world.account, self.world.clock
        kind = "spot " if record.spot else ""
        began = clock.monotonic()
        while True:
            there = [name for name in record.types() if name not in account.not_here and f"{kind}{name}" not in account.sold_out]
            if there:
                record.selected = there[0]
                return True
            self._move("Pending", RETRYING)
            if self._max_pending and clock.monotonic() - began > self._max_pending:
                self._end("Failed", "Failed", SOLD_OUT)
                return False
            if not self._pause(account.durations.capacity_retry):
                return False

    def _pause(self, seconds: float, *, stop: bool = True) -> bool:
        """Let time pass without machines; False when the job ended meanwhile."""
        record = self.record
        self.world.clock.wait_for(lambda: self.closed or (stop and record.asked.stop), seconds)
        if self.closed:
            return False
        if stop and record.asked.stop:
            self._end("Stopped", "Stopped", "")
            return False
        if self._max_wait and (self.world.clock.now() - record.created).total_seconds() > self._max_wait:
            self._end("Stopped", "MaxWaitTimeExceeded", "")
            return False
        return True

    def _end(self, status: str, secondary: str, reason: str) -> None:
        record, now = self.record, self.world.clock.now()
        with record.lock:
            record.end_attempt(now)
            record.training_ended = now
            record.failure_reason = reason
            record.keep_warm(now, self.world.account.warm_quota(record.selected))
        words = reason or {"Completed": "Training job completed", "Stopped": "Training job stopped"}.get(secondary, "Training job stopped")
        record.move(secondary, words, now, status=status)
