"""The hostile artifacts of tests/unit/test_collect.py once more, with the job's results in S3: refused the same way."""

from __future__ import annotations

import hashlib
import json

import pytest

from cloudtune.clock import SystemClock
from cloudtune.errors import StoreError
from cloudtune.job import JobState
from cloudtune.providers.scripted import Scene, ScriptedJobs, ScriptedState
from cloudtune.stores.destination import Wanted, opened_destination
from cloudtune.stores.s3 import S3Store
from cloudtune.verbs.collect import MANIFEST_LIMIT, collect
from cloudtune.verbs.jobs import status
from cloudtune.verbs.launch import launch
from cloudtune.wire.aws import Login
from cloudtune.wire.s3 import Bucket
from tests import builders
from tests.unit.test_collect import BAD_MANIFESTS, BAD_PATHS, COLLISIONS, INCOMING, PLANTS, artifact

JOB = "bot-abc"
PREFIX = "jobs/bot-abc/output/model/"


class World:
    """A finished job whose outputs lie in a bucket, and the folder that it is collected into."""

    def __init__(self, folder, last=ScriptedState.DONE):
        self.bucket = Bucket(Login(region="us-east-1"), "results")
        self.client = self.bucket.client
        self.client.create_bucket(Bucket="results")
        self.folder = folder
        self.to = folder / "home"
        self.secret = folder / "secret"
        self.secret.write_text("do not touch")
        scene = Scene(last, outputs=f"s3://results/{PREFIX}", remains="s3://results/jobs/bot-abc/", message="it broke")
        self.session = builders.scripted_session(folder / "cloudtune", ScriptedJobs(SystemClock(), [scene]))
        launch(builders.scripted_plan(folder), session=self.session, launch_id=JOB)

    def files(self, **contents):
        for name, content in contents.items():
            self.client.put_object(Bucket="results", Key=f"{PREFIX}{name.replace('__', '/')}", Body=content)

    def manifest(self, *artifacts, **changes):
        body = {
            "outcome": "complete", "launch_id": JOB, "recipe_name": "bot", "method": "lora", "base_model": "b", "steps": 5,
            "total_steps": 5, "epochs": 1.0, "seconds": 1.0, "versions": {}, "artifacts": list(artifacts),
            "peak_memory": {"device": "cpu", "host_rss_bytes": 7}, "predicted_peak_bytes": 8,
        }  # fmt: skip
        self.files(**{"manifest.json": json.dumps({**body, **changes}).encode()})

    def collect(self):
        return collect(JOB, session=self.session, to=self.to)

    def refused(self, code):
        with pytest.raises(StoreError) as caught:
            self.collect()
        assert caught.value.code == code, caught.value
        assert self.secret.read_text() == "do not touch"
        assert status(JOB, self.session).state is not JobState.COLLECTED
        return caught.value

    def landed(self):
        return sorted(path.relative_to(self.to).as_posix() for path in self.to.rglob("*") if path.is_file())


@pytest.fixture
def world(aws_server, tmp_path):
    world = World(tmp_path)
    yield world
    world.session.close()
    world.bucket.close()


def test_exactly_what_the_manifest_names_comes_home(world):
    large = b"w" * 20_000_000
    world.files(adapter__weights=large, adapter__config=b"{}", empty=b"", stray=b"not named", again=b"{}")
    names = {"adapter/weights": large, "adapter/config": b"{}", "empty": b"", "again": b"{}"}
    world.manifest(*(artifact(path, content) for path, content in names.items()))
    done = world.collect()
    assert world.landed() == [*sorted(names), "manifest.json"]
    assert {path: (world.to / path).read_bytes() for path in names} == names
    assert (done.fetched_bytes, done.partial) == (20_000_004, False)
    assert world.collect().fetched_bytes == 0


def test_paths_and_collisions(world):
    """One server for all of them: names are refused before anything is fetched or made."""
    world.files(good=b"data")
    for path in BAD_PATHS.values():
        world.manifest(artifact("good"), artifact(path))
        world.refused("store-bad-path")
    for paths in COLLISIONS.values():
        world.manifest(*(artifact(path) for path in paths))
        world.refused("store-collision")
    assert not world.to.exists()


def test_manifests(world):
    for text in BAD_MANIFESTS.values():
        world.files(**{"manifest.json": text})
        world.refused("bad-manifest")
    world.manifest(artifact("x"))
    good = world.client.get_object(Bucket="results", Key=f"{PREFIX}manifest.json")["Body"].read()
    world.files(**{"manifest.json": good + b" " * MANIFEST_LIMIT})
    assert "larger than" in world.refused("bad-manifest").what
    world.manifest(artifact("x"), launch_id="other-abc")
    world.refused("bad-manifest")
    world.manifest(artifact("x"), {"path": "huge", "bytes": 1 << 60, "sha256": "0" * 64})
    world.refused("store-disk-full")
    assert world.landed() == []


@pytest.mark.parametrize(
    ("there", "code"), [(b"DATA", "store-digest"), (b"dat", "store-truncated"), (b"data and more", "store-grown"), (None, "store-missing")]
)
def test_a_file_that_is_not_what_the_job_wrote_is_refused(world, there, code):
    world.files(y=b"good", **({"x": there} if there is not None else {}))
    world.manifest(artifact("y", b"good"), artifact("x", b"data"))
    world.refused(code)
    assert "x" not in world.landed()
    assert "manifest.json" not in world.landed(), "the manifest comes last, so its presence means that all is there"


def test_nothing_planted_in_the_destination_is_written_through(world):
    world.files(x=b"data")
    world.manifest(artifact("x"))
    for plant in PLANTS.values():
        for place in (world.to / "x", world.to / INCOMING / hashlib.sha256(b"data").hexdigest()):
            place.parent.mkdir(parents=True, exist_ok=True)
            plant(place, world.secret)
            world.refused("store-not-a-file")
            place.rmdir() if place.is_dir() and not place.is_symlink() else place.unlink()
    assert world.collect().fetched_bytes == 4


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_nothing_planted_while_a_file_comes_is_written_through(world, plant):
    """After its name was looked at and found free."""
    world.files(x=b"data")
    store = S3Store(world.bucket, PREFIX)

    def fetch(start):
        yield from store.fetch("x", start)
        plant(world.to / "x", world.secret)

    with opened_destination(world.to) as destination:
        if plant is PLANTS["hard-link"]:  # a plain file like another: the name is given to ours, and theirs keeps its content
            destination.receive(Wanted("x", 4, hashlib.sha256(b"data").hexdigest()), fetch)
        else:
            with pytest.raises(StoreError) as caught:
                destination.receive(Wanted("x", 4, hashlib.sha256(b"data").hexdigest()), fetch)
            assert caught.value.code == "store-not-a-file"
    assert world.secret.read_text() == "do not touch"


def test_no_linked_folder_of_the_destination_is_followed(world):
    """Neither one on the way to a file, nor the destination itself."""
    elsewhere = world.folder / "elsewhere"
    elsewhere.mkdir()
    world.files(sub__x=b"data")
    world.manifest(artifact("sub/x"))
    world.to.mkdir()
    (world.to / "sub").symlink_to(elsewhere)
    world.refused("store-not-a-file")
    (world.to / "sub").unlink()
    world.to.rmdir()
    world.to.symlink_to(elsewhere)
    world.refused("store-not-a-file")
    assert list(elsewhere.iterdir()) == []


def test_what_only_looks_like_a_path_in_the_bucket_is_never_read(world):
    """S3 takes any name for a key: one that climbs or has an empty part is found under no name of a manifest."""
    for key in ("../x", "a//b", "a/./b", "sub/"):
        world.client.put_object(Bucket="results", Key=f"{PREFIX}{key}", Body=b"data")
        world.manifest(artifact(key))
        world.refused("store-bad-path")
    assert not world.to.exists()


def test_checkpoints_with_hostile_names_are_refused_too(aws_server, tmp_path):
    """No manifest vouches for them, so their names in the bucket are all that is known."""
    world = World(tmp_path, ScriptedState.BROKEN)
    try:
        for number, name in enumerate(("CON", "a:b", "step-1/nul.txt", "step-1./x")):
            key = f"jobs/bot-abc/checkpoints/{name}"
            world.client.put_object(Bucket="results", Key=key, Body=b"data")
            with pytest.raises(StoreError) as caught:
                collect(JOB, session=world.session, to=world.folder / f"home-{number}", checkpoints=True)
            assert caught.value.code == "store-bad-path"
            assert not (world.folder / f"home-{number}" / "checkpoints").exists()
            world.client.delete_object(Bucket="results", Key=key)
        for name in ("step-1/a", "../../../../escaped", "step-1//b"):
            world.client.put_object(Bucket="results", Key=f"jobs/bot-abc/checkpoints/{name}", Body=b"data")
        done = collect(JOB, session=world.session, to=world.to, checkpoints=True)
        assert [file for file in done.files if file.startswith("checkpoints/")] == ["checkpoints/step-1/a"], "the others are no paths"
        assert not [path for path in tmp_path.rglob("*") if path.name in ("escaped", "b")]
    finally:
        world.session.close()
        world.bucket.close()
