"""Rendering is a function of its inputs: the same bytes from two clones, for two users, in two time zones, with any secret around."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pydantic
import pytest

from cloudtune import __version__
from cloudtune.errors import StagingError
from cloudtune.rendering.channel import code_channel, without_torch
from cloudtune.rendering.dockerfile import Target, dockerfile
from cloudtune.rendering.image import Abilities, choose_image, ensure_image, image_name
from cloudtune.verbs.render import image_context, render, write_bundle
from tests.containers.jobs import QUICKSTART, ROOT, plan_of

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
TARGETS: tuple[Target, ...] = ("cpu", "cuda")
SECRET = "hf_planted_in_the_environment_0123"
PROGRAM = """
import json, sys
from pathlib import Path
from cloudtune.recipe.load import load_file
from cloudtune.session import Session
from cloudtune.settings import Settings
from cloudtune.verbs.plan import make_plan
from cloudtune.verbs.render import render
home = Path(sys.argv[1])
found = {}
with Session.open(Settings(home=home, cache=home / "cache")) as session:
    for recipe in sorted(Path("recipes").glob(sys.argv[2])):
        bundle = render(make_plan(load_file(recipe), session=session))
        found[recipe.name] = [bundle.digest, bundle.image_digest]
print(json.dumps(found))
"""


def digests_in(clone: Path, recipes: str = "quickstart.yaml", **environ: str) -> dict[str, list[str]]:
    """Digests of shipped recipes, from a fresh interpreter in ``clone``."""
    home = clone / "home"
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(home), recipes],
        cwd=clone,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(clone), "HOME": str(home), **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(answer.stdout)


@pytest.fixture(scope="module")
def clones(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two copies of the working tree's sources in different places."""
    made = []
    for name in ("here", "somewhere/else entirely"):
        clone = tmp_path_factory.mktemp("clone") / name
        for part in ("cloudtune", "containers", "recipes"):
            shutil.copytree(ROOT / part, clone / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", clone)
        made.append(clone)
    return made


def test_every_shipped_recipe_has_equal_digests_everywhere(clones: list[Path]):
    one, two = clones
    (two / "containers/trainer/cloudtune_trainer/__pycache__").mkdir()
    (two / "containers/trainer/cloudtune_trainer/__pycache__/x.pyc").write_bytes(b"left by an interpreter")
    (two / "containers/trainer/.DS_Store").write_bytes(b"left by a desktop")
    for path in two.rglob("*"):
        os.utime(path, (1, 1))
    with ThreadPoolExecutor(2) as both:
        here = both.submit(digests_in, one, "*.yaml", TZ="Pacific/Kiritimati", USER="ada", LANG="C.UTF-8")
        there = both.submit(digests_in, two, "*.yaml", TZ="America/Los_Angeles", USER="grace", LANG="de_DE.UTF-8", HF_TOKEN=SECRET)
        first, second = here.result(), there.result()
    assert first == second
    assert len(first) == len(RECIPES) >= 1


def system_python_fits() -> bool:
    """Whether the system's Python can load the packages of the tests' own."""
    question = "import sys; print(sys.version_info[:2])"
    answer = subprocess.run(["/usr/bin/python3", "-c", question], capture_output=True, text=True, check=False)
    return answer.stdout.strip() == str(tuple(sys.version_info[:2]))


@pytest.mark.skipif(os.geteuid() != 0 or not system_python_fits(), reason="needs root and a system Python of the same version")
def test_another_user_renders_the_same_bytes(clones: list[Path]):
    """With the system's Python where the tests' own interpreter lies in a folder that only its owner may enter."""
    clone = clones[0]
    above = [place for place in clone.parents if "pytest-of-" in str(place)]
    for place in (clone, *above, *clone.rglob("*")):
        place.chmod(0o755)
    (clone / "home").mkdir(exist_ok=True)
    os.chown(clone / "home", 65534, 65534)
    packages = Path(pydantic.__file__).parents[1]
    command = ["/usr/bin/python3", "-c", PROGRAM, str(clone / "home/nobody"), "quickstart.yaml"]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{clone}:{packages}", "HOME": "/nonexistent"}
    answer = subprocess.run(command, cwd=clone, env=environ, user=65534, group=65534, extra_groups=[], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == digests_in(clones[1])


def test_line_ends_of_a_checkout_do_not_matter(clones: list[Path]):
    before = digests_in(clones[1])
    for path in (clones[1] / "containers/trainer/cloudtune_entry").glob("*.py"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert digests_in(clones[1]) == before


@pytest.mark.parametrize("target", TARGETS)
def test_hadolint_finds_nothing_to_say(target: Target, tmp_path: Path):
    linter = Path(sys.executable).with_name("hadolint")
    place = tmp_path / "Dockerfile"
    place.write_text(dockerfile(target, "1.2.3"))
    answer = subprocess.run([linter, "--no-color", str(place)], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (0, "")
    # The control: the linter does find what is wrong.
    place.write_text("FROM debian\nRUN cd /tmp && sudo apt-get install x\nENTRYPOINT python3\n")
    assert subprocess.run([linter, str(place)], capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("target", TARGETS)
def test_dockerfiles_use_plain_features_only(target: Target):
    text = dockerfile(target, "1.2.3")
    for modern in ("--chmod", "--link", "--mount", "<<", "# syntax", "ADD ", "--secret", "ARG HF", "latest"):
        assert modern not in text
    assert text.index("RUN") < text.index("COPY trainer"), "a new trainer must not install torch again"
    assert "compat" not in text.replace("compatibility", "")


@pytest.mark.parametrize("target", TARGETS)
def test_locks_are_complete_and_pinned(target: Target):
    lines = (ROOT / f"containers/requirements/{target}.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in line for line in pins)
    assert len([line for line in pins if line.startswith("torch==")]) == 1
    assert {"transformers", "peft", "bitsandbytes", "accelerate", "pydantic"} <= {line.split("==")[0] for line in pins}


@pytest.mark.full
@pytest.mark.parametrize("target", TARGETS)
def test_a_lock_resolves_to_itself_and_nothing_else(target: Target, tmp_path: Path):
    """pip's own resolver, asked without installing: every pin exists, they agree, and nothing that they need is missing.

    torch is taken in whatever build pip finds here; its CUDA libraries come with its own build, from its own index.
    """
    text = (ROOT / f"containers/requirements/{target}.txt").read_text()
    pins = dict(line.split("==") for line in text.splitlines() if line and not line.startswith("#"))
    (tmp_path / "lock.txt").write_text("".join(f"{name}=={version.partition('+')[0]}\n" for name, version in pins.items()))
    question = ["install", "--quiet", "--dry-run", "--ignore-installed", "--report", str(tmp_path / "report.json")]
    command = [sys.executable, "-m", "pip", *question, "-r", str(tmp_path / "lock.txt")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
    found = json.loads((tmp_path / "report.json").read_text())["install"]
    names = {item["metadata"]["name"].lower().replace("_", "-") for item in found}
    assert {name for name in names if not name.startswith(("nvidia-", "triton", "cuda-"))} == set(pins)


def test_a_written_bundle_can_be_read_and_written_again(tmp_path: Path):
    plan = plan_of(QUICKSTART)
    bundle = render(plan)
    files = write_bundle(bundle, tmp_path / "bundle", plan)
    text = (tmp_path / "bundle/README.md").read_text()
    assert image_name(bundle.image, "cpu") in text
    assert "$TRAIN_0_QUICKSTART" in text
    assert str(tmp_path) not in text
    before = {path: path.read_bytes() for path in files}
    assert {path: path.read_bytes() for path in write_bundle(bundle, tmp_path / "bundle", plan)} == before


def test_nothing_of_user_or_machine_is_in_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    bundle = render(plan_of(QUICKSTART, "secrets.HF_TOKEN=env"))
    everything = b"".join([*bundle.image.values(), *bundle.job.values()])
    for found in (SECRET, str(Path.home()), str(ROOT), str(tmp_path)):
        assert found.encode() not in everything
    assert b"HF_TOKEN" in bundle.job["job.json"]


def test_the_code_channel_is_a_wheel_that_pip_installs(tmp_path: Path):
    context = image_context("cuda", __version__)
    channel = code_channel(context, __version__)
    assert channel == code_channel(dict(reversed(context.items())), __version__)
    (name,) = [name for name in channel if name.endswith(".whl")]
    assert "torch==" not in channel["requirements.txt"].decode()
    assert "transformers==" in channel["requirements.txt"].decode()
    with zipfile.ZipFile(BytesIO(channel[name])) as archive:
        assert archive.testzip() is None
        assert {"cloudtune_entry/__main__.py", "cloudtune_trainer/__main__.py", "cloudtune/recipe/spec.py"} <= set(archive.namelist())
    (tmp_path / name).write_bytes(channel[name])
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target), str(tmp_path / name)]
    subprocess.run(pip, check=True, capture_output=True)
    start = [sys.executable, "-m", "cloudtune_entry", "train"]
    environ = {"PYTHONPATH": str(target), "PATH": os.environ["PATH"], "CLOUDTUNE_ROOT": str(tmp_path / "ml")}
    answer = subprocess.run(start, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "there is no job file" in answer.stdout


def test_hashes_leave_the_lock_together_with_their_requirement():
    lock = (
        b"numpy==1 \\\n    --hash=sha256:aa\ntorch==2 \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc\nnvidia-cublas-cu12==3\ntqdm==4\n"
    )
    assert without_torch(lock).decode() == "numpy==1 \\\n    --hash=sha256:aa\ntqdm==4\n"


def test_the_strategy_is_the_cheapest_that_works():
    context = {"Dockerfile": b"FROM x\n"}
    name = image_name(context, "cuda")
    assert choose_image("aws", "cuda", context, Abilities()).strategy == "stock"
    assert choose_image("gcp", "cuda", context, Abilities(engine=True, repository="eu/x", remote_build=True)).strategy == "engine"
    remote = choose_image("gcp", "cuda", context, Abilities(repository="eu/x/", remote_build=True))
    assert (remote.strategy, remote.name) == ("remote", f"eu/x/{name}")
    assert choose_image("local", "cpu", context, Abilities(engine=True)).name.startswith("cloudtune-trainer:cpu-")
    for provider in ("gcp", "local"):
        with pytest.raises(StagingError) as error:
            choose_image(provider, "cuda", context, Abilities())
        assert error.value.hint


def test_an_image_that_exists_is_not_built():
    class Shelf:
        def __init__(self) -> None:
            self.built: list[str] = []

        def find(self, name: str) -> str | None:
            return f"id of {name}" if name in self.built else None

        def build(self, name: str, _context: object, _progress: object) -> str:
            self.built.append(name)
            return f"id of {name}"

    shelf, said = Shelf(), []
    for _ in range(3):
        assert ensure_image(shelf, "x:1", {}, said.append) == "id of x:1"
    assert shelf.built == ["x:1"]
