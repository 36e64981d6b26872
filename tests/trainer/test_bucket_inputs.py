"""A job on SageMaker whose data and base model lie in the user's own bucket: the real trainer finds what the channels bring.

The real boto3 against the stand-in, the job's bundle in plain processes; the orders are for a CPU, all else is as launched.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest

from cloudtune.clock import SystemClock
from cloudtune.job import JobState
from cloudtune.providers.aws.place import connect
from cloudtune.session import Session
from cloudtune.standins.aws.cloud import AwsStandin
from cloudtune.verbs.collect import collect
from cloudtune.verbs.launch import launch
from cloudtune.verbs.logs import logs
from cloudtune.verbs.track import track
from tests import aws_life

TRAINING = {
    "max_steps": 3, "learning_rate": 1e-3, "save_steps": 3, "eval_steps": 3, "micro_batch_size": 2, "batch_size": 2,
    "gradient_checkpointing": False, "fused_loss": False, "optimizer": "adamw_torch_fused",
}  # fmt: skip


@dataclass(frozen=True)
class OnTheCpu:
    """The place's own stager, with orders for a CPU."""

    inner: object

    def stage(self, bundle, plan, progress):
        orders = json.loads(bundle.job["job.json"])
        orders.update(device="cpu", layout={**orders["layout"], "gpus": 0})
        return self.inner.stage(replace(bundle, job={**bundle.job, "job.json": json.dumps(orders).encode()}), plan, progress)


@pytest.mark.timeout(300)
def test_data_and_base_model_come_from_the_users_bucket(base, tmp_path, monkeypatch):
    with AwsStandin.start(tmp_path / "cloud", account=aws_life.quick_account(), bucket="") as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        settings = aws_life.AwsSettings(tmp_path / "home", tmp_path / "cache", cloud.role)
        place = connect(settings, SystemClock())
        place.logs._settle_seconds = 1.0  # the stand-in's log has no delay worth waiting eight seconds for
        with Session(settings, SystemClock(), places={"aws": replace(place, stager=OnTheCpu(place.stager))}) as session:
            s3 = place.jobs._regions.login("us-east-1").client("s3")
            s3.create_bucket(Bucket="theirs")
            for file in base.iterdir():
                s3.upload_file(str(file), "theirs", f"models/tiny/{file.name}")
            rows = "".join(json.dumps({"prompt": f"{n} and one", "completion": f" is {n + 1}"}) + "\n" for n in range(24))
            s3.put_object(Bucket="theirs", Key="rows/sums.jsonl", Body=rows.encode())
            s3.put_object(Bucket="theirs", Key="rows/sums.jsonl.old", Body=b"a neighbour whose name begins alike")
            plan = aws_life.plan(
                tmp_path,
                data="s3://theirs/rows/sums.jsonl",
                model={"base": "s3://theirs/models/tiny", "dtype": "float32"},
                training=TRAINING,
            )
            view = launch(plan, session=session)
            last = list(track(view.id, session=session, interval=0.2))[-1]
            told = "\n".join(line.text for page in logs(view.id, session=session) for line in page.lines)
            assert last.state is JobState.SUCCEEDED, told
            assert "step 3/3" in told
            done = collect(view.id, session=session, to=tmp_path / "out")
            assert done.manifest.outcome == "complete"
            assert done.manifest.steps == 3
            sent = {one["ChannelName"]: one["DataSource"]["S3DataSource"]["S3Uri"] for one in cloud.jobs()[0].request["InputDataConfig"]}
            assert sent["train-0"] == "s3://theirs/rows/sums.jsonl"
            assert sent["model"] == "s3://theirs/models/tiny/"
            assert "train" not in sent, "nothing of this machine was uploaded as data"
