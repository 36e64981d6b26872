"""Loading and kernels follow the libraries: the order of reading, what each tensor and product borrows, what stays."""

from __future__ import annotations

import pytest

from cloudtune.memory import loading
from cloudtune.memory.behaviour import Behaviour
from cloudtune.memory.program import Job, tape_of
from cloudtune.memory.tape import Tape
from cloudtune.recipe.spec import FullMethod, LoraMethod, QloraMethod
from tests.unit.memory_builders import shape

NF4 = QloraMethod(type="qlora", double_quant=False)


def names(method: LoraMethod | QloraMethod, behaviour: Behaviour) -> list[str]:
    tape = Tape()
    kept = loading.load(tape, shape(), method, behaviour)
    assert kept
    return tape.names


def test_a_checkpoint_is_read_by_name_and_a_host_model_moved_module_by_module() -> None:
    from_file = [name for name in names(LoraMethod(type="lora"), Behaviour()) if name.startswith("weight of")]
    from_host = [name for name in names(LoraMethod(type="lora"), Behaviour(loading="host")) if name.startswith("weight of")]
    assert sorted(from_file) == sorted(from_host)
    assert from_file[0] == "weight of lm_head.weight"
    assert from_file[2:4] == ["weight of model.layers.0.input_layernorm.weight", "weight of model.layers.0.mlp.down_proj.weight"]
    assert from_host[0] == "weight of model.embed_tokens.weight"


@pytest.mark.parametrize(
    "ordered", [("a.2.x", "a.10.x"), ("lm_head.weight", "model.norm.weight"), ("a.9.x", "a.b.x"), ("shard_2.x", "shard_11.x")]
)
def test_numbers_in_names_sort_by_value_and_before_words(ordered: tuple[str, str]) -> None:
    first, second = ordered
    assert loading.natural_key(first) < loading.natural_key(second)


def test_the_warm_up_counts_half_a_byte_per_packed_number_and_no_scales() -> None:
    every = list(loading.parameters(shape(), NF4, Behaviour()))
    packed = sum(item.tensor.numel for item in every if item.quantised)
    plain = sum(item.tensor.numel for item in every if not item.quantised)
    assert loading.warm_up_bytes(every, NF4) == packed // 2 + 2 * plain
    eight = QloraMethod(type="qlora", quantization="int8")
    assert loading.warm_up_bytes(list(loading.parameters(shape(), eight, Behaviour())), eight) == packed + 2 * plain


@pytest.mark.parametrize(
    ("method", "order"),
    [
        (NF4, ["16-bit tensor while quantising", "scales", "packed weight", "code"]),
        (
            QloraMethod(type="qlora"),
            [
                "16-bit tensor while quantising",
                "scales before they are quantised",
                "packed weight",
                "code",
                "offset",
                "scales without their mean",
                "scales of scales",
                "8-bit scales",
                "nested code",
            ],
        ),
        (
            QloraMethod(type="qlora", quantization="int8"),
            ["16-bit tensor while quantising", "16-bit tensor while quantising", "row scales", "int8 weight"],
        ),
    ],
    ids=["nf4", "nested", "int8"],
)
def test_a_quantised_weight_is_made_in_the_order_of_bitsandbytes(method: QloraMethod, order: list[str]) -> None:
    found = [name.partition(" of model")[0] for name in names(method, Behaviour())]
    start = found.index("16-bit tensor while quantising")
    assert found[start : start + len(order)] == order


def test_the_cache_is_emptied_after_loading_only_where_the_program_does() -> None:
    for emptied in (True, False):
        tape = Tape()
        held = loading.load(tape, shape(), NF4, Behaviour(kbit_upcast=True, empty_cache_after_load=emptied))
        assert ("empty_cache" in [word for _, word in tape.commands]) is emptied
        del held


def test_a_product_with_a_bias_takes_a_mebibyte_per_thread_and_old_torch_gives_it_back() -> None:
    def taken(model: str, version: tuple[int, int]) -> int:
        tape = tape_of(Job(shape(model), LoraMethod(type="lora"), Behaviour(torch_version=version, autocast=False), 2, 256))
        return tape.names.count("cuBLASLt workspace")

    assert taken("llama", (2, 13)) == 0
    assert taken("qwen2", (2, 13)) == 2
    assert taken("qwen2", (2, 6)) > 2


def test_eager_weights_live_to_the_end_of_the_layer_where_the_model_returns_them() -> None:
    def alive_in_the_mlp(returned: bool) -> bool:
        behaviour = Behaviour(attention="eager", weights_returned=returned)
        tape = tape_of(Job(shape(), LoraMethod(type="lora"), behaviour, 2, 256, fold=False))
        made = tape.names.index("attention weights")
        freed = tape.events.index(~made)
        ident = -1
        for event in tape.events[:freed]:
            ident += event > 0
        return "gated activation" in tape.names[made : ident + 1]

    assert alive_in_the_mlp(True)
    assert not alive_in_the_mlp(False)


def test_without_flash_attention_grouped_heads_take_the_composite_kernel_in_fp32() -> None:
    """torch's wheels for Windows, and every GPU before sm 8.0: measured on an RTX 4080 under Windows."""

    def scores(*, built: bool, capability: tuple[int, int]) -> list[int]:
        behaviour = Behaviour(flash_built=built, autocast=False)
        tape = tape_of(Job(shape(), LoraMethod(type="lora"), behaviour, 2, 256, capability, fold=False))
        sizes = [event for event in tape.events if event > 0]
        return [size for size, name in zip(sizes, tape.names, strict=True) if name == "scores"]

    assert scores(built=True, capability=(8, 9)) == []
    for found in (scores(built=False, capability=(8, 9)), scores(built=True, capability=(7, 5))):
        assert set(found) == {4 * 2 * 8 * 256 * 256}


@pytest.mark.parametrize(
    ("attention", "capability", "batch", "copies"),
    [("eager", (8, 0), 2, 4), ("eager", (8, 0), 1, 3), ("sdpa", (8, 0), 2, 2), ("sdpa", (7, 5), 2, 4)],
    ids=["eager", "one sequence", "flash", "composite"],
)
def test_gradients_that_come_heads_first_are_copied(attention: str, capability: tuple[int, int], batch: int, copies: int) -> None:
    """Of queries and keys behind the rotation always; of values and of the output only behind plain products."""
    layers = 3
    behaviour = Behaviour(attention=attention, autocast=False)  # type: ignore[arg-type]
    job = Job(shape(num_hidden_layers=layers), LoraMethod(type="lora"), behaviour, batch, 256, capability, fold=False, steps=1)
    assert tape_of(job).names.count("gradient, tokens first") == copies * layers


def test_a_product_makes_the_weights_gradient_before_its_inputs() -> None:
    """mm: mat2, then self; with a bias addmm: mat1, then mat2 (torch's generated Functions.cpp, by name)."""

    def order(model: str) -> list[str]:
        tape = tape_of(
            Job(shape(model, num_hidden_layers=1), FullMethod(type="full"), Behaviour(autocast=False, full_word=2), 2, 64, steps=1)
        )
        names = [
            name for name in tape.names if name == "input gradient" or name.startswith("gradient of model.layers.0.self_attn.q_proj.w")
        ]
        place = next(index for index, name in enumerate(names) if name.startswith("gradient of"))
        return names[place - 1 : place + 2]

    assert order("llama")[1:] == ["gradient of model.layers.0.self_attn.q_proj.weight", "input gradient"]
    assert order("qwen2")[:2] == ["input gradient", "gradient of model.layers.0.self_attn.q_proj.weight"]


@pytest.mark.parametrize("method", [NF4, QloraMethod(type="qlora", quantization="int8")], ids=["nf4", "int8"])
def test_of_several_devices_each_holds_its_share_of_the_packed_weights_and_all_of_their_scales(method: QloraMethod) -> None:
    whole, shared = Tape(), Tape()
    loading.load(whole, shape(), method, Behaviour())
    kept = loading.load(shared, shape(), method, Behaviour(), 4)
    assert kept
    sizes = [dict(zip(tape.names, (event for event in tape.events if event > 0), strict=True)) for tape in (whole, shared)]
    packed = [name for name in sizes[0] if name.startswith(("packed weight of", "int8 weight of"))]
    scales = [name for name in sizes[0] if name.startswith(("scales of", "row scales of"))]
    assert packed
    assert scales
    assert all(sizes[1][name] == -(-sizes[0][name] // 4) for name in packed)
    assert all(sizes[1][name] == sizes[0][name] for name in scales)
