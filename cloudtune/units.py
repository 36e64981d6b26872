"""Units: bytes, money and durations as people read them. Pure functions over plain numbers."""

from __future__ import annotations

KIB = 1024
MIB = 1024**2
GIB = 1024**3


def gib(size_bytes: float) -> str:
    """``size_bytes`` as text in GiB with one decimal (two below 10), in MiB below 1 GiB."""
    if size_bytes < GIB:
        return f"{size_bytes / MIB:.0f} MiB"
    value = size_bytes / GIB
    return f"{value:.2f} GiB" if value < 10 else f"{value:.1f} GiB"


def usd(amount: float) -> str:
    """US dollars with cents; four decimals below ten cents so that a small price is not shown as zero."""
    return f"${amount:.4f}" if 0 < amount < 0.1 else f"${amount:,.2f}"


def duration(seconds: float) -> str:
    """Seconds as ``42 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(number: int) -> str:
    """A parameter or token count as ``8.03 B``, ``3.9 M``, ``12.5 k`` or the plain number."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return str(number)
