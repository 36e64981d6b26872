"""What the supervisor itself must know of ``job.json``: device, processes, secrets. Everything else is the trainer's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cloudtune_entry.ground import Trouble

CONTRACT = 1


@dataclass(frozen=True)
class Orders:
    """``gpus`` per machine (0 = CPU) and ``nodes``; ``secrets``: environment variable → where its value comes from."""

    device: str
    gpus: int
    nodes: int
    secrets: Mapping[str, str] = field(default_factory=dict)
    name: str = ""


def read_orders(path: Path) -> Orders:
    """Read the job file. Raises Trouble when it is missing, damaged, or of another contract."""
    try:
        body = json.loads(path.read_bytes())
        contract = body["contract"]
        layout, recipe = body["layout"], body["recipe"]
        orders = Orders(
            device=str(body["device"]),
            gpus=int(layout["gpus"]),
            nodes=int(layout["nodes"]),
            secrets={str(name): str(source) for name, source in recipe.get("secrets", {}).items()},
            name=str(recipe["name"]),
        )
    except FileNotFoundError:
        raise Trouble(f"there is no job file at {path}: the data channel `job` did not arrive") from None
    except OSError as error:
        raise Trouble(f"the job file {path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Trouble(f"the job file {path} is damaged ({type(error).__name__}: {error}): render the job again") from error
    if contract != CONTRACT:
        raise Trouble(f"the job file speaks contract {contract}, this image speaks {CONTRACT}: use the image of the same release")
    return orders
