"""Good recipes load; positions, YAML 1.2 scalars and ``--set`` mean what they should; single faults say where and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloudtune.errors import RecipeError
from cloudtune.recipe.document import resolve_scalar
from cloudtune.recipe.load import load_file, load_text
from cloudtune.recipe.paths import dotted, parse_path
from cloudtune.recipe.spec import DataSource, LoraMethod, QloraMethod
from cloudtune.verbs.validate import validate

GOOD = Path(__file__).resolve().parents[2] / "data" / "recipes"
RECIPE = """\
version: 1
name: support-bot
model:
  base: Qwen/Qwen3-8B
method:
  type: qlora
data:
  train:
    - path: ./data/train.jsonl
      format: chat
  eval: 0.05
training:
  learning_rate: 2e-4
"""


def refusal(text: str | bytes = RECIPE, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_text(text, overrides=overrides)
    return str(caught.value)


@pytest.mark.parametrize("path", sorted(GOOD.glob("*.yaml")), ids=lambda path: path.stem)
def test_good_recipes_with_their_files(path: Path) -> None:
    loaded = validate(path)
    assert loaded.recipe.name == path.stem
    assert loaded.dir == path.parent
    assert loaded.path == path


def test_good_recipes_cover_every_method_format_and_task() -> None:
    recipes = [load_file(path).recipe for path in GOOD.glob("*.yaml")]
    assert len(recipes) == 10
    assert {recipe.method.type for recipe in recipes} == {"full", "lora", "qlora"}
    assert {recipe.task for recipe in recipes} == {"causal_lm", "masked_lm", "preference"}
    assert {source.format for recipe in recipes for source in recipe.data.train} == {
        "chat",
        "instruction",
        "completion",
        "text",
        "preference",
    }


def test_values_and_defaults() -> None:
    recipe = load_text(RECIPE).recipe
    assert isinstance(recipe.method, QloraMethod)
    assert isinstance(recipe.method, LoraMethod)
    assert (recipe.method.r, recipe.method.alpha, recipe.method.quantization, recipe.method.double_quant) == (16, 32, "nf4", True)
    assert recipe.training.learning_rate == 2e-4
    assert recipe.data.train == (DataSource(path="./data/train.jsonl"),)
    assert recipe.training.epochs is None
    assert recipe.compute.nodes == "auto"


def test_positions() -> None:
    loaded = load_text(RECIPE, overrides=["training.epochs=2"])
    assert loaded.position("model.base") == (4, 9)
    assert loaded.position("data.train[0].format") == (10, 15)
    assert loaded.position("data.train.0.format") == (10, 15)
    assert loaded.position("data.train[0].columns") == (9, 7)  # not written: the entry it would stand in
    assert loaded.position("training") == (12, 1)
    assert loaded.position("output.dir") == (1, 1)
    assert loaded.position("training.epochs") == (0, 0)
    assert str(loaded.fault("training.epochs", "is odd")) == "--set training.epochs: is odd"
    assert str(loaded.fault("model.base", "is gone", "a model", "look again")) == "<recipe>:4:9: is gone, expected a model; look again"


def test_a_section_that_was_set_has_no_position_in_the_file_any_more() -> None:
    loaded = load_text(RECIPE, overrides=["data={train: [{path: ./b.jsonl}]}"])
    assert loaded.position("data.train[0].format") == (0, 0)
    assert str(loaded.fault("data.train[0].format", "is odd")) == "--set data: is odd"
    assert loaded.position("model.base") == (4, 9)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4), ("1E5", 1e5), ("1.", 1.0), (".5", 0.5), ("-0.5", -0.5), ("+3", 3), ("007", 7), ("0x1F", 31), ("0o17", 15),
        ("true", True), ("False", False), ("TRUE", True), ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"),
        ("null", None), ("~", None), ("", None), ("Null", None), ("nULL", "nULL"), ("1_000", "1_000"), ("1:30", "1:30"), ("0b1", "0b1"),
        ("2026-01-01", "2026-01-01"), ("1e", "1e"), ("e5", "e5"), (".", "."), ("-", "-"), ("+.inf", float("inf")), ("-.INF", float("-inf")),
        ("inf", "inf"), ("nan", "nan"), ("0o8", "0o8"), ("٣", "٣"), ("1 ", "1 "),
        ("9" * 5000, float("inf")), ("0x" + "f" * 5000, float("inf")),
    ],
)  # fmt: skip
def test_scalars_of_yaml_1_2(text: str, value: Any) -> None:
    found = resolve_scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_a_yaml_1_1_directive_changes_nothing() -> None:
    loaded = load_text("%YAML 1.1\n---\n" + RECIPE + "compute: {instance: no}\n")
    assert loaded.recipe.compute.instance == "no"


def test_aliases_are_copies_and_faults_stand_at_the_original() -> None:
    text = RECIPE + "  adam_betas: &b [0.9, 0.99]\n"
    assert load_text(text.replace("eval: 0.05", "eval: null")).recipe.training.adam_betas == (0.9, 0.99)
    method = "method: {type: lora, target_modules: &m [a, b], modules_to_save: *m}"
    twice = f"version: 1\nname: a\nmodel: {{base: x}}\n{method}\ndata: {{train: [{{path: x}}]}}\n"
    changed = load_text(twice, overrides=["method.modules_to_save[0]=c"]).recipe.method
    assert isinstance(changed, LoraMethod)
    assert (changed.target_modules, changed.modules_to_save) == (("a", "b"), ("c", "b"))
    wrong = refusal(twice.replace("&m [a, b]", "&m [a, 5]"))
    assert "<recipe>:4:38: method.target_modules is a list of 2" in wrong
    assert "<recipe>:4:45: method.modules_to_save[1] is 5" in wrong


def test_core_tags_and_anchors_are_understood() -> None:
    recipe = load_text(RECIPE.replace("support-bot", '!!str "007"').replace("2e-4", "!!float 1")).recipe
    assert recipe.name == "007"
    assert recipe.training.learning_rate == 1.0
    assert "a YAML tag" in refusal(RECIPE.replace("support-bot", "!!int abc"))


def test_relative_folder_of_a_text(tmp_path: Path) -> None:
    assert load_text(RECIPE, dir=tmp_path).dir == tmp_path
    assert load_text(RECIPE).dir == Path.cwd()
    assert load_text(RECIPE.encode()).path is None


def test_a_recipe_file_may_lie_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "my recipe ü.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    loaded = load_file("deep/my recipe ü.yaml")
    assert loaded.dir == tmp_path / "deep"
    assert loaded.file == "deep/my recipe ü.yaml"


OVERRIDES = [
    ("training.epochs=1", lambda r: r.training.epochs, 1.0),
    (" training.epochs = 1.5 ", lambda r: r.training.epochs, 1.5),
    ("training.learning_rate=1e-5", lambda r: r.training.learning_rate, 1e-5),
    ("training.micro_batch_size=auto", lambda r: r.training.micro_batch_size, "auto"),
    ("data.eval=null", lambda r: r.data.eval, None),
    ("data.packing=true", lambda r: r.data.packing, True),
    ("data.train[0].format=completion", lambda r: r.data.train[0].format, "completion"),
    ("data.train.0.path=./other=name.jsonl", lambda r: r.data.train[0].path, "./other=name.jsonl"),
    ("data.train=[{path: a.jsonl}, {path: b.jsonl}]", lambda r: len(r.data.train), 2),
    ("compute.regions=[eu-west-1]", lambda r: r.compute.regions, ("eu-west-1",)),
    ("compute.aws.subnets=[a, b]", lambda r: r.compute.aws.subnets, ("a", "b")),
    ("method={type: full}", lambda r: r.method.type, "full"),
    ("name='007'", lambda r: r.name, "007"),
    ("secrets={HF_TOKEN: env}", lambda r: r.secrets, {"HF_TOKEN": "env"}),
    ("secrets.HF_TOKEN=env", lambda r: r.secrets, {"HF_TOKEN": "env"}),
]


@pytest.mark.parametrize(("override", "read", "value"), OVERRIDES, ids=[text for text, _, _ in OVERRIDES])
def test_overrides(override: str, read: Any, value: Any) -> None:
    assert read(load_text(RECIPE, overrides=[override]).recipe) == value


def test_overrides_apply_in_order_and_before_the_check() -> None:
    broken = RECIPE.replace("2e-4", "fast")
    assert load_text(broken, overrides=["training.learning_rate=1e-4"]).recipe.training.learning_rate == 1e-4
    assert load_text(RECIPE, overrides=["training.epochs=1", "training.epochs=2"]).recipe.training.epochs == 2
    assert load_text(RECIPE, overrides=["training.epochs=1", "training.epochs=null", "training.max_steps=5"]).recipe.training.max_steps == 5
    with_empty = RECIPE + "budget:\n"
    assert load_text(with_empty, overrides=["budget.max_usd=3"]).recipe.budget.max_usd == 3
    assert load_text("", overrides=["version=1", "name=a", "model.base=x", "method.type=full", "data.train=[{path: x}]"]).recipe.name == "a"


WRONG_OVERRIDES = [
    ("training.epochs", "--set training.epochs: this is no override, expected KEY=VALUE"),
    ("=1", "this is no override"),
    ("", "this is no override"),
    ("a..b=1", "this is no override"),
    ("[0]=1", "this is no override"),
    ("training.epochs=", "write training.epochs=null for none"),
    ("training.epochs=[1", "--set training.epochs: in its value, this [ is not closed"),
    ("training.epochs=*x", "refers to nothing"),
    ("training.epochs=!x 1", "a YAML tag"),
    ("training.epochs=1\n---\n2", "a second document"),
    ("training.epochs={a: 1, a: 2}", "second time"),
    ("training.epochs=three", "--set training.epochs: training.epochs is 'three', expected a number above 0"),
    ("training.epochs=" + "x" * 30_000, "longer than"),
    ("trainig.epochs=1", "--set trainig.epochs: trainig is not a key of a recipe; did you mean training?"),
    ("training.epoch=1", "--set training.epoch: epoch is not a key of training; did you mean epochs?"),
    ("training.lr=1", "did you mean learning_rate?"),
    ("lora_r=1", "here it is called method.r"),
    ("data.train[1].path=x", "data.train[1] has no keys or items"),
    ("data.train[1]=x", "there is no data.train[1]"),
    ("data.train.path=x", "there is no data.train.path"),
    ("name.first=x", "name has no keys"),
    ("training.max_steps=5", "OK"),
    ("secrets.HF_TOKEN=hf_abcdefghijklmnop", "does not name a source"),
    ("hf_abcdefghijklmnop", "--set: this is no override"),
]


@pytest.mark.parametrize(("override", "said"), WRONG_OVERRIDES, ids=[text[:40] for text, _ in WRONG_OVERRIDES])
def test_wrong_overrides(override: str, said: str) -> None:
    if said == "OK":
        load_text(RECIPE, overrides=[override])
        return
    told = refusal(RECIPE, override)
    assert said in told
    assert "abcdefghijklmnop" not in told


def test_the_same_faults_every_time() -> None:
    text = RECIPE + "lora_r: 3\nfoo: 1\nbar: 2\n"
    assert len({refusal(text, "x.y=1", "data.eval=7") for _ in range(5)}) == 1


HAND_MADE = [
    ("name: support-bot", "name: support_bot", "2:7", "write support-bot"),
    ("name: support-bot", "name: 7", "2:7", "name is 7"),
    ("name: support-bot", "name: " + "a" * 41, "2:7", "at most 40"),
    ("name: support-bot", "name: -a-", "2:7", "write a"),
    ("version: 1", 'version: "1"', "1:10", "version: 1"),
    ("version: 1", "version: one", "1:10", "expected 1"),
    ("version: 1\n", "", "1:1", "version is missing"),
    ("base: Qwen/Qwen3-8B", "base: Qwen/Qwen3 8B", "4:9", "neither a hub model nor a folder"),
    ("base: Qwen/Qwen3-8B", "base: ''", "4:9", "model.base is ''"),
    ("base: Qwen/Qwen3-8B", "base: [a]", "4:9", "a list of 1"),
    ("base: Qwen/Qwen3-8B", "base: builtin:quickstrat", "4:9", "builtin:quickstart"),
    ("base: Qwen/Qwen3-8B", "base: models/mine/v2", "4:9", "put ./ before a folder"),
    ("base: Qwen/Qwen3-8B", "base: Qwen/Qwen3-8B\n  torch_dtype: bfloat16", "5:3", "did you mean dtype?"),
    ("base: Qwen/Qwen3-8B", "base: Qwen/Qwen3-8B\n  dtype: float8", "5:10", "did you mean float"),
    ("base: Qwen/Qwen3-8B", "base: Qwen/Qwen3-8B\n  trust_remote_code: on", "5:22", "write true"),
    ("type: qlora", "type: QLORA", "6:9", "write qlora"),
    ("type: qlora", "type: [qlora]", "6:9", "method.type is a list"),
    ("type: qlora", "type: ", "6:3", "method.type is empty"),
    ("type: qlora", "type: qlora\n  r: 16.5", "7:6", "a whole number"),
    ("type: qlora", "type: qlora\n  r: 0", "7:6", "at least 1"),
    ("type: qlora", "type: qlora\n  r: true", "7:6", "method.r is true"),
    ("type: qlora", "type: qlora\n  alpha: -1", "7:10", "above 0"),
    ("type: qlora", "type: qlora\n  dropout: 1", "7:12", "from 0 to below 1"),
    ("type: qlora", "type: qlora\n  target_modules: q_proj v_proj", "7:19", "write [q_proj, v_proj]"),
    ("type: qlora", "type: qlora\n  target_modules: all_linear", "7:19", "write all-linear"),
    ("type: qlora", "type: qlora\n  target_modules: []", "7:19", "an empty list"),
    ("type: qlora", "type: qlora\n  target_modules: [1, 2]", "7:19", "put numbers in quotes"),
    ("type: qlora", "type: qlora\n  trainable_tokens: [-1]", "7:22", "trainable_tokens[0] is -1"),
    ("type: qlora", "type: qlora\n  use_dora: 1", "7:13", "true or false"),
    ("type: qlora", "type: qlora\n  loraAlpha: 16", "7:3", "did you mean alpha?"),
    ("type: qlora", "type: lora\n  double_quant: true", "7:3", "belongs to method.type: qlora"),
    ("- path: ./data/train.jsonl", "- ./data/train.jsonl", "10:7", "this key cannot stand below line 9"),
    ("      format: chat\n", "      type: chat\n", "10:7", "did you mean format?"),
    ("format: chat", "format: Chat", "10:15", "write chat"),
    ("format: chat", "columns: [messages]", "10:16", "a mapping of our field names"),
    ("format: chat", "rows: 1.5e3", "10:13", "write 1500"),
    ("format: chat", "split: 3", "10:14", "put it in quotes"),
    ("eval: 0.05", "eval: 5%", "11:9", "write eval: 0.05"),
    ("eval: 0.05", "eval: 200", "11:9", "fraction of the training rows"),
    ("eval: 0.05", "eval: 1.0", "11:9", "fraction"),
    ("eval: 0.05", "eval: false", "11:9", "write null"),
    ("eval: 0.05", "eval: []", "11:9", "an empty list"),
    ("eval: 0.05", "eval: {path: a.jsonl}", "11:9", "a mapping"),
    ("eval: 0.05", "eval: 0.05\n  max_length: 2k", "12:15", "a whole number of tokens"),
    ("eval: 0.05", "eval: 0.05\n  max_length: 4", "12:15", "at least 8"),
    ("eval: 0.05", "eval: 0.05\n  special_tokens: {sep: x}", "12:20", "pad, eos, bos, unk or end_of_turn"),
    ("eval: 0.05", "eval: 0.05\n  chat_template: qwen", "12:18", "there is no chat template qwen"),
    ("eval: 0.05", "eval: 0.05\n  loss_on: assistant", "12:12", "write completion"),
    ("learning_rate: 2e-4", "learning_rate: 2,5e-4", "13:18", "without commas"),
    ("learning_rate: 2e-4", "learning_rate: -2e-4", "13:18", "above 0"),
    ("learning_rate: 2e-4", "epochs: [3]", "13:11", "a list of 1"),
    ("learning_rate: 2e-4", "optimizer: adamw_torch_fusd", "13:14", "did you mean adamw_torch_fused?"),
    ("learning_rate: 2e-4", "Epochs: 3", "13:3", "did you mean epochs?"),
    ("learning_rate: 2e-4", "warmup_ratio: 3", "13:17", "below 1"),
    ("learning_rate: 2e-4", "save_steps: 0.1", "13:15", "a whole number"),
    ("learning_rate: 2e-4", "adam_betas: [0.9]", "13:15", "adam_betas"),
    ("learning_rate: 2e-4", "seed: 1e3", "13:9", "write 1000"),
    ("training:\n", "trainig:\n", "12:1", "did you mean training?"),
    ("training:\n", "Training:\n", "12:1", "did you mean training?"),
    ("training:\n", "hyperparameters:\n", "12:1", "hyperparameters is not a key"),
    ("  base: Qwen", "  base:Qwen", "4:3", "put a space after base:"),
    ("name: support-bot", "name:support-bot", "2:1", "a space is missing after the :"),
    ("    - path", "    -path", "9:5", "a space is missing after the -"),
    ("type: qlora", "type = qlora", "6:3", "write type: instead of type ="),
    ("model:\n  base", "model:\nbase", "4:1", "it belongs under model: model.base"),
    ("      format: chat", "        format: chat", "10:9", "cannot stand below line 9"),
    ("learning_rate: 2e-4", "learning_rate: 2e-4\ncompute: {disk_gib: 100GB}", "14:21", "without a unit"),
    ("learning_rate: 2e-4", "learning_rate: 2e-4\ncompute: aws", "14:10", "write compute: {provider: aws}"),
    ("learning_rate: 2e-4", "learning_rate: 2e-4\ncompute: {regions: [a]}}", "14:24", "a closing bracket that nothing opened"),
    ("learning_rate: 2e-4", "learning_rate: 2e-4\nbudget: {max_usd: $25}", "14:19", "without a unit"),
    ("learning_rate: 2e-4", "learning_rate: 2e-4\ntracking: {report_to: none}", "14:23", "write report_to: []"),
    ("learning_rate: 2e-4", "learning_rate: 2e-4\ntracking: {report_to: MLflow}", "14:23", "write report_to: [mlflow]"),
    ("base: Qwen/Qwen3-8B", 'base: "Qwen\\n"', "4:9", "line break"),
    ("base: Qwen/Qwen3-8B", 'base: "Qwen\\ud800"', "4:9", "model.base is"),
    ("  eval: 0.05", "  eval: 0.05\n  shuffle: true", "12:3", "known keys: train, eval"),
    ("model:\n", "model: &m\n  <<: *m\n", "4:7", "refers to a value that contains itself"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "place", "said"), HAND_MADE, ids=[new[:40].replace("\n", "/") for _, new, _, _ in HAND_MADE])
def test_one_change_one_fault(old: str, new: str, place: str, said: str) -> None:
    assert old in RECIPE
    lines = refusal(RECIPE.replace(old, new, 1)).splitlines()
    hits = [line for line in lines if line.startswith(f"<recipe>:{place}: ")]
    assert hits, lines
    assert any(said in line for line in hits), lines


def test_a_misspelt_key_is_one_fault() -> None:
    assert refusal(RECIPE.replace("model:", "modle:")) == "<recipe>:3:1: modle is not a key of a recipe; did you mean model?"
    assert len(refusal(RECIPE.replace("base:", "bose:")).splitlines()) == 1
    assert len(refusal(RECIPE.replace("base:", "foo:")).splitlines()) == 2


@pytest.mark.parametrize(
    ("where", "text"),
    [((), ""), (("a",), "a"), (("data", "train", 0, "path"), "data.train[0].path"), (("a", 1, 2, "b-c"), "a[1][2].b-c")],
)
def test_paths_there_and_back(where: tuple[str | int, ...], text: str) -> None:
    assert dotted(where) == text
    assert parse_path(text) == (where or None)


def test_a_fault_is_said_without_raw_control_characters() -> None:
    told = refusal(RECIPE + '"\\e[31mred\\n": 1\n"' + "k" * 500 + '": 2\n')
    assert "\x1b" not in told
    assert "\n  " not in told
    assert max(len(line) for line in told.splitlines()) < 300


@pytest.mark.parametrize("value", ["true", "1.0", '"1"', "2"])
def test_only_the_whole_number_one_is_version_one(value):
    text = f"version: {value}\nname: a\nmodel: {{base: x/y}}\nmethod: {{type: lora}}\ndata: {{train: [{{path: org/x}}]}}\n"
    with pytest.raises(RecipeError) as caught:
        load_text(text)
    assert [(fault.line, fault.column) for fault in caught.value.faults] == [(1, 10)]
