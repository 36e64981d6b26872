"""The list of faults: order, counts, delays, and calls that are counted."""

from __future__ import annotations

import pytest

from cloudtune.standins.faults import FaultPlan


def kinds(plan: FaultPlan, operation: str, calls: int) -> list[str]:
    return [fault.kind if (fault := plan.take(operation)) else "" for _ in range(calls)]


def test_a_fault_hits_its_operation_as_often_as_asked():
    plan = FaultPlan()
    plan.add("Create", "throttle", 2)
    plan.add("Create", "lost_reply")
    assert kinds(plan, "Describe", 1) == [""]
    assert kinds(plan, "Create", 4) == ["throttle", "throttle", "lost_reply", ""]
    assert plan.calls == {"Create": 4, "Describe": 1}
    assert [(operation, fault.kind) for operation, fault in plan.given] == [
        ("Create", kind) for kind in ("throttle", "throttle", "lost_reply")
    ]


def test_a_fault_can_come_later_and_last():
    plan = FaultPlan()
    plan.add("*", "error503", None, after=2)
    assert kinds(plan, "List", 4) == ["", "", "error503", "error503"]
    plan.clear()
    assert kinds(plan, "List", 1) == [""]
    with plan.during("List", "expired", detail="token"):
        assert kinds(plan, "List", 2) == ["expired", "expired"]
    assert kinds(plan, "List", 1) == [""]


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="no such fault"):
        FaultPlan().add("List", "sulk")  # type: ignore[arg-type]
