"""The stand-ins' clock: faster time, jumps, and sleepers that are woken by them."""

from __future__ import annotations

import threading
import time

from cloudtune.standins.clock import StandinClock


def test_time_runs_faster():
    clock = StandinClock(speed=1000)
    began, now = time.monotonic(), clock.now()
    clock.sleep(100)
    assert time.monotonic() - began < 5
    assert (clock.now() - now).total_seconds() >= 100


def test_a_jump_wakes_everybody_who_sleeps_that_long():
    clock = StandinClock(speed=0)
    woken: list[int] = []

    def sleeper(seconds: int) -> None:
        clock.sleep(seconds)
        woken.append(seconds)

    threads = [threading.Thread(target=sleeper, args=(seconds,), daemon=True) for seconds in (10, 60, 3600)]
    for thread in threads:
        thread.start()
    assert clock.monotonic() == 0
    clock.advance(100)
    for thread in threads[:2]:
        thread.join(5)
    assert sorted(woken) == [10, 60]
    clock.advance(3500)
    threads[2].join(5)
    assert sorted(woken) == [10, 60, 3600]


def test_waiting_ends_with_what_happened_or_with_time():
    clock = StandinClock(speed=1000)
    assert clock.wait_for(lambda: False, 20) is False
    happened = threading.Event()
    threading.Timer(0.1, happened.set).start()
    assert clock.wait_for(happened.is_set) is True
