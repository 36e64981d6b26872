"""Peak memory by phase, measured: CUDA's allocator counters on a GPU, the resident set on the CPU. Estimates nothing."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from cloudtune.manifest import PeakMemory

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class Peaks:
    """Bytes at the worst moment of each phase. A phase that comes twice keeps its higher peak."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.by_phase: dict[str, int] = {}
        self._reserved = 0
        self._on_device = 0
        self._resident = 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what happens inside as phase ``name``. Phases do not nest."""
        self._begin()
        try:
            yield
        finally:
            self._end(name)

    def _begin(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        with suppress(OSError):
            _CLEAR.write_text("5")  # sets the kernel's high-water mark of this process back to now

    def _end(self, name: str) -> None:
        resident = resident_peak_bytes()
        self._resident = max(self._resident, resident)
        peak = resident
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            self._reserved = max(self._reserved, torch.cuda.max_memory_reserved(self.device))
            free, total = torch.cuda.mem_get_info(self.device)
            self._on_device = max(self._on_device, total - free)
        self.by_phase[name] = max(self.by_phase.get(name, 0), peak)

    def summary(self) -> PeakMemory:
        """The peaks so far, for the manifest."""
        if self.device.type != "cuda":
            return PeakMemory(device="cpu", host_rss_bytes=self._resident or resident_peak_bytes(), by_phase=self.by_phase)
        return PeakMemory(
            device="cuda",
            allocated_bytes=max(self.by_phase.values(), default=0),
            reserved_bytes=self._reserved,
            device_bytes=self._on_device,
            host_rss_bytes=self._resident,
            by_phase=self.by_phase,
        )


def resident_peak_bytes() -> int:
    """High-water mark of the resident set since the start, or since it was last set back (Linux)."""
    with suppress(OSError):
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def let_go(device: torch.device) -> None:
    """Give freed memory back, so that what loading left behind does not count as training's."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
