"""Collecting from Cloud Storage keeps the promises of collecting from a folder: the same tests, the job's results in a bucket."""

from __future__ import annotations

import pytest

from cloudtune.standins.gcp.cloud import GcpStandin
from cloudtune.wire.gcs import Bucket
from tests.unit.test_collect import (  # noqa: F401 - collected here as tests of this file's world
    World,
    artifact,
    test_a_file_that_is_not_what_the_job_wrote_is_refused,
    test_a_linked_folder_in_the_destination_is_not_followed,
    test_a_malformed_manifest_is_refused,
    test_a_manifest_that_says_impossible_things_is_refused,
    test_a_manifest_with_too_many_files_is_refused,
    test_a_part_that_does_not_belong_is_done_over,
    test_a_path_that_is_not_plainly_inside_is_refused,
    test_an_endless_manifest_is_refused,
    test_an_interrupted_file_is_gone_on_with,
    test_collecting_again_fetches_what_is_missing_or_damaged,
    test_exactly_what_the_manifest_names_comes_home,
    test_more_than_the_disk_holds_is_refused_before_anything_is_fetched,
    test_names_that_collide_somewhere_are_refused,
    test_two_collectors_do_not_mix,
)

JOB = "cloudtune/jobs/bot-abc/model"


class GcsWorld(World):
    """What a test writes into ``source`` is put into the bucket before it is collected."""

    def __init__(self, folder, cloud):
        self.bucket = Bucket(cloud.scene.bucket, sleep=lambda _: None)
        super().__init__(folder)

    def address(self):
        return f"gs://{self.bucket.name}/{JOB}"

    def collect(self):
        for path in [path for path in self.source.rglob("*") if path.is_file()]:
            self.bucket.write(f"{JOB}/{path.relative_to(self.source).as_posix()}", path.read_bytes())
        return super().collect()


@pytest.fixture
def cloud(tmp_path_factory, monkeypatch):
    with GcpStandin.start(tmp_path_factory.mktemp("cloud"), mode="timed") as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        yield cloud


@pytest.fixture
def world(tmp_path, cloud):
    world = GcsWorld(tmp_path, cloud)
    yield world
    world.session.close()


def test_a_missing_object_is_named(world):
    world.manifest(artifact("gone/away"))
    assert world.refused("store-missing").where.endswith("/gone/away")


def test_a_storm_of_errors_is_waited_out(world, cloud):
    world.files(x=b"data" * 1000)
    world.manifest(artifact("x", b"data" * 1000))
    world.collect()
    (world.to / "x").unlink()
    cloud.faults.add("storage.objects.get", "error503", 2)
    cloud.faults.add("storage.objects.get", "dropped", 1)
    assert world.collect().fetched_bytes == 4000
