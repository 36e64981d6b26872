"""A folder keeps the laws of a Store; what is special to folders: links and files that are none."""

from __future__ import annotations

import os
import shutil

import pytest

from cloudtune.errors import StoreError, UsageError
from cloudtune.stores.folder import FolderStore
from cloudtune.stores.registry import open_store
from tests.contract.store import StoreLaws, StoreWorld, content


class FolderWorld(StoreWorld):
    def __init__(self, root):
        self.root = root
        self._store = FolderStore(root)

    @property
    def store(self):
        return self._store

    def break_down(self):
        shutil.rmtree(self.root)
        self.root.write_text("a file where the folder was")


@pytest.fixture
def world(tmp_path):
    return FolderWorld(tmp_path / "root")


class TestFolderStore(StoreLaws):
    pass


def test_things_that_are_no_files_are_listed_as_what_they_are(world, tmp_path):
    world.store.put("file", [b"x"])
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("s")
    (world.root / "folder").mkdir()
    (world.root / "link").symlink_to(tmp_path / "outside")
    os.mkfifo(world.root / "pipe")
    assert {entry.path: entry.kind for entry in world.store.list()} == {"file": "file", "folder": "folder", "link": "link", "pipe": "other"}
    for path in ("link", "link/secret", "pipe", "folder"):
        with pytest.raises(StoreError) as caught:
            content(world.store, path)
        assert caught.value.code == "store-not-a-file"
    with pytest.raises(StoreError):
        world.store.put("link/new", [b"x"])
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["secret"]


def test_a_store_is_found_by_its_address(tmp_path):
    folder = tmp_path / "with space & 100%"
    FolderStore(folder).put("x", [b"1"])
    assert content(open_store(folder.as_uri()), "x") == b"1"
    with pytest.raises(UsageError, match="cannot read"):
        open_store("ftp://host/x")
