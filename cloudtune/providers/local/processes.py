"""Signals to processes that are provably ours. A process id alone proves nothing: ids are used again.

A mark (see ``supervisor.process_mark``) names a process by id, start time and the machine's boot. A signal goes
through a pidfd opened before the mark is compared, so the process cannot be swapped in between.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

from cloudtune.providers.local.supervisor import boot_id, start_ticks


def is_running(mark: Mapping[str, Any]) -> bool:
    """Whether the marked process still exists, in this boot of this machine."""
    return mark.get("boot") == boot_id() and mark.get("ticks") is not None and start_ticks(int(mark["pid"])) == mark["ticks"]


def signal_process(mark: Mapping[str, Any], number: signal.Signals = signal.SIGTERM) -> bool:
    """Send ``number`` to the marked process; False when it is gone or is not the marked one any more."""
    pid = int(mark["pid"])
    if not hasattr(os, "pidfd_open"):
        return False
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not is_running(mark):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def signal_group(mark: Mapping[str, Any], number: signal.Signals = signal.SIGKILL) -> bool:
    """Send ``number`` to the process group that the marked process leads; False when it is gone."""
    if not signal_process(mark, signal.SIGSTOP):  # a stopped leader keeps its group's number from being used again
        return False
    try:
        os.killpg(int(mark["pid"]), number)
    except ProcessLookupError:
        return False
    return True
