"""The loop closes: what a collected job measured is in the next estimate, by way of manifest, collect and ledger alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.e2e.command import QUICKSTART, Installation

Installed = Callable[[Sequence[str]], Installation]


def test_a_collected_job_is_in_the_next_estimate(installed: Installed) -> None:
    here = installed(["--steps", "3"])
    packed = (QUICKSTART, "--provider", "local", "--set", "data.packing=true")
    before = here.run("estimate", *packed, "--json").json
    assert "your own runs" not in before["memory"]["evidence"]
    ran = here.run("launch", *packed, "--yes", "--detach", "--id", "first")
    assert ran.code == 0, ran.err
    assert here.run("logs", "-f", "first").code == 0
    uncollected = here.run("estimate", *packed, "--json").json
    assert uncollected["memory"] == before["memory"]
    assert here.run("collect", "first").code == 0
    after = here.run("estimate", *packed, "--json").json
    assert after["memory"]["evidence"] == "1 of your own runs of this kind: none needed more than predicted"
    assert after["memory"]["peak_bytes"] == before["memory"]["peak_bytes"]
    assert after["memory"]["error_bar"] <= before["memory"]["error_bar"]
    plan = here.run("plan", *packed, "--json").json
    assert plan["memory"] == after["memory"]
