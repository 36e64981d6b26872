"""The supervisor's parts that need no container: machines of a job, secrets managers, drivers, the bucket mirror, exit codes."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cloudtune_entry import accelerator, cluster, credentials, outcome
from cloudtune_entry.child import PASSED_ON, End, Signals
from cloudtune_entry.ground import Ground, Trouble, bucket_path, find_ground
from cloudtune_entry.lifeline import Lifeline
from cloudtune_entry.mirror import make_mirror
from cloudtune_entry.orders import Orders, read_orders
from cloudtune_entry.rights import KEEP_VARIABLE
from tests.containers.jobs import ROOT, STAND_IN, bare_job

CLUSTER_SPEC = {
    "cluster": {"workerpool0": ["cmle-master-0:2222"], "workerpool1": ["cmle-worker-0:2222", "cmle-worker-1:2222"]},
    "task": {"type": "workerpool1", "index": 1, "trial": ""},
}


def test_each_platform_is_recognised_by_what_it_sets(tmp_path: Path):
    assert find_ground({"TRAINING_JOB_NAME": "x"}).kind == "sagemaker"
    assert find_ground({"CLUSTER_SPEC": "{}"}).kind == "vertex"
    assert find_ground({"AIP_MODEL_DIR": "gs://b/x"}).kind == "vertex"
    assert find_ground({"CLOUDTUNE_ROOT": str(tmp_path)}) == Ground("local", tmp_path)
    assert bucket_path("gs://bucket/a/b") == Path("/gcs/bucket/a/b")


def test_buckets_lie_elsewhere_where_nobody_can_mount_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CLOUDTUNE_BUCKETS", str(tmp_path))
    assert bucket_path("gs://bucket/a/b") == tmp_path / "bucket/a/b"
    assert bucket_path("/gcs/plain") == Path("/gcs/plain")


def test_vertex_machines_count_the_primary_first():
    found = cluster.find_cluster(Ground("vertex", Path("/opt/ml")), {"CLUSTER_SPEC": json.dumps(CLUSTER_SPEC)})
    assert found == cluster.Cluster(nodes=3, rank=2, master="cmle-master-0")


def test_sagemaker_machines_are_in_numeric_order(tmp_path: Path):
    config = tmp_path / "input/config"
    config.mkdir(parents=True)
    hosts = [f"algo-{number}" for number in (10, 2, 1, 3, 4, 5, 6, 7, 8, 9)]
    (config / "resourceconfig.json").write_text(json.dumps({"current_host": "algo-10", "hosts": hosts, "network_interface_name": "eth1"}))
    found = cluster.find_cluster(Ground("sagemaker", tmp_path), {})
    assert found == cluster.Cluster(nodes=10, rank=9, master="algo-1", interface="eth1")


def test_torchrun_is_used_for_more_than_one_process_only():
    assert cluster.command(Orders("cpu", 0, 1), cluster.Cluster())[1:] == ["-m", "cloudtune_trainer"]
    assert cluster.command(Orders("cuda", 1, 1), cluster.Cluster())[1:] == ["-m", "cloudtune_trainer"]
    eight = cluster.command(Orders("cuda", 8, 1), cluster.Cluster())
    assert eight[1:5] == ["-m", "torch.distributed.run", "--nproc-per-node", "8"]
    two = cluster.command(Orders("cuda", 8, 2), cluster.Cluster(2, 1, "algo-1"))
    assert two[7:13] == ["--nnodes", "2", "--node-rank", "1", "--master-addr", "algo-1"]
    with pytest.raises(Trouble, match="plan is for 2"):
        cluster.command(Orders("cuda", 1, 2), cluster.Cluster())


def test_compatibility_libraries_only_where_they_are_newer(tmp_path: Path):
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12\n")
    compat = tmp_path / "compat"
    compat.mkdir()
    assert not accelerator.compat_is_newer(compat, driver)
    (compat / "libcuda.so.560.35.03").write_text("")
    assert accelerator.compat_is_newer(compat, driver)
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.10  Sun May 12\n")
    assert not accelerator.compat_is_newer(compat, driver)
    assert not accelerator.compat_is_newer(compat, tmp_path / "absent")


NVIDIA_SMI = """#!/bin/sh
if [ "$1" = -L ]; then echo "GPU 0: NVIDIA L4 (UUID: GPU-1)"; exit 0; fi
echo "| NVIDIA-SMI 535.183.01             Driver Version: 535.183.01   CUDA Version: 12.2     |"
"""


def test_gpu_troubles_are_said_plainly(tmp_path: Path):
    program = tmp_path / "nvidia-smi"
    program.write_text(NVIDIA_SMI)
    program.chmod(0o755)
    driver = accelerator._driver({"PATH": f"{tmp_path}:/bin:/usr/bin"})
    assert driver == accelerator.Driver("535.183.01", "12.2", 1)
    orders = Orders("cuda", 2, 1)
    seen = accelerator.Torch("2.13.0+cu126", "12.6", False, ())
    with pytest.raises(Trouble, match=r"runs CUDA up to 12.2, this image's torch 2.13.0\+cu126 needs 12.6"):
        accelerator.judge(orders, driver, seen)
    with pytest.raises(Trouble, match="holds a CPU build of torch"):
        accelerator.judge(orders, driver, accelerator.Torch("2.13.0+cpu", "", False, ()))
    with pytest.raises(Trouble, match="plan is for 2 GPUs on this machine, torch sees 1"):
        accelerator.judge(orders, driver, accelerator.Torch("2.13.0+cu126", "12.6", True, ("NVIDIA L4",)))
    one = accelerator.judge(Orders("cuda", 1, 1), driver, accelerator.Torch("2.13.0+cu126", "12.6", True, ("NVIDIA L4",)))
    assert one.startswith("1 x NVIDIA L4, driver 535.183.01")


def test_exit_codes_by_platform(tmp_path: Path):
    grounds = {kind: Ground(kind, tmp_path) for kind in ("local", "vertex", "sagemaker")}
    assert [outcome.judge(End(75, True), ground, 0).code for ground in grounds.values()] == [75, 75, 143]
    assert outcome.judge(End(-9, False), grounds["local"], 0).code == 137
    assert outcome.judge(End(-11, False), grounds["vertex"], 0).code == 139
    (tmp_path / "model").mkdir()
    (tmp_path / "model/manifest.json").write_text('{"outcome": "interrupted"}')
    # torchrun ends with 1 when its workers saved and left with 75: the manifest knows better.
    assert outcome.judge(End(1, True), grounds["local"], 0).word == "interrupted"
    assert outcome.judge(End(1, False), grounds["local"], 0).word == "failed"


def test_secrets_are_cut_out_of_text():
    values = {"HF_TOKEN": "hf_abc123", "SHORT": "ab"}
    assert credentials.redacted(b"got hf_abc123 and ab", values) == b"got [HF_TOKEN] and ab"


@contextmanager
def google(allow: bool) -> Iterator[str]:
    """A small server that answers as the metadata server and Secret Manager do."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith("/token"):
                body = {"access_token": "tok"} if self.headers["Metadata-Flavor"] == "Google" else {}
            elif self.path.endswith("/project-id"):
                self.reply(200, b"my-project")
                return
            elif not allow or self.headers["Authorization"] != "Bearer tok":
                self.reply(403, b"{}")
                return
            else:
                assert self.path == "/v1/projects/my-project/secrets/hf-token/versions/latest:access"
                body = {"payload": {"data": base64.b64encode(b"hf_from_google").decode()}}
            self.reply(200, json.dumps(body).encode())

        def reply(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_google_secret_manager_is_asked_over_plain_rest():
    with google(allow=True) as host:
        environ = {"GCE_METADATA_HOST": host, "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER": f"http://{host}/"}
        values, notes = credentials.fetch({"HF_TOKEN": "gcp:secretmanager:hf-token"}, environ)
    assert (values, notes) == ({"HF_TOKEN": "hf_from_google"}, [])


def test_a_refused_secret_ends_the_job_with_the_missing_right():
    with google(allow=False) as host:
        environ = {"GCE_METADATA_HOST": host, "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER": f"http://{host}/"}
        with pytest.raises(Trouble, match="secretAccessor"):
            credentials.fetch({"HF_TOKEN": "gcp:secretmanager:hf-token"}, environ)


def test_mounted_secrets_win_over_the_environment(tmp_path: Path):
    (tmp_path / "HF_TOKEN").write_text("from file\n")
    environ = {"CLOUDTUNE_SECRETS_DIR": str(tmp_path), "HF_TOKEN": "from environment", "OTHER": "o"}
    values, notes = credentials.fetch({"HF_TOKEN": "env", "OTHER": "env", "GONE": "env"}, environ)
    assert values == {"HF_TOKEN": "from file", "OTHER": "o"}
    assert len(notes) == 1
    assert "CLOUDTUNE_SECRETS_DIR" not in credentials.without(environ)


def test_the_mirror_copies_markers_last_and_prunes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root, bucket = tmp_path / "ml", tmp_path / "bucket"
    for part in ("model", "output/data", "checkpoints/step-1", "checkpoints/step-2"):
        (root / part).mkdir(parents=True)
    (root / "checkpoints/step-1/weights").write_text("1")
    (root / "checkpoints/step-1/COMPLETE").write_text("{}")
    (root / "checkpoints/step-2/weights").write_text("2")
    mirror = make_mirror(Ground("vertex", root), {"AIP_MODEL_DIR": f"{bucket}/model/"})
    mirror.copy()
    assert sorted(path.name for path in (bucket / "checkpoints").iterdir()) == ["step-1"]
    (root / "checkpoints/step-2/COMPLETE").write_text("{}")
    for path in (root / "checkpoints/step-1").iterdir():
        path.unlink()
    (root / "checkpoints/step-1").rmdir()
    mirror.copy()
    assert not (bucket / "checkpoints/step-1/COMPLETE").exists()
    assert (bucket / "checkpoints/step-2/COMPLETE").exists()
    assert make_mirror(Ground("sagemaker", root), {"AIP_MODEL_DIR": "gs://b/"}).pairs == ()


def test_the_best_weights_travel_with_the_checkpoints(tmp_path: Path):
    """Early stopping ends with them: without them a run that went on elsewhere would end with its last weights, and say nothing."""
    before, after, bucket = tmp_path / "before", tmp_path / "after", tmp_path / "bucket"
    for root in (before, after):
        for part in ("model", "output/data", "checkpoints"):
            (root / part).mkdir(parents=True)
    (before / "checkpoints/step-1").mkdir()
    for name in ("best.safetensors", "best-00000-of-00002.safetensors", "best.tmp", "step-1/COMPLETE"):
        (before / "checkpoints" / name).write_text("1")
    first, second = (make_mirror(Ground("vertex", root), {"AIP_MODEL_DIR": f"{bucket}/model/"}) for root in (before, after))
    assert first.copy()
    (before / "checkpoints/best.safetensors").write_text("better")
    assert first.copy()
    assert second.restore() == 1
    found = {path.name: path.read_text() for path in (after / "checkpoints").glob("best*")}
    assert found == {"best.safetensors": "better", "best-00000-of-00002.safetensors": "1"}


@pytest.fixture
def half_mounted(tmp_path: Path) -> tuple[Path, Path]:
    """A trained job on Vertex AI and its bucket, in which something keeps the weights out."""
    root, bucket = tmp_path / "ml", tmp_path / "bucket"
    for part in ("model", "output/data", "checkpoints/step-1"):
        (root / part).mkdir(parents=True)
    for part, marker in (("model", "manifest.json"), ("checkpoints/step-1", "COMPLETE")):
        (root / part / marker).write_text("{}")
        (root / part / "weights").write_text("1")
        (bucket / part / "weights").mkdir(parents=True)
    return root, bucket


def test_no_marker_is_in_the_bucket_before_what_it_vouches_for(half_mounted: tuple[Path, Path]):
    root, bucket = half_mounted
    mirror = make_mirror(Ground("vertex", root), {"AIP_MODEL_DIR": f"{bucket}/model/"})
    assert not mirror.copy()
    assert not (bucket / "model/manifest.json").exists()
    assert not (bucket / "checkpoints/step-1/COMPLETE").exists()


def test_the_last_copy_is_tried_again_while_the_bucket_refuses(half_mounted: tuple[Path, Path]):
    root, bucket = half_mounted
    mirror = make_mirror(Ground("vertex", root), {"AIP_MODEL_DIR": f"{bucket}/model/", "CLOUDTUNE_MIRROR_SECONDS": "2"})

    def let_in() -> None:
        for part in ("model", "checkpoints/step-1"):
            (bucket / part / "weights").rmdir()

    later = threading.Timer(0.2, let_in)
    later.start()
    assert mirror.finish()
    later.join()
    assert (bucket / "model/manifest.json").exists()
    assert (bucket / "model/weights").read_text() == "1"
    assert (bucket / "checkpoints/step-1/COMPLETE").exists()


@pytest.mark.parametrize(("refuses", "code", "outcome"), [(False, 0, "complete"), (True, 1, "failed")])
def test_a_result_that_never_reached_the_bucket_is_no_success(tmp_path: Path, refuses: bool, code: int, outcome: str):
    """With the machine the only copy would be gone, and the job would have said that all is well."""
    root = bare_job(tmp_path / "ml", "trains")
    program = tmp_path / "programs/cloudtune_trainer"
    program.mkdir(parents=True)
    (program / "__init__.py").touch()
    (program / "__main__.py").write_bytes(STAND_IN)
    results = tmp_path / "buckets/b/model"
    (results / "weights").mkdir(parents=True) if refuses else None
    environ = {
        **os.environ, "PYTHONPATH": f"{program.parent}:{ROOT / 'containers/trainer'}", "CLOUDTUNE_ROOT": str(root), KEEP_VARIABLE: "1",
        "AIP_MODEL_DIR": "gs://b/model/", "CLOUDTUNE_BUCKETS": str(tmp_path / "buckets"), "CLOUDTUNE_MIRROR_SECONDS": "0.01",
    }  # fmt: skip
    ended = subprocess.run([sys.executable, "-m", "cloudtune_entry"], env=environ, capture_output=True, text=True, timeout=60)
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert (results / "manifest.json").exists() is not refuses
    assert json.loads((tmp_path / "buckets/b/output/data/status.json").read_text())["outcome"] == outcome
    assert ("could not be copied" in ended.stdout) is refuses


def test_what_a_failure_says_holds_no_secret(tmp_path: Path):
    ground = Ground("local", tmp_path)
    (ground.output / "data").mkdir(parents=True)
    ended = outcome.Outcome("failed", 1, "401 for the token hf_abc123")
    for before in (None, b"the trainer's own words about hf_abc123"):
        if before:
            (ground.output / "failure").write_bytes(before)
        outcome.write_marks(ground, ended, started=0.0, attempt=1, secrets={"HF_TOKEN": "hf_abc123"})
        written = [(ground.output / name).read_text() for name in ("failure", "data/status.json")]
        assert [("hf_abc123" in text, "[HF_TOKEN]" in text) for text in written] == [(False, True)] * 2


@pytest.fixture
def own_handlers() -> Iterator[None]:
    """The supervisor takes the process's signals; the tests' own handlers come back afterwards."""
    before = {number: signal.getsignal(number) for number in PASSED_ON}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("own_handlers")
def test_a_lifeline_that_stands_still_asks_once(tmp_path: Path):
    signals = Signals()
    path = tmp_path / "alive"
    path.touch()
    tie = Lifeline(path, still_seconds=0.0)
    tie.tick(signals)
    assert not signals.asked
    tie.tick(signals)
    assert signals.asked
    assert signals.kill_at is not None
    calm = Signals()
    Lifeline(None).tick(calm)
    assert not calm.asked


def started(tmp_path: Path, name: str, **environ: str) -> subprocess.Popen[str]:
    """The supervisor as a plain process with the stand-in for a trainer; a failure of an earlier start lies there."""
    root = bare_job(tmp_path / "ml", name, secrets={"HF_TOKEN": "env"} if "HF_TOKEN" in environ else {})
    (root / "output/failure").write_text("of yesterday\n")
    program = tmp_path / "programs/cloudtune_trainer"
    program.mkdir(parents=True)
    (program / "__init__.py").touch()
    (program / "__main__.py").write_bytes(STAND_IN)
    path = f"{program.parent}:{ROOT / 'containers/trainer'}"
    surroundings = {**os.environ, "PYTHONPATH": path, "CLOUDTUNE_ROOT": str(root), KEEP_VARIABLE: "1", **environ}
    return subprocess.Popen(
        [sys.executable, "-m", "cloudtune_entry"], env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize(
    ("name", "code", "failure"),
    [
        ("exit-0", 0, ""),
        ("exit-3", 1, "the trainer ended with exit code 3"),
        ("fails-with-words", 1, "the data is wrong\nline two"),
        ("segfault", 139, "segmentation fault"),
        ("shows-secret", 1, "refused: [HF_TOKEN]"),
    ],
)
def test_each_end_has_its_code_and_its_words(tmp_path: Path, name: str, code: int, failure: str):
    ran = started(tmp_path, name, **({"HF_TOKEN": "hf_abc123"} if name == "shows-secret" else {}))
    log, _ = ran.communicate(timeout=60)
    assert ran.returncode == code, log
    written = tmp_path / "ml/output/failure"
    assert (failure in written.read_text()) if failure else not written.exists()
    status = (tmp_path / "ml/output/data/status.json").read_text()
    assert failure.partition("\n")[0] in json.loads(status)["message"]
    assert "hf_abc123" not in log + status + (written.read_text() if failure else "")
    assert "yesterday" not in status


@pytest.mark.parametrize(("environ", "code"), [({}, 75), ({"TRAINING_JOB_NAME": "a"}, 143)])
def test_sigterm_is_passed_on_and_told_by_its_code(tmp_path: Path, environ: dict[str, str], code: int):
    ran = started(tmp_path, "waits", **environ)
    assert ran.stdout is not None
    for line in ran.stdout:
        if line == "ready\n":
            ran.send_signal(signal.SIGTERM)
    assert ran.wait(60) == code
    assert (tmp_path / "ml/checkpoints/step-00000001/COMPLETE").exists()
    assert not (tmp_path / "ml/output/failure").exists()


def test_orders_of_another_release_are_refused(tmp_path: Path):
    path = bare_job(tmp_path / "ml", "exit-0") / "input/data/job/job.json"
    assert read_orders(path).name == "exit-0"
    path.write_text(json.dumps({**json.loads(path.read_text()), "contract": 9}))
    with pytest.raises(Trouble, match="use the image of the same release"):
        read_orders(path)


def test_starts_of_a_job_are_counted(tmp_path: Path):
    ground = Ground("local", bare_job(tmp_path / "ml", "exit-0"))
    assert [outcome.count_attempt(ground) for _ in range(3)] == [1, 2, 3]
