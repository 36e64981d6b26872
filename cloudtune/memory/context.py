"""What every template needs at hand: the run, the model's numbers, the types, the batch. A holder, no logic of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cloudtune.memory.autograd import Run, Value
from cloudtune.memory.behaviour import Behaviour
from cloudtune.memory.inventory import Layer
from cloudtune.memory.lora import Casting, LinearLayer
from cloudtune.models.shape import ModelShape


@dataclass(slots=True)
class Context:
    """One forward pass: ``batch`` sequences of ``length`` tokens on a device of ``capability`` ((0, 0) = CPU)."""

    run: Run
    shape: ModelShape
    behaviour: Behaviour
    casting: Casting
    batch: int
    length: int
    capability: tuple[int, int]
    training: bool = True
    cos: Value | None = None
    sin: Value | None = None
    mask: Value | None = None
    others: list[Value] = field(default_factory=list)
    """Masks and angles of the other kinds of layers; like all of the above, held by every checkpointed layer."""
    ends: Mapping[str, LinearLayer] = field(default_factory=dict)
    """Linear layers outside the blocks, by the name of their weight."""

    @property
    def input_gradients(self) -> bool:
        """Whether the word embeddings' output is made to require a gradient."""
        return self.behaviour.checkpointing and self.behaviour.input_gradients

    @property
    def tokens(self) -> int:
        return self.batch * self.length

    def mlp_prefix(self, layer: Layer) -> str:
        """Where the dense MLP of a decoder layer lives."""
        return "feed_forward" if "feed_forward.gate_proj" in layer.linear or "feed_forward.down_proj" in layer.linear else "mlp"
