"""One stand-in per test file, emptied of jobs, faults and settings before each test: starting one takes a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloudtune.standins.aws.cloud import AwsStandin
from tests.standins.aws_jobs import World, account


@pytest.fixture(scope="module")
def running_aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(AwsStandin.start(tmp_path_factory.mktemp("aws"), account=account()))
    yield world
    world.close()


@pytest.fixture(scope="module")
def running_scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(AwsStandin.start(tmp_path_factory.mktemp("scripted"), mode="scripted", account=account()))
    yield world
    world.close()


@pytest.fixture
def aws(running_aws: World) -> World:
    """Jobs are real processes, phases are short, the job's program is in the bucket."""
    running_aws.renew()
    return running_aws


@pytest.fixture
def scripted(running_scripted: World) -> World:
    """Jobs train until the test ends them."""
    running_scripted.renew()
    return running_scripted
