"""The notebook as a file: valid, the same bytes again, pinned, without secrets, and planned for Colab's machines."""

from __future__ import annotations

import base64
import bz2
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

from cloudtune.errors import NothingFits, UsageError
from cloudtune.offers.colab import CPU, NAMES
from cloudtune.recipe.load import load_file
from cloudtune.session import Session
from cloudtune.settings import Settings
from cloudtune.verbs.notebook import CARRIED_BYTES, Notebook, colab_plan, make_notebook
from cloudtune.verbs.plan import make_plan

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"
TOO_LARGE = {"llama-3.1-70b-full"}
SECRET = "hf_planted_in_the_environment_0123"


def made(recipe: Path, *overrides: str) -> Notebook:
    home = Path(os.environ["CLOUDTUNE_HOME"])
    with Session.open(Settings(home=home, cache=home / "cache")) as session:
        return make_notebook(colab_plan(load_file(recipe, overrides), session=session))


def cells(notebook: Notebook) -> dict[str, str]:
    """Cell's name → its text."""
    return {cell["id"].removeprefix("cloudtune-"): "".join(cell["source"]) for cell in json.loads(notebook.content)["cells"]}


def carried(text: str, name: str) -> object:
    """A JSON value that the cell of carried things holds."""
    found = re.search(rf"^{name} = json\.loads\(r'''\n(.*?)\n'''\)", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return json.loads(found[1])


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_a_valid_notebook_or_says_why_not(recipe: Path):
    if recipe.stem in TOO_LARGE:
        with pytest.raises(NothingFits) as refusal:
            made(recipe)
        assert all(f"{name}: " in refusal.value.what for name in NAMES if name != CPU)
        return
    notebook = made(recipe)
    nbformat.validate(nbformat.reads(notebook.content.decode(), as_version=4))
    body = json.loads(notebook.content)
    code = [cell for cell in body["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    for cell in code:
        compile("".join(cell["source"]), cell["id"], "exec")
    if notebook.fits:
        assert body["metadata"]["colab"]["gpuType"] == notebook.fits[0]
        assert body["metadata"]["accelerator"] == "GPU"


def test_regenerating_gives_identical_bytes_also_from_another_folder_user_and_time_zone(tmp_path: Path):
    """Through the command, in fresh interpreters; the one surrounding has a secret that must not get in."""
    found = []
    for place, zone in (("one", "Pacific/Kiritimati"), ("two/elsewhere", "America/Los_Angeles")):
        folder = tmp_path / place
        (folder / "data").mkdir(parents=True)
        (folder / "recipe.yaml").write_bytes((RECIPES / "quickstart.yaml").read_bytes())
        (folder / "data/quickstart.jsonl").write_bytes((RECIPES / "data/quickstart.jsonl").read_bytes())
        command = [sys.executable, "-m", "cloudtune", "render", "recipe.yaml", "--target", "colab", "-o", "run.ipynb", "--json"]
        command += ["--set", "secrets.HF_TOKEN=env"]
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "TZ": zone, "USER": place[:3], "HF_TOKEN": SECRET}
        answer = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
        assert json.loads(answer.stdout)["carried"] == ["quickstart.jsonl"]
        found.append((folder / "run.ipynb").read_bytes())
    assert found[0] == found[1]
    text = found[0].decode()
    assert "HF_TOKEN" in text
    for foreign in (SECRET, str(tmp_path), str(ROOT), str(Path.home())):
        assert foreign not in text


def test_it_carries_our_wheel_the_lock_the_job_and_the_data():
    notebook = made(RECIPES / "quickstart.yaml")
    text = cells(notebook)["carried"]
    wheel = re.search(r"^WHEEL = '''\n(.*?)\n'''", text, re.MULTILINE | re.DOTALL)
    assert wheel is not None
    with zipfile.ZipFile(io.BytesIO(bz2.decompress(base64.b64decode(wheel[1])))) as archive:
        assert archive.testzip() is None
        assert {"cloudtune_colab/job.py", "cloudtune_entry/__main__.py", "cloudtune_trainer/train.py"} <= set(archive.namelist())
    facts = carried(text, "FACTS")
    pins = [line for line in facts["lock"].splitlines() if line and not line.startswith("#")]
    assert all("==" in pin for pin in pins)
    assert any(pin.startswith("torch==") for pin in pins)
    assert carried(text, "JOB")["recipe"]["name"] == "quickstart"
    assert "train/0-quickstart.jsonl" in text
    assert facts["bring"] == {}


def chat_recipe(folder: Path, rows: int, **more: str) -> Path:
    row = json.dumps({"messages": [{"role": "user", "content": "It's '''quoted'''?"}, {"role": "assistant", "content": "x" * 1000}]})
    (folder / "rows.jsonl").write_text("\n".join([row] * rows) + "\n")
    (folder / "recipe.yaml").write_text(
        json.dumps(
            {
                "version": 1,
                "name": "chats",
                "model": {"base": "Qwen/Qwen3-0.6B", **more},
                "method": {"type": "lora"},
                "data": {"train": [{"path": "./rows.jsonl"}], "max_length": 512},
                "compute": {"provider": "aws", "instance": "ml.p4d.24xlarge", "purchase": "spot"},
                "budget": {"max_usd": 0.01},
                "secrets": {"HF_TOKEN": "aws:secretsmanager:my-token"},
            }
        )
    )
    return folder / "recipe.yaml"


def test_large_data_is_brought_by_digest_and_small_data_is_carried(tmp_path: Path):
    small = made(chat_recipe(tmp_path, 10))
    assert [item.source.name for item in small.carried] == ["rows.jsonl"]
    assert "It holds" not in cells(small)["about"]
    assert "holds your data (0-rows.jsonl)" in cells(small)["about"]
    large = made(chat_recipe(tmp_path, 1 + CARRIED_BYTES // 1000))
    assert [item.source.name for item in large.bring] == ["rows.jsonl"]
    (facts,) = carried(cells(large)["carried"], "FACTS")["bring"].values()
    assert facts["name"] == "rows.jsonl"
    assert re.fullmatch("[0-9a-f]{64}", facts["sha256"])
    assert "does not hold `rows.jsonl`" in cells(large)["about"]


def test_secrets_come_from_the_notebooks_store_and_prices_do_not_count(tmp_path: Path):
    notebook = made(chat_recipe(tmp_path, 10))
    job = carried(cells(notebook)["carried"], "JOB")
    assert job["recipe"]["secrets"] == {"HF_TOKEN": "env"}
    assert job["max_seconds"] is None
    assert "`HF_TOKEN`" in cells(notebook)["about"]


def test_the_smallest_gpu_that_is_enough_is_taken_or_the_one_that_is_named(tmp_path: Path):
    recipe = chat_recipe(tmp_path, 10)
    assert made(recipe).fits[0] == "L4", "bfloat16 is not for a T4"
    half = made(recipe, "model.dtype=float16")
    assert half.fits[0] == "T4"
    assert made(recipe, "compute.instance=A100").fits[-1] == "G4"
    with pytest.raises(NothingFits, match=r"T4: .*bfloat16"):
        made(recipe, "compute.instance=T4")


def test_a_saved_plan_for_several_gpus_is_refused(tmp_path: Path):
    recipe = RECIPES / "llama-3.1-70b-full.yaml"
    with Session.open(Settings(home=tmp_path, cache=tmp_path)) as session:
        plan = make_plan(load_file(recipe), session=session)
    assert plan.layout.gpus > 1
    with pytest.raises(UsageError, match="a notebook has one"):
        make_notebook(plan)


def test_a_provider_has_no_meaning_here(tmp_path: Path):
    command = [sys.executable, "-m", "cloudtune", "render", str(RECIPES / "quickstart.yaml"), "--target", "colab", "--provider", "aws"]
    answer = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "compute.instance=L4" in answer.stderr


def test_the_first_cell_says_to_a_newcomer_what_to_do():
    def about(recipe, *sets):
        body = json.loads(made(RECIPES / recipe, *sets).content)
        return "".join(body["cells"][0]["source"])

    away = about("mistral-7b-lora.yaml", "secrets.HF_TOKEN=env")
    assert "1. `Runtime > Change runtime type`: choose L4 or A100" in away
    assert re.search(r"folder `cloudtune/mistral-7b-lora-[0-9a-f]{8}` of your Drive", away)
    assert "3. This notebook does not hold `s3://your-bucket/tickets/train.jsonl`" in away
    assert "4. Put `HF_TOKEN` into the notebook's secrets" in away
    assert re.search(r"5. `Runtime > Run all`: about \d+ h \d+ min on L4", away)
    here = about("quickstart.yaml")
    assert "any will do, no GPU is needed" in here
    assert "does not hold" not in here
    assert "secrets" not in here
