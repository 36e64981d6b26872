"""When this process starts workers, and when it must not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from trainer_jobs import job_file

from cloudtune.errors import JobFailed
from cloudtune_trainer.crew import is_needed, run
from cloudtune_trainer.surroundings import StopSign


def test_workers_are_started_once() -> None:
    assert is_needed(job_file(micro=2, workers=2), {})
    assert not is_needed(job_file(micro=2, workers=2), {"RANK": "0"})
    assert not is_needed(job_file(), {})


def test_several_machines_are_not_guessed() -> None:
    job = job_file()
    with pytest.raises(JobFailed, match="3 machines"):
        run(job.model_copy(update={"layout": replace(job.layout, nodes=3)}), StopSign())
