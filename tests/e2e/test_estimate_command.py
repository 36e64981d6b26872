"""``estimate`` as people type it: a recipe explained and drawn, a model with all its methods, the limits of a card."""

from __future__ import annotations

import importlib.util
import json
import xml.etree.ElementTree as ET

import pytest

from tests.e2e.command import ROOT, cloudtune

SMALL = ROOT / "recipes" / "tinyllama-1.1b-full.yaml"
TORCH = importlib.util.find_spec("torch") is not None


def test_a_model_shows_every_method_side_by_side(tmp_path):
    ran = cloudtune("estimate", "meta-llama/Llama-3.1-8B", "--json", folder=tmp_path)
    assert ran.code == 0, ran.err
    found = ran.json
    assert [item["name"] for item in found["methods"]] == ["full", "LoRA", "8-bit", "QLoRA"]
    for item in (found, *found["methods"]):
        memory = item["memory"]
        assert {"peak_bytes", "allocated_bytes", "reserved_bytes", "context_bytes", "error_bar", "parts"} <= memory.keys()
        assert memory["peak_bytes"] == memory["reserved_bytes"] + memory["context_bytes"] == sum(part["bytes"] for part in memory["parts"])
        layout = {"nodes", "gpus", "micro_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "sharding"}
        assert layout <= item["layout"].keys()
    text = cloudtune("estimate", "meta-llama/Llama-3.1-8B", "--set", "data.max_length=1024", folder=tmp_path)
    assert text.code == 0, text.err
    assert "1,024 tokens" in text.out
    assert "8-bit" in text.out


def test_a_recipe_is_explained_and_drawn(tmp_path):
    ran = cloudtune("estimate", SMALL, "--explain", "--timeline", "--gpu", "L40S", folder=tmp_path)
    assert ran.code == 0, ran.err
    assert "the peak of" in ran.out
    assert "would save" in ran.out
    assert "optimizer states" in ran.out
    for name, start in (("a.html", b"<!doctype html>"), ("a.svg", b"<svg"), ("a.png", b"\x89PNG")):
        drawn = cloudtune("estimate", SMALL, "--timeline", name, "--gpu", "L40S", "--json", folder=tmp_path)
        assert drawn.code == 0, drawn.err
        assert (tmp_path / name).read_bytes().startswith(start)
        peak = max(point["bytes"] for point in drawn.json["timeline"]["points"])
        assert 0.97 < peak / drawn.json["memory"]["allocated_bytes"] <= 1
    ET.fromstring((tmp_path / "a.svg").read_text())  # noqa: S314 - our own picture
    swapped = cloudtune("estimate", "--timeline", "b.svg", SMALL, "--gpu", "L40S", folder=tmp_path)
    assert swapped.code == 0, swapped.err
    assert (tmp_path / "b.svg").exists()


def test_the_limits_of_a_card(tmp_path):
    ran = cloudtune("estimate", "Qwen/Qwen3-0.6B", "--longest", "--largest-batch", "--gpu", "L4", "--json", folder=tmp_path)
    assert ran.code == 0, ran.err
    (found,) = ran.json["limits"]
    assert found["gpu"] == "L4"
    assert found["max_length"] > 1024
    assert found["micro_batch"] >= 1
    text = cloudtune("estimate", SMALL, "--largest-batch", "--gpu", "L4", folder=tmp_path)
    assert "biggest micro batch" in text.out
    assert "longest" not in text.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("out.png",), "one argument too many"),
        (("out.pdf", "--timeline"), ".html, .png, .svg"),
        (("--exact", "--explain"), "--exact answers with the peak alone"),
        (("--gpu", "nonsense"), "known: A100"),
    ],
)
def test_questions_that_make_no_sense_are_refused(tmp_path, arguments, words):
    ran = cloudtune("estimate", SMALL, *arguments, folder=tmp_path)
    assert ran.code == 2
    assert words in ran.err


@pytest.fixture
def unknown(tmp_path):
    """A model of an architecture that has no template."""
    sizes = {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "gpt_neox", **sizes, "max_position_embeddings": 256}))
    return tmp_path


def test_an_unknown_architecture_is_refused_with_both_ways_out(unknown):
    ran = cloudtune("estimate", "./model", folder=unknown)
    assert ran.code != 0
    assert "gpt_neox" in ran.err
    assert "--exact" in ran.err
    assert "model.config" in ran.err


@pytest.mark.stack
def test_an_unknown_architecture_is_traced(unknown):
    change = ("--set", "method.type=full", "--set", "data.max_length=64")
    ran = cloudtune("estimate", "./model", "--exact", *change, "--json", folder=unknown)
    assert ran.code == 0, ran.err
    assert ran.json["template"] is None
    assert ran.json["memory"]["peak_bytes"] == sum(part["bytes"] for part in ran.json["memory"]["parts"])
    assert ran.json["card"]["gpu_bytes"] >= ran.json["memory"]["high_bytes"]


@pytest.mark.skipif(TORCH, reason="torch is installed here")
def test_without_torch_exact_names_what_to_install(unknown):
    ran = cloudtune("estimate", "./model", "--exact", folder=unknown)
    assert ran.code == 2
    assert "pip install 'cloudtune[train]'" in ran.err
