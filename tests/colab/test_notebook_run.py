"""The notebook run headless from top to bottom on a real kernel: trained, kept, stopped, resumed on a fresh machine, checked."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from cloudtune.manifest import Manifest
from cloudtune.recipe.load import load_file
from cloudtune.rendering.jobfile import local_inputs
from cloudtune.rendering.notebook import Carried, notebook, script
from cloudtune.session import Session
from cloudtune.settings import Settings
from cloudtune.verbs.notebook import colab_plan
from cloudtune.verbs.render import data_digests, render
from tests.containers.jobs import QUICKSTART, SHORT

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1800)]
CELL_SECONDS = 800


def rendered(tmp_path: Path) -> nbformat.NotebookNode:
    """The quickstart's notebook, locked to what these tests have installed: nothing has to be fetched then."""
    with Session.open(Settings(home=tmp_path / "home", cache=tmp_path / "cache")) as session:
        plan = colab_plan(load_file(QUICKSTART, SHORT), session=session)
    bundle = render(plan)
    names = [line.split("==")[0] for line in bundle.image["requirements.txt"].decode().splitlines() if "==" in line]
    lock = "".join(f"{name}=={importlib.metadata.version(name)}\n" for name in names)
    bundle = replace(bundle, image={**bundle.image, "requirements.txt": lock.encode()})
    inputs = local_inputs(plan)
    carried = Carried({item.channel: item.source.read_bytes() for item in inputs})
    return nbformat.reads(notebook(plan, bundle, inputs, data_digests(plan), carried).decode(), as_version=4)


@contextmanager
def surroundings(tmp_path: Path, machine: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a runtime of Colab has: a disk of its own, and a place that outlives it. pip may fetch nothing."""
    with monkeypatch.context() as patch:
        patch.setenv("CLOUDTUNE_NOTEBOOK_HOME", str(tmp_path / machine))
        patch.setenv("CLOUDTUNE_NOTEBOOK_KEEP", str(tmp_path / "drive"))
        patch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
        patch.setenv("PIP_NO_INDEX", "1")
        patch.delenv("CLOUDTUNE_HOME")
        yield


def run(book: nbformat.NotebookNode, folder: Path) -> dict[str, str]:
    """Cell's name → what it printed. A failing cell's error is under ``error``."""
    folder.mkdir(exist_ok=True)
    client = NotebookClient(book, timeout=CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    said: dict[str, str] = {}
    try:
        client.execute()
    except CellExecutionError as error:
        said["error"] = str(error)
    for cell in book.cells:
        texts = [output.get("text", "") for output in cell.get("outputs", ())]
        said[cell.id.removeprefix("cloudtune-")] = "".join(texts)
    return said


def test_it_runs_headless_and_a_second_machine_takes_its_results_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    book = rendered(tmp_path)
    with surroundings(tmp_path, "first", monkeypatch):
        said = run(book, tmp_path / "work")
    assert "error" not in said, said["error"]
    assert "it fits" in said["machine"]
    here, wanted = re.search(r"(\d+) of (\d+) packages are here in the locked version", said["install"]).groups()
    assert here == wanted
    assert "complete: the training is complete" in said["train"]
    assert "a difference of 0.0e+00" in said["check"]
    (kept,) = (tmp_path / "drive").iterdir()
    manifest = Manifest.model_validate_json((kept / "model/manifest.json").read_bytes())
    assert manifest.outcome == "complete"
    assert manifest.eval_loss_after < manifest.eval_loss_before
    assert all((kept / "model" / item.path).stat().st_size == item.bytes for item in manifest.artifacts)
    assert str(kept / "model/adapter/adapter_model.safetensors") in said["result"]
    # A fresh machine with the same place to keep: nothing is trained a second time.
    with surroundings(tmp_path, "second", monkeypatch):
        again = run(rendered(tmp_path), tmp_path / "work")
    assert "error" not in again, again["error"]
    assert "an earlier machine left its results" in again["keep"]
    assert "finished already" in again["train"]
    assert "step 1/12" not in again["train"]


@pytest.mark.full
def test_as_a_program_it_runs_without_a_kernel_and_ends_with_an_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What ``-o run.py`` writes, as ``colab run`` executes it: one program, 0 at the end, 1 and one sentence for a failure."""
    content = nbformat.writes(rendered(tmp_path)).encode()
    (tmp_path / "run.py").write_bytes(script(content))
    with surroundings(tmp_path, "first", monkeypatch):
        answer = subprocess.run([sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True, timeout=CELL_SECONDS)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert "complete: the training is complete" in answer.stdout
        assert "a difference of 0.0e+00" in answer.stdout
        monkeypatch.setenv("CLOUDTUNE_NOTEBOOK_KEEP", "drive")
        refused = subprocess.run([sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True, timeout=CELL_SECONDS)
    assert refused.returncode == 1
    assert "KEEP is 'drive', and this is not Colab" in refused.stderr


def test_the_stop_button_saves_a_checkpoint_and_a_fresh_machine_goes_on_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The kernel's interrupt, as the stop button sends it, while the training cell runs after its first checkpoint."""
    book = rendered(tmp_path)
    train = next(cell for cell in book.cells if cell.id == "cloudtune-train")
    # The interrupt comes from inside the kernel: a thread that waits for the first checkpoint presses the button.
    train.source = (
        "import _thread, threading, time\n"
        "def press():\n"
        "    while not list((job.root / 'checkpoints').glob('*/COMPLETE')):\n"
        "        time.sleep(0.02)\n"
        "    _thread.interrupt_main()\n"
        "threading.Thread(target=press, daemon=True).start()\n"
    ) + train.source
    with surroundings(tmp_path, "first", monkeypatch):
        said = run(book, tmp_path / "work")
    assert "run this cell again to go on from it" in said["error"], said
    assert "stopping: the trainer saves a checkpoint first" in said["train"]
    with surroundings(tmp_path, "second", monkeypatch):
        again = run(rendered(tmp_path), tmp_path / "work")
    assert "error" not in again, again["error"]
    assert "brought back" in again["train"]
    assert "step 1/12 · loss" not in again["train"], "it did not begin again"
    assert "complete: the training is complete" in again["train"]
    assert "a difference of" in again["check"]


def test_a_job_that_fails_fails_the_notebook_with_the_jobs_own_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    book = rendered(tmp_path)
    cell = next(cell for cell in book.cells if cell.id == "cloudtune-train")
    cell.source = "(job.root / 'input/data/train/0-quickstart.jsonl').write_text('{\\n')\n" + cell.source
    with surroundings(tmp_path, "first", monkeypatch):
        said = run(book, tmp_path / "work")
    assert "the job failed with exit code 1" in said["error"]
    assert "0-quickstart.jsonl" in said["error"]
    assert json.loads((tmp_path / "first/job/output/data/status.json").read_text())["outcome"] == "failed"
    assert list((tmp_path / "drive").iterdir())
