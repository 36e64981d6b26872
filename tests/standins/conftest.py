"""A fresh stand-in for a test, or one with jobs that run nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudtune.standins.aws.cloud import AwsStandin
from tests.standins.aws_jobs import World, account


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[World]:
    """Jobs are real processes, phases are short, the job's program is in the bucket."""
    world = World(AwsStandin.start(tmp_path / "aws", account=account()))
    world.put_program()
    yield world
    world.close()


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[World]:
    """Jobs train until the test ends them."""
    world = World(AwsStandin.start(tmp_path / "aws", mode="scripted", account=account()))
    world.put_program()
    yield world
    world.close()
