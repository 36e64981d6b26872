"""Jobs, plans and results as text and JSON: what a person and a program get to see."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest

from cloudtune.job import JobRef, JobState, JobView, LaunchId, Progress
from cloudtune.manifest import Artifact, Manifest, PeakMemory
from cloudtune.show.jobs import ago, job_lines, job_table
from cloudtune.show.json import to_plain, to_text
from cloudtune.show.live import LivePicture, PlainLines, follower, picture_lines, plain_line
from cloudtune.show.report import summary_lines
from cloudtune.show.text import Page, cells

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PROGRESS = Progress(
    phase="train", step=30, total_steps=120, loss=2.5, eval_loss=2.75, tokens_per_second=1234.5, eta_seconds=65, losses=(4.0, 3.0, 2.5)
)
VIEW = JobView(
    id=LaunchId("quickstart-ab12cd34ef"),
    state=JobState.RUNNING,
    provider="local",
    recipe="quickstart",
    created=NOW - timedelta(seconds=42),
    ref=JobRef("local", "this-machine", "quickstart-ab12cd34ef"),
    progress=PROGRESS,
)
MANIFEST = Manifest(
    outcome="complete",
    launch_id="quickstart-ab12cd34ef",
    recipe_name="quickstart",
    method="qlora",
    base_model="builtin:quickstart",
    steps=120,
    total_steps=120,
    epochs=3.0,
    train_loss=2.1,
    eval_loss_before=4.0,
    eval_loss_after=3.0,
    eval_rows=40,
    train_rows=400,
    tokens=96_000,
    seconds=75.0,
    train_seconds=60.0,
    peak_memory=PeakMemory(device="cpu", host_rss_bytes=900 * 2**20),
    predicted_peak_bytes=990 * 2**20,
    versions={},
    artifacts=(Artifact(path="adapter/adapter_model.safetensors", bytes=1, sha256="0" * 64),),
)


def test_ps_is_one_line_per_job() -> None:
    failed = replace(VIEW, state=JobState.FAILED, message="out of memory\nsecond line")
    lines = job_table([VIEW, failed], Page(), NOW)
    assert lines[0].split() == ["id", "state", "provider", "progress", "started"]
    assert lines[1].split(maxsplit=3)[:3] == ["quickstart-ab12cd34ef", "running", "local"]
    assert "train, step 30/120, 1 min 05 s left" in lines[1]
    assert "out of memory" in lines[2]
    assert "second line" not in lines[2]
    assert len(lines) == 3


def test_ps_without_jobs_says_how_to_start() -> None:
    assert job_table([], Page(), NOW) == ["no jobs yet; start one with: cloudtune launch RECIPE"]


@pytest.mark.parametrize("width", [72, 80, 120])
def test_everything_fits_the_terminal(width: int) -> None:
    page = Page(width, colour=True)
    long = replace(VIEW, id=LaunchId("a" * 40 + "-ab12cd34ef"))
    for lines in (job_table([VIEW], page, NOW), picture_lines(VIEW, page, NOW), job_lines(VIEW, page, NOW)):
        assert all(cells(line) <= width for line in lines), lines
    assert all(cells(line) <= 120 for line in job_table([long], Page(120), NOW))


@pytest.mark.parametrize(
    ("seconds", "words"), [(-5, "just now"), (0, "just now"), (5, "5 s ago"), (61, "1 min ago"), (7200, "2 h ago"), (200_000, "2 d ago")]
)
def test_ages_in_one_unit(seconds: int, words: str) -> None:
    assert ago(NOW - timedelta(seconds=seconds), NOW) == words


def test_status_names_address_and_loss() -> None:
    text = "\n".join(job_lines(VIEW, Page(), NOW))
    assert "local://this-machine/quickstart-ab12cd34ef" in text
    assert "2.500, eval 2.750" in text


def test_a_pipe_gets_one_line_per_change() -> None:
    stream = io.StringIO()
    with follower(stream, lambda: NOW) as show:
        assert isinstance(follower(stream, lambda: NOW), PlainLines)
        for step in range(121):
            show(replace(VIEW, progress=replace(PROGRESS, step=step)))
        show(replace(VIEW, progress=replace(PROGRESS, phase="save", step=None)))
        show(replace(VIEW, state=JobState.SUCCEEDED, progress=None))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 11 + 2, "a tenth of the steps each, then the phase and the end"
    assert lines[0] == "quickstart-ab12cd34ef running: train, step 0/120, loss 2.500, eval loss 2.750, 1,234 tokens/s, 1 min 05 s left"
    assert lines[-1] == "quickstart-ab12cd34ef succeeded"
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_picture() -> None:
    stream = Terminal()
    with LivePicture(stream, Page(80, colour=True), lambda: NOW) as show:
        show(VIEW)
    text = stream.getvalue()
    assert "step 30/120, 25%" in text
    assert "42 s so far" in text
    assert "1,234 tokens/s" in text


def test_the_picture_holds_without_numbers() -> None:
    assert picture_lines(replace(VIEW, progress=None, message="downloading"), Page(80), NOW)[1] == "  downloading"
    assert len(picture_lines(replace(VIEW, progress=Progress("load")), Page(80), NOW)) == 2


def test_steps_and_losses_of_the_phase_before_are_not_those_of_a_load() -> None:
    """After a restart the newest numbers are those of the run that was interrupted; nothing is trained yet."""
    again = replace(VIEW, progress=replace(PROGRESS, phase="load"))
    assert plain_line(again).endswith(": load")
    assert not [line for line in picture_lines(again, Page(80), NOW) if "step" in line or "loss" in line]


def test_the_summary_has_losses_result_memory_and_the_next_step() -> None:
    text = "\n".join(summary_lines(MANIFEST, "runs/quickstart-ab12cd34ef", Page()))
    assert "done in 1 min 15 s" in text
    assert "4.0000 before, 3.0000 after (-25.0%), on 40 rows held out" in text
    assert "runs/quickstart-ab12cd34ef/adapter" in text
    assert "900 MiB measured, 990 MiB predicted (+10%)" in text
    assert "1,600 tokens/s" in text


def test_a_summary_says_that_a_run_ended_early() -> None:
    """Early stopping alone completes a run before its last step; nobody should have to read the log to learn why it was short."""
    early = MANIFEST.model_copy(update={"steps": 5})
    assert "5 of 120 steps (stopped early, without gain) over 400 rows" in "\n".join(summary_lines(early, "runs/x", Page()))
    limited = early.model_copy(update={"outcome": "stopped"})
    for whole in (MANIFEST, limited):
        assert "early" not in "\n".join(summary_lines(whole, "runs/x", Page()))


def test_a_summary_without_evaluation_and_of_an_interrupted_run() -> None:
    bare = MANIFEST.model_copy(update={"eval_loss_before": None, "eval_loss_after": None, "outcome": "interrupted", "train_seconds": None})
    text = "\n".join(summary_lines(bare, "runs/x", Page(), goes_on=True))
    assert "not measured; training loss 2.1000" in text
    assert "--id quickstart-ab12cd34ef" in text


@pytest.mark.parametrize("outcome", ["interrupted", "stopped"])
def test_a_job_that_was_stopped_is_loaded_and_not_launched_again(outcome: Literal["interrupted", "stopped"]) -> None:
    """With the same id it would be the same job, which has ended; its partial result is there."""
    stopped = MANIFEST.model_copy(update={"outcome": outcome})
    text = "\n".join(summary_lines(stopped, "runs/x", Page()))
    assert "--id" not in text
    assert 'PeftModel.from_pretrained(base, "runs/x/adapter")' in text
    empty = "\n".join(summary_lines(stopped.model_copy(update={"artifacts": ()}), "runs/x", Page()))
    assert "from_pretrained" not in empty


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (VIEW.ref, "local://this-machine/quickstart-ab12cd34ef"),
        (NOW, "2026-11-23T12:00:00+00:00"),
        (JobState.RUNNING, "running"),
        (Colour.RED, "red"),
        (float("nan"), None),
        (float("inf"), None),
        (True, True),
        (Path("a") / "b", "a/b"),
        ((1, {"k": (2,)}), [1, {"k": [2]}]),
    ],
)
def test_values_have_one_json_form(value: Any, expected: Any) -> None:
    assert to_plain(value) == expected


def test_jobs_and_manifests_are_json() -> None:
    job = json.loads(to_text(VIEW))
    assert job["id"] == "quickstart-ab12cd34ef"
    assert (job["state"], job["provider"], job["recipe"]) == ("running", "local", "quickstart")
    assert job["progress"]["losses"] == [4.0, 3.0, 2.5]
    assert json.loads(to_text(MANIFEST))["peak_memory"]["device"] == "cpu"


def test_what_has_no_json_form_says_so() -> None:
    with pytest.raises(TypeError, match="object has no JSON form"):
        to_plain(object())
