"""Images of our own for SageMaker: a repository made when missing, CodeBuild that succeeds and fails, digests, no second build.

ECR and CodeBuild are the stand-in's, which push no image: what a build would have pushed is put there by the test.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from io import BytesIO

import pytest

from cloudtune.clock import VirtualClock
from cloudtune.errors import StagingError, UsageError
from cloudtune.providers.aws.codebuild import PROJECT, CodeBuilder, zipped
from cloudtune.providers.aws.ownimages import OwnImages, credentials, make_repository, registry_of, repository_of
from cloudtune.rendering.bundle import Bundle
from cloudtune.rendering.image import ensure_image, image_name
from cloudtune.standins.aws.cloud import AwsStandin
from tests.contract.aws_world import AwsWorld
from tests.unit import aws_builders

CONTEXT = {"Dockerfile": b"FROM scratch\n", "trainer/x.py": b"x"}
ROLE = aws_builders.ROLE


@pytest.fixture(scope="module")
def running_cloud(tmp_path_factory):
    with AwsStandin.start(tmp_path_factory.mktemp("cloud"), mode="scripted") as cloud:
        yield cloud


@pytest.fixture
def world(running_cloud, tmp_path, monkeypatch):
    running_cloud.faults.clear()
    running_cloud.faults.calls.clear()
    for name, value in running_cloud.environment.items():
        monkeypatch.setenv(name, value)
    return AwsWorld(tmp_path, running_cloud)


@pytest.fixture
def login(world):
    return world.regions.login("us-east-1")


def push(login, name):
    """What the build would have pushed."""
    address, _, tag = name.rpartition(":")
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "size": 1,
            "digest": f"sha256:{hashlib.sha256(tag.encode()).hexdigest()}",
        },
        "layers": [],
    }
    answer = login.client("ecr").put_image(
        repositoryName=address.partition("/")[2], imageManifest=json.dumps(manifest), imageTag=tag,
        imageManifestMediaType="application/vnd.docker.distribution.manifest.v2+json",
    )  # fmt: skip
    return answer["image"]["imageId"]["imageDigest"]


def test_the_account_s_registry_and_repository():
    registry = registry_of(ROLE, "us-east-1")
    assert registry == "123456789012.dkr.ecr.us-east-1.amazonaws.com"
    assert registry_of(ROLE.replace("arn:aws:", "arn:aws-cn:"), "cn-north-1").endswith(".amazonaws.com.cn")
    assert repository_of(image_name(CONTEXT, "cuda", f"{registry}/team")) == "team/cloudtune-trainer"


def test_the_repository_is_made_once_and_its_password_is_read(login):
    name = image_name(CONTEXT, "cuda", registry_of(ROLE, "us-east-1"))
    make_repository(login, name)
    make_repository(login, name)
    assert [one["repositoryName"] for one in login.client("ecr").describe_repositories()["repositories"]] == ["cloudtune-trainer"]
    found = credentials(login)
    assert found.username == "AWS"
    assert found.password
    assert found.password not in repr(found)


def test_codebuild_builds_once_and_gives_the_digest(world, login):
    context = {**CONTEXT, "one": b"1"}
    name = image_name(context, "cuda", registry_of(ROLE, "us-east-1"))
    make_repository(login, name)
    said = []
    builder = CodeBuilder(login, world.cloud.bucket, world.cloud.role, VirtualClock())
    assert builder.find(name) is None
    pushed = {}

    class Pushing(CodeBuilder):
        """The stand-in's build pushes nothing: this is its last step."""

        def _wait(self, build, progress):
            super()._wait(build, progress)
            pushed["digest"] = push(login, name)

    builder = Pushing(login, world.cloud.bucket, world.cloud.role, VirtualClock())
    reference = ensure_image(builder, name, context, said.append)
    assert reference == f"{name.rpartition(':')[0]}@{pushed['digest']}"
    assert world.cloud.faults.calls["StartBuild"] == 1
    assert ensure_image(builder, name, context, said.append) == reference
    assert world.cloud.faults.calls["StartBuild"] == 1, "an image that is there is not built again"
    project = login.client("codebuild").batch_get_projects(names=[PROJECT])["projects"][0]
    assert project["environment"]["privilegedMode"] is True
    key = f"cloudtune/contexts/{hashlib.sha256(zipped(context)).hexdigest()}.zip"
    body = login.client("s3").get_object(Bucket=world.cloud.bucket, Key=key)["Body"].read()
    with zipfile.ZipFile(BytesIO(body)) as archive:
        assert {path: archive.read(path) for path in archive.namelist()} == context


def test_a_build_that_pushed_nothing_is_not_believed(world, login):
    context = {**CONTEXT, "two": b"2"}
    name = image_name(context, "cuda", registry_of(ROLE, "us-east-1"))
    make_repository(login, name)
    with pytest.raises(StagingError, match="repository has none"):
        CodeBuilder(login, world.cloud.bucket, world.cloud.role, VirtualClock()).build(name, context, lambda _: None)


def test_a_build_that_fails_says_in_which_phase_and_why(world, login):
    context = {**CONTEXT, "three": b"3"}
    name = image_name(context, "cuda", registry_of(ROLE, "us-east-1"))
    make_repository(login, name)
    world.cloud.builds.failing = 1
    with pytest.raises(StagingError, match="failed in build: Error while executing command: docker build") as caught:
        CodeBuilder(login, world.cloud.bucket, world.cloud.role, VirtualClock()).build(name, context, lambda _: None)
    assert caught.value.code == "build-failed"


def test_a_zip_is_the_same_bytes_every_time():
    assert zipped(CONTEXT) == zipped(dict(reversed(CONTEXT.items())))


def test_stock_needs_nothing_and_another_word_is_refused(world, tmp_path):
    bundle, plan = Bundle(CONTEXT, {}), aws_builders.aws_plan(tmp_path)

    class Settings:
        aws_role, aws_bucket, aws_region, aws_image = ROLE, "auto", None, "stock"

    before = world.cloud.faults.calls.total()
    assert OwnImages(world.regions, Settings(), VirtualClock()).make(bundle, plan, print) is None
    assert world.cloud.faults.calls.total() == before
    wrong = Settings()
    wrong.aws_image = "docker"
    with pytest.raises(UsageError, match="aws_image is 'docker'"):
        OwnImages(world.regions, wrong, VirtualClock()).make(bundle, plan, print)
