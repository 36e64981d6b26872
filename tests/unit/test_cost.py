"""Money arithmetic: to the cent, rounded in the user's favour where a limit is meant."""

from hypothesis import given
from hypothesis import strategies as st

from cloudtune import cost


@given(st.floats(0, 1000), st.floats(0, 200), st.integers(1, 16))
def test_price_is_hours_times_rate_times_nodes_to_the_cent(hours, rate, nodes):
    assert abs(cost.run_usd(hours, rate, nodes) - hours * rate * nodes) <= 0.005


@given(st.floats(0.01, 10_000), st.floats(0.01, 200), st.integers(1, 16))
def test_a_budget_never_pays_for_more_seconds_than_it_has(max_usd, rate, nodes):
    seconds = cost.affordable_seconds(max_usd, rate, nodes)
    assert seconds is not None
    assert seconds / 3600 * rate * nodes <= max_usd * (1 + 1e-9)
    assert (seconds + 1) / 3600 * rate * nodes > max_usd * (1 - 1e-9)


def test_a_free_machine_has_no_budget_limit_but_keeps_max_hours():
    assert cost.time_limit_seconds(max_usd=5, max_hours=None, usd_per_hour=0) is None
    assert cost.time_limit_seconds(max_usd=5, max_hours=2, usd_per_hour=0) == 7200


def test_the_tighter_of_budget_and_hours_wins():
    assert cost.time_limit_seconds(max_usd=10, max_hours=24, usd_per_hour=5) == 7200
    assert cost.time_limit_seconds(max_usd=1000, max_hours=1, usd_per_hour=5) == 3600
    assert cost.time_limit_seconds(max_usd=None, max_hours=None, usd_per_hour=5) is None


@given(st.floats(0.1, 100), st.floats(0.1, 100), st.floats(0, 1), st.floats(0, 2))
def test_interruptions_never_make_a_run_cheaper(usd, hours, per_hour, lost):
    assert cost.interruption_weighted_usd(usd, hours, interruptions_per_hour=per_hour, lost_hours_each=lost) >= usd - 1e-3
