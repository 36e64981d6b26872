"""The machines that Colab gives a notebook, as offers that cost nothing here. Data and names; asks nobody.

Kinds of GPU as google-colab-cli 0.7.5 lists them (2026-11); memory and cores of the machines around them as users of Colab
report them, which Google does not promise. Which of them an account may have is known only when it asks.
"""

from __future__ import annotations

from typing import Final

from cloudtune.offers.lookup import gpus
from cloudtune.offers.offer import NO_GPU, Offer
from cloudtune.units import GIB

CPU: Final = "cpu"
# Colab's name → (our name of the card, cores, GiB of host memory), smallest first: a plan takes the first that is enough.
_MACHINES: Final[dict[str, tuple[str, int, float]]] = {
    "T4": ("T4", 2, 12.7),
    "L4": ("L4", 12, 53.0),
    "A100": ("A100-40GB", 12, 83.5),
    "H100": ("H100-80GB", 26, 234.0),
    "G4": ("RTX PRO 6000", 48, 176.0),
}
NAMES: Final = (*_MACHINES, CPU)


def colab_offers() -> dict[str, Offer]:
    """Colab's name of the runtime → the machine, smallest GPU first; last the one without a GPU."""
    found = {name: _offer(name, card, cores, memory) for name, (card, cores, memory) in _MACHINES.items()}
    return {**found, CPU: _offer(CPU, "", 2, 12.7)}


def _offer(name: str, card: str, cores: int, memory: float) -> Offer:
    return Offer(
        provider="local",  # it runs as a job of the machine that the notebook is on
        region="local",
        instance=f"colab-{name}",
        purchase="owned",
        gpu=gpus()[card] if card else NO_GPU,
        gpu_count=1 if card else 0,
        vcpus=cores,
        host_memory_bytes=int(memory * GIB),
        local_disk_bytes=0,
        interconnect="",
        usd_per_hour=0.0,
        price_date="",
        source="Colab",
    )
