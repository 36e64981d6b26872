"""Loading: how weights and adapters come into device memory, with what they borrow on the way. Sizes only.

Sources: transformers 5.23 modeling_utils.py (caching_allocator_warmup, get_total_byte_count), core_model_loading.py (sorted by
name; one tensor at a time when quantising), integrations/bitsandbytes.py; bitsandbytes 0.50 functional.py (quantize_4bit,
quantize_blockwise), nn/modules.py and backends/cuda/ops.py (the order in which its kernels allocate); peft 0.21 utils/other.py
(prepare_model_for_kbit_training) and tuners/tuners_utils.py (cast_adapter_dtype).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from cloudtune.memory.behaviour import Behaviour
from cloudtune.memory.inventory import Stored, is_quantised, output_name, stored, weight_word
from cloudtune.memory.tape import Storage, Tape
from cloudtune.models.shape import ModelShape, Tensor
from cloudtune.recipe.method import is_qlora

if TYPE_CHECKING:
    from cloudtune.recipe.method import Method

SHARED = frozenset({"weight", "packed weight", "int8 weight"})
"""Pieces of a stored parameter that FSDP divides over the devices."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of one layer with its stored form."""

    name: str
    tensor: Tensor
    form: Stored
    quantised: bool
    final_word: int


def parameters(shape: ModelShape, method: Method, behaviour: Behaviour) -> Iterator[Parameter]:
    """Every parameter that has memory of its own, in the model's order."""
    output = output_name(shape)
    forms: dict[int, tuple[Stored, bool, int]] = {}
    for name, tensor in shape.modules():
        if tensor.tied_to is not None:
            continue
        key = id(tensor)
        if key not in forms or name == output:
            quantised = is_quantised(tensor, name, method, output)
            forms[key] = (
                stored(tensor, name, method, behaviour, output),
                quantised,
                weight_word(method, behaviour, quantised=quantised),
            )
        form, quantised, word = forms[key]
        yield Parameter(name, tensor, form, quantised, word)


def load(tape: Tape, shape: ModelShape, method: Method, behaviour: Behaviour, shards: int = 1, *, offload: bool = False) -> list[Storage]:
    """Bring all weights to the device; the storages that stay, without those that nobody can free before the end.

    ``shards``: how many devices share them.
    ``offload``: the shards stay on the host; scales and codes of quantised weights, which are no parameters, do not.
    """
    tape.kind = "weights"
    every = list(parameters(shape, method, behaviour))
    from_file = behaviour.loading == "device" and shards == 1
    if from_file:
        warm = Storage(tape, warm_up_bytes(every, method), "warm-up")
        del warm
    if offload:
        rest = [(parameter.name, piece) for parameter in every for piece in parameter.form.pieces if piece[0] not in SHARED]
        return [Storage(tape, size, f"{what} of {name}") for name, (what, size) in rest]
    order = sorted(every, key=lambda parameter: natural_key(parameter.name)) if from_file else every
    held = _place_all(tape, order, shards)
    if behaviour.kbit_upcast and is_qlora(method):
        _upcast(tape, [(parameter, held[parameter.name]) for parameter in every if not parameter.quantised], behaviour)
    if behaviour.empty_cache_after_load:
        tape.command("empty_cache")
    return [storage for storages in held.values() for storage in storages]


def natural_key(name: str) -> tuple[tuple[int, str, int], ...]:
    """The order in which transformers reads a checkpoint: piece by piece, numbers by their value and before words."""
    return tuple(map(_piece_key, name.split(".")))


@cache
def _piece_key(piece: str) -> tuple[int, str, int]:
    word = piece.rstrip("0123456789")
    number = int(piece[len(word) :] or -1)
    return (0, "", number) if piece.isdigit() else (1, word, number)


def warm_up_bytes(every: list[Parameter], method: Method) -> int:
    """One allocation for the whole model, made and dropped first; scales of packed weights are not counted."""
    packed = 2 if is_qlora(method) and method.quantization == "int8" else 1
    return sum(
        parameter.tensor.numel * packed // 2 if parameter.quantised else sum(size for _, size in parameter.form.pieces)
        for parameter in every
    )


def _place_all(tape: Tape, order: list[Parameter], shards: int) -> dict[str, list[Storage]]:
    """Every parameter in turn; what may still be replaced by name. Quantised ones of one form are written from one pattern."""
    held: dict[str, list[Storage]] = {}
    patterns: dict[int, tuple[list[int], list[str]]] = {}
    for parameter in order:
        form = parameter.form
        if not form.source_bytes or shards > 1:
            held[parameter.name] = _place(tape, parameter, shards)
            continue
        if id(form) not in patterns:
            patterns[id(form)] = _pattern(parameter)
        codes, names = patterns[id(form)]
        tape.write(codes, [f"{name}{parameter.name}" if name.endswith(" of ") else name for name in names])
    return held


def _pattern(parameter: Parameter) -> tuple[list[int], list[str]]:
    """How a quantised parameter comes: events with ids from 0 on, and names that lack the parameter's own."""
    tape = Tape()
    stays = _place(tape, replace(parameter, name=""), 1)
    codes = list(tape.events)
    del stays  # in the run it stays to the end
    return codes, tape.names


def _place(tape: Tape, parameter: Parameter, shards: int) -> list[Storage]:
    """One parameter; a quantised one is made on the device from its 16-bit tensor."""
    form = parameter.form
    if shards > 1:
        # scales and codes of a quantised weight are no parameters: every device keeps all of them
        return [Storage(tape, -(-size // shards) if what in SHARED else size, f"{what} of {parameter.name}") for what, size in form.pieces]
    if not form.source_bytes:
        return [Storage(tape, size, f"{what} of {parameter.name}") for what, size in form.pieces]
    sources = [Storage(tape, form.source_bytes, "16-bit tensor while quantising")]
    pieces = dict(form.pieces)
    if "int8 weight" in pieces:  # goes to the host and comes back: Bnb8bitQuantize
        sources.append(Storage(tape, form.source_bytes, "16-bit tensor while quantising"))
        order = ["row scales", "int8 weight"]
    elif "8-bit scales" in pieces:
        return _place_nested(tape, parameter, pieces, sources)
    else:
        order = ["scales", "packed weight", "code"]
    return [Storage(tape, pieces[what], f"{what} of {parameter.name}") for what in order]


def _place_nested(tape: Tape, parameter: Parameter, pieces: dict[str, int], sources: list[Storage]) -> list[Storage]:
    """Double quantisation: the fp32 scales are made, and once more without their mean, before their 8-bit form."""
    name = parameter.name
    scales = Storage(tape, pieces["8-bit scales"] * 4, "scales before they are quantised")
    stored = [Storage(tape, pieces[what], f"{what} of {name}") for what in ("packed weight", "code", "offset")]
    shifted = Storage(tape, pieces["8-bit scales"] * 4, "scales without their mean")
    stored += [Storage(tape, pieces[what], f"{what} of {name}") for what in ("scales of scales", "8-bit scales", "nested code")]
    del scales, shifted, sources
    return stored


def _upcast(tape: Tape, held: list[tuple[Parameter, list[Storage]]], behaviour: Behaviour) -> None:
    """Every 16-bit parameter that is not packed becomes fp32, one after the other."""
    if behaviour.compute_word == 4:
        return
    for parameter, storages in held:
        wide = Storage(tape, parameter.tensor.numel * 4, f"fp32 {parameter.name}")
        storages[0] = wide


def adapters(tape: Tape, sizes: list[tuple[str, int]], behaviour: Behaviour, method: Method) -> list[Storage]:
    """The adapters' matrices as (name, numbers); on a 16-bit base they start in 16 bit and are widened at the end."""
    tape.kind = "adapters"
    word = behaviour.adapter_word
    narrow_first = word == 4 and behaviour.compute_word == 2 and method.type == "lora"
    storages = [Storage(tape, count * (2 if narrow_first else word), name) for name, count in sizes]
    if narrow_first:
        for index, (name, count) in enumerate(sizes):
            storages[index] = Storage(tape, count * word, name)
    return storages
