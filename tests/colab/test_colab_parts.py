"""What a notebook's cells do, one by one: machine against estimate, packages against lock, data by digest, secrets, keeping."""

from __future__ import annotations

import base64
import bz2
import hashlib
import json
import sys
from pathlib import Path

import pytest

from cloudtune.rendering.channel import wheel
from cloudtune.standins.gcp.cloud import GcpStandin
from cloudtune_colab import inputs, keep, machine, packages, vault
from cloudtune_colab.ground import Place, Stop, sign_in
from cloudtune_colab.machine import GIB, MIB, Card

T4 = Card("Tesla T4", 15360 * MIB, 7.5)
L4 = Card("NVIDIA L4", 23034 * MIB, 8.9)
GPU_JOB = {"device": "cuda", "recipe": {"model": {"dtype": "float16"}}}
CPU_JOB = {"device": "cpu", "recipe": {"model": {"dtype": "float32"}}}


def estimate(peak: float, *fits: str) -> dict[str, object]:
    return {"peak": peak * GIB, "low": 0.9 * peak * GIB, "high": 1.1 * peak * GIB, "gpu": "L4", "fits": fits}


def test_the_gpu_is_compared_with_the_estimate():
    (fine,) = machine.judge(GPU_JOB, estimate(9, "T4", "L4"), [T4], 12 * GIB)
    assert "Tesla T4: 14.5 GiB usable, the estimate is 9.0 GiB (8.1 to 9.9): it fits" in fine
    (tight,) = machine.judge(GPU_JOB, estimate(14, "T4"), [T4], 12 * GIB)
    assert "may just fit" in tight
    with pytest.raises(Stop, match=r"will not fit. Runtime > Change runtime type > L4 or A100"):
        machine.judge(GPU_JOB, estimate(19, "L4", "A100"), [T4], 12 * GIB)
    with pytest.raises(Stop, match="has no GPU, and the job needs one: Runtime > Change runtime type > T4"):
        machine.judge(GPU_JOB, estimate(9, "T4"), [], 12 * GIB)
    with pytest.raises(Stop, match="Tesla T4 has no bfloat16"):
        machine.judge({"device": "cuda", "recipe": {"model": {"dtype": "bfloat16"}}}, estimate(9, "L4"), [T4], 12 * GIB)
    assert machine.judge({"device": "cuda", "recipe": {"model": {"dtype": "bfloat16"}}}, estimate(9, "L4"), [L4], 12 * GIB)


def test_a_cpu_job_is_compared_with_the_hosts_memory():
    assert "it fits" in machine.judge(CPU_JOB, estimate(1), [], machine.host_memory())[0]
    with pytest.raises(Stop, match="a runtime with more memory"):
        machine.judge(CPU_JOB, estimate(4000), [], machine.host_memory())


def test_nvidia_smi_is_read_and_may_be_absent(tmp_path: Path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n[ $# = 2 ] || exit 2\necho 'Tesla T4, 15360, 7.5'\n")
    program.chmod(0o755)
    assert machine.cards({"PATH": str(tmp_path)}) == [T4]
    assert machine.cards({"PATH": str(tmp_path / "none")}) == []
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert machine.cards({"PATH": str(tmp_path)}) == []


def test_what_differs_from_the_lock_is_found():
    lock = packages.read_lock("# made\nTorch==2.13.0+cu126\ntyping_extensions==4.16.0\npeft==0.21.2\n")
    assert lock == {"torch": "2.13.0+cu126", "typing-extensions": "4.16.0", "peft": "0.21.2"}
    here = {"torch": "2.13.0+cu130", "typing-extensions": "4.15.0", "peft": "0.21.2"}
    assert packages.differing(lock, here, "cuda") == ["typing-extensions==4.16.0"]
    assert packages.differing(lock, {**here, "torch": "2.13.0+cpu"}, "cuda")[0] == "torch==2.13.0+cu126"
    assert packages.differing(lock, {**here, "torch": "2.12.1"}, "cpu")[0] == "torch==2.13.0+cu126"
    assert packages.differing(lock, {}, "cuda") == [f"{name}=={version}" for name, version in lock.items()]


def test_only_what_differs_is_installed_into_a_folder_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """A real pip, a real wheel in a folder, no index: the newer release lands beside the interpreter's own packages."""
    name = "cloudtune_job-9.1-py3-none-any.whl"
    (tmp_path / name).write_bytes(wheel({"cloudtune_probe_package.py": b"x = 1\n"}, "9.1"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    place = Place(tmp_path / "home", colab=False)
    lock = f"pytest=={pytest.__version__}\ncloudtune-job==9.1\n"
    assert packages.install(place, lock, "cpu") == ["cloudtune-job==9.1"]
    assert "1 of 2 packages are here" in capsys.readouterr().out
    assert (place.packages / "cloudtune_probe_package.py").exists()
    assert packages.install(place, lock, "cpu") == [], "a second time there is nothing to do"
    with pytest.raises(Stop, match="pip failed"):
        packages.install(place, "cloudtune-job==9.2\n", "cpu")


def test_data_is_brought_from_a_folder_and_checked_by_its_digest(tmp_path: Path):
    source, data = tmp_path / "drive", tmp_path / "data"
    source.mkdir()
    (source / "rows.jsonl").write_bytes(b"{}\n")
    (source / "base").mkdir()
    (source / "base/config.json").write_text("{}")
    digest = hashlib.sha256(b"{}\n").hexdigest()
    wanted = {"train/0-rows.jsonl": {"name": "rows.jsonl", "sha256": digest}, "model": {"name": "base", "sha256": None}}
    place = Place(tmp_path, colab=False)
    inputs.bring(place, data, wanted, str(source))
    assert (data / "train/0-rows.jsonl").read_bytes() == b"{}\n"
    assert (data / "model/config.json").exists()
    (source / "rows.jsonl").unlink()
    inputs.bring(place, data, wanted, str(source))  # here already
    (data / "train/0-rows.jsonl").write_bytes(b"other")
    with pytest.raises(Stop, match="not the file that the job was planned with"):
        inputs.bring(place, data, wanted, str(source))
    with pytest.raises(Stop, match=r"there is no rows.jsonl in .*drive"):
        inputs.bring(place, data, wanted, str(source))
    with pytest.raises(Stop, match="name its folder"):
        inputs.bring(place, data, wanted, "")
    assert inputs.unpacked("\n".join([base64.b64encode(bz2.compress(b"x" * 99)).decode()])) == b"x" * 99


COLAB = {
    "userdata.py": (
        "class SecretNotFoundError(Exception): pass\nclass NotebookAccessError(Exception): pass\n"
        "def get(name):\n    if name == 'HF_TOKEN':\n        return 'hf_from_the_store'\n"
        "    raise (NotebookAccessError if name == 'NOT_ALLOWED' else SecretNotFoundError)(name)\n"
    ),
    "drive.py": "asked = []\ndef mount(place):\n    asked.append(place)\n",
    "auth.py": "asked = []\ndef authenticate_user():\n    asked.append(True)\n",
    "files.py": "def upload():\n    return {'rows (1).jsonl': b'{}\\n'}\n",
}


@pytest.fixture
def colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's notebook library, as far as a notebook of ours calls it: the same names, signatures and errors."""
    import google

    folder = tmp_path / "library" / "google" / "colab"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    for name, text in COLAB.items():
        (folder / name).write_text(text)
    monkeypatch.setattr(google, "__path__", [*google.__path__, str(folder.parent)])
    yield
    for name in [name for name in sys.modules if name.startswith("google.colab")]:
        del sys.modules[name]


@pytest.mark.usefixtures("colab")
def test_secrets_come_from_colabs_store_then_the_environment_and_are_gone_afterwards(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "from_the_environment")
    with vault.opened(["HF_TOKEN", "WANDB_API_KEY", "NOT_THERE", "NOT_ALLOWED"], colab=True) as folder:
        assert {path.name: path.read_text() for path in folder.iterdir()} == {
            "HF_TOKEN": "hf_from_the_store",
            "WANDB_API_KEY": "from_the_environment",
        }
        assert folder.stat().st_mode & 0o077 == 0
        assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())
    assert not folder.exists()
    said = capsys.readouterr().out
    assert "hf_from_the_store" not in said
    assert "secret NOT_THERE: not found" in said
    assert "secret NOT_ALLOWED: not found" in said


@pytest.mark.usefixtures("colab")
def test_a_person_is_asked_to_sign_in_only_where_no_login_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from google.colab import auth

    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    sign_in(Place(tmp_path, colab=False))
    assert auth.asked == []
    sign_in(Place(tmp_path, colab=True))
    assert auth.asked == [True]
    login = {"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c"}
    (tmp_path / "application_default_credentials.json").write_text(json.dumps(login))
    sign_in(Place(tmp_path, colab=True))
    assert auth.asked == [True]


@pytest.mark.usefixtures("colab")
def test_an_upload_is_asked_for_on_colab(tmp_path: Path):
    wanted = {"train/0-rows.jsonl": {"name": "rows.jsonl", "sha256": hashlib.sha256(b"{}\n").hexdigest()}}
    inputs.bring(Place(tmp_path, colab=True), tmp_path / "data", wanted, "")
    assert (tmp_path / "data/train/0-rows.jsonl").read_bytes() == b"{}\n"


def test_drive_is_for_colab_only_and_nothing_is_said_to_be_nothing(tmp_path: Path, capsys):
    with pytest.raises(Stop, match="this is not Colab"):
        keep.find_kept("drive", "x", Place(tmp_path, colab=False))
    assert keep.find_kept(" ", "x", Place(tmp_path, colab=False)).folder is None
    assert "go with it" in capsys.readouterr().out


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of the stand-in, behind Google's own client."""
    with GcpStandin.start(tmp_path / "cloud", mode="timed", speed=0) as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        yield f"gs://{cloud.scene.bucket}/notebooks/"


def test_a_bucket_keeps_checkpoints_whole_and_brings_them_to_a_fresh_machine(tmp_path: Path, bucket: str):
    first = keep.find_kept(bucket, "job-1", Place(tmp_path / "first", colab=False))
    old, new = (first.folder / "checkpoints" / name for name in ("step-00000001", "step-00000002"))
    for place in (old, new):
        place.mkdir(parents=True)
        (place / "weights.safetensors").write_bytes(b"w" * 1000)
        (place / "COMPLETE").write_text("{}")
    first.send()
    (old / "COMPLETE").unlink()
    (old / "weights.safetensors").unlink()
    (new / "state.json").write_text("later")
    first.send()
    second = keep.find_kept(bucket, "job-1", Place(tmp_path / "second", colab=False))
    second.fetch()
    assert sorted(path.relative_to(second.folder).as_posix() for path in second.folder.rglob("*") if path.is_file()) == [
        "checkpoints/step-00000002/COMPLETE",
        "checkpoints/step-00000002/state.json",
        "checkpoints/step-00000002/weights.safetensors",
    ]
    other = keep.find_kept(bucket, "job-2", Place(tmp_path / "third", colab=False))
    other.fetch()
    assert not other.folder.exists()


def test_markers_are_sent_last_and_withdrawn_first():
    names = ["model/manifest.json", "checkpoints/s/COMPLETE", "model/adapter/a.safetensors", "checkpoints/s/weights"]
    ordered = sorted(names, key=keep._markers_last)
    assert set(ordered[2:]) == {"model/manifest.json", "checkpoints/s/COMPLETE"}


def test_a_bucket_that_refuses_does_not_end_the_training(tmp_path: Path, bucket: str, capsys):
    kept = keep.Bucket("gs://no-such-bucket-of-ours/x", tmp_path / "kept")
    kept.folder.mkdir()
    (kept.folder / "metrics.jsonl").write_text("{}\n")
    with keep.sending(kept):
        pass
    said = capsys.readouterr().out
    assert "sending to the bucket failed" in said
    assert "only on this machine" in said


def test_data_comes_from_a_bucket(tmp_path: Path, bucket: str):
    from google.cloud import storage

    name = bucket.removeprefix("gs://").partition("/")[0]
    storage.Client().bucket(name).blob("notebooks/rows.jsonl").upload_from_string(b"{}\n")
    wanted = {"train/0-rows.jsonl": {"name": "rows.jsonl", "sha256": hashlib.sha256(b"{}\n").hexdigest()}}
    inputs.bring(Place(tmp_path, colab=False), tmp_path / "data", wanted, bucket)
    assert (tmp_path / "data/train/0-rows.jsonl").read_bytes() == b"{}\n"


def test_what_the_recipe_names_in_a_bucket_comes_from_there_unless_a_folder_is_named(tmp_path: Path, bucket: str):
    from google.cloud import storage

    name = bucket.removeprefix("gs://").partition("/")[0]
    for path, content in {
        "m/tiny/config.json": b"{}",
        "m/tiny/deep/w.bin": b"w",
        "m/tiny2/no": b"",
        "m/tiny/../../x": b"x",
        "r.jsonl": b"1",
    }.items():
        storage.Client().bucket(name).blob(path).upload_from_string(content)
    place, far = Place(tmp_path, colab=False), {"name": "r.jsonl", "sha256": None, "from": f"gs://{name}/r.jsonl"}
    wanted = {"model": {"name": "tiny", "sha256": None, "from": f"gs://{name}/m/tiny"}, "train/0-r.jsonl": far}
    inputs.bring(place, tmp_path / "data", wanted, "")
    found = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()}
    assert not list(tmp_path.glob("x"))
    assert found == {"data/model/config.json": b"{}", "data/model/deep/w.bin": b"w", "data/train/0-r.jsonl": b"1"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/r.jsonl").write_bytes(b"2")
    inputs.bring(place, tmp_path / "other", {"train/0-r.jsonl": far}, str(tmp_path / "mine"))
    assert (tmp_path / "other/train/0-r.jsonl").read_bytes() == b"2"
    with pytest.raises(Stop, match="not in this notebook"):
        inputs.bring(place, tmp_path / "third", {"train/0-r.jsonl": {**far, "from": "s3://b/r.jsonl"}}, "")
