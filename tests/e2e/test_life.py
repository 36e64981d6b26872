"""A local job's life with a stand-in trainer: launch, track, logs, stop, collect, cost."""

from __future__ import annotations

import pytest

from cloudtune.job import JobState
from cloudtune.verbs.collect import collect
from cloudtune.verbs.jobs import ps
from cloudtune.verbs.launch import launch
from cloudtune.verbs.logs import logs
from cloudtune.verbs.track import track
from tests import builders


def test_a_job_is_launched_followed_and_brought_home(tmp_path):
    with builders.session(tmp_path / "home", ["--steps", "5"]) as session:
        view = launch(builders.plan(tmp_path), session=session)
        views = list(track(view.id, session=session))
        assert views[-1].state is JobState.SUCCEEDED
        assert views[-1].progress.step == 5
        assert views[-1].progress.losses[-1] == pytest.approx(0.4)
        lines = [line.text for page in logs(view.id, session=session) for line in page.lines]
        assert lines == [f"step {step} of 5" for step in range(1, 6)]
        collected = collect(view.id, session=session, to=tmp_path / "out")
        assert not collected.partial
        assert (tmp_path / "out/adapter/adapter.safetensors").read_bytes() == b"weights" * 1000
        assert sorted(collected.files) == ["adapter/adapter.safetensors", "adapter/adapter_config.json", "empty.txt", "manifest.json"]
        assert [job.state for job in ps(session)] == [JobState.COLLECTED]
