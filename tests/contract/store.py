"""The laws of a Store, as tests that every implementation inherits. Supply the fixture ``world``."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod

import pytest

from cloudtune.errors import CloudtuneError, StoreError
from cloudtune.stores.base import Store


class StoreWorld(ABC):
    """A store under test."""

    @property
    @abstractmethod
    def store(self) -> Store: ...

    @abstractmethod
    def break_down(self) -> None:
        """Make every later call fail in the store's own way."""


def content(store, path, start=0):
    return b"".join(store.fetch(path, start))


class StoreLaws:
    """Inherit, and supply ``world``."""

    @pytest.mark.parametrize("body", [b"", b"x", os.urandom(3_000_001)], ids=["empty", "small", "large"])
    def test_what_was_put_is_fetched(self, world, body):
        world.store.put("a/b/c.bin", [body[:10], body[10:]])
        assert content(world.store, "a/b/c.bin") == body

    def test_fetching_from_an_offset_gives_the_rest(self, world):
        world.store.put("x", [b"0123456789"])
        assert [content(world.store, "x", start) for start in (0, 3, 10)] == [b"0123456789", b"3456789", b""]

    def test_a_second_put_replaces_the_first(self, world):
        world.store.put("x", [b"a longer first text"])
        world.store.put("x", [b"second"])
        assert content(world.store, "x") == b"second"

    def test_listing_names_files_with_their_sizes(self, world):
        for path in ("m/a", "m/sub/b", "n/c"):
            world.store.put(path, [path.encode()])
        files = {entry.path: entry.bytes for entry in world.store.list() if entry.kind == "file"}
        assert files == {"m/a": 3, "m/sub/b": 7, "n/c": 3}
        assert [entry.path for entry in world.store.list("m/") if entry.kind == "file"] == ["m/a", "m/sub/b"]
        assert list(world.store.list("absent/")) == []

    def test_a_put_that_breaks_off_leaves_nothing(self, world):
        def torn():
            yield b"beginning"
            raise RuntimeError("the source broke")

        world.store.put("kept", [b"old"])
        for path in ("kept", "new"):
            with pytest.raises(RuntimeError):
                world.store.put(path, torn())
        assert content(world.store, "kept") == b"old"
        assert [entry.path for entry in world.store.list() if entry.kind == "file"] == ["kept"]

    def test_a_missing_file_says_so(self, world):
        with pytest.raises(StoreError) as caught:
            content(world.store, "absent")
        assert caught.value.code == "store-missing"

    @pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a//b", "", ".", "a\0b"])
    def test_a_path_that_leaves_the_root_is_refused(self, world, path):
        with pytest.raises(StoreError):
            content(world.store, path)
        with pytest.raises(StoreError):
            world.store.put(path, [b"x"])

    def test_errors_are_ours_and_keep_their_cause(self, world):
        world.store.put("x", [b"x"])
        world.break_down()
        for call in (lambda: content(world.store, "x"), lambda: world.store.put("y", [b"y"])):
            with pytest.raises(CloudtuneError) as caught:
                call()
            assert caught.value.code
            assert caught.value.__cause__ is not None
