"""The folder view of buckets that a stand-in's job works on: what becomes an object, and when."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cloudtune.standins.gcp.mount import PATIENCE, BucketView
from cloudtune.standins.gcp.objects import ObjectStore


def make(tmp_path: Path) -> tuple[ObjectStore, BucketView, Path]:
    store = ObjectStore(tmp_path / "objects", lambda: datetime(2026, 11, 26, tzinfo=UTC))
    store.make_bucket("some-bucket", "us-central1", {})
    view = BucketView(store, tmp_path / "gcs")
    view.sync()
    return store, view, tmp_path / "gcs" / "some-bucket"


def names(store: ObjectStore) -> set[str]:
    return set(store.bucket("some-bucket").objects)


def test_a_file_that_stands_still_becomes_an_object_at_the_second_look(tmp_path):
    store, view, folder = make(tmp_path)
    (folder / "one.txt").write_text("1")
    view.sync()
    assert names(store) == set()
    view.sync()
    assert names(store) == {"one.txt"}


def test_a_file_that_is_rewritten_between_any_two_looks_becomes_an_object_all_the_same(tmp_path):
    store, view, folder = make(tmp_path)
    for look in range(PATIENCE + 1):
        (folder / "metrics.jsonl").write_text("row\n" * (look + 1))
        view.sync()
        assert ("metrics.jsonl" in names(store)) == (look == PATIENCE)
