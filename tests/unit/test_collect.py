"""Collecting: only what the manifest names, each file checked, nothing outside the destination touched.

The jobs are scripted, the files and folders real. A hostile trainer may write any manifest, plant any link or special
file beside it, and somebody may have planted things in the destination.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cloudtune.clock import SystemClock
from cloudtune.errors import StoreError, UsageError
from cloudtune.job import JobState
from cloudtune.providers.scripted import Scene, ScriptedJobs, ScriptedState
from cloudtune.stores.destination import INCOMING, Wanted, opened_destination
from cloudtune.stores.names import check_paths
from cloudtune.verbs.collect import MANIFEST_LIMIT, collect
from cloudtune.verbs.jobs import status
from cloudtune.verbs.launch import launch
from tests import builders

JOB = "bot-abc"


def artifact(path, content=b"data"):
    return {"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


class World:
    """A finished job whose outputs lie in ``source``, and the folder it is collected into."""

    def __init__(self, folder, last=ScriptedState.DONE):
        self.source = folder / "job" / "model"
        self.source.mkdir(parents=True)
        self.folder = folder
        self.to = folder / "results" / JOB
        self.to.parent.mkdir()
        self.secret = folder / "secret"
        self.secret.write_text("do not touch")
        scene = Scene(last, outputs=self.address(), message="it broke")
        self.session = builders.scripted_session(folder / "home", ScriptedJobs(SystemClock(), [scene]))
        launch(builders.scripted_plan(folder), session=self.session, launch_id=JOB)

    def address(self):
        return self.source.as_uri()

    def files(self, **contents):
        for name, content in contents.items():
            path = self.source / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def manifest(self, *artifacts, **changes):
        body = {
            "outcome": "complete", "launch_id": JOB, "recipe_name": "bot", "method": "lora", "base_model": "b", "steps": 5,
            "total_steps": 5, "epochs": 1.0, "seconds": 1.0, "versions": {}, "artifacts": list(artifacts),
            "peak_memory": {"device": "cpu", "host_rss_bytes": 7}, "predicted_peak_bytes": 8,
        }  # fmt: skip
        (self.source / "manifest.json").write_text(json.dumps({**body, **changes}))

    def collect(self):
        return collect(JOB, session=self.session, to=self.to)

    def refused(self, code):
        """Collect must refuse with ``code`` and leave everything outside the destination as it is."""
        before = snapshot(self.folder, leave_out=(self.to, self.folder / "home"))
        with pytest.raises(StoreError) as caught:
            self.collect()
        assert caught.value.code == code, caught.value
        assert snapshot(self.folder, leave_out=(self.to, self.folder / "home")) == before
        assert status(JOB, self.session).state is not JobState.COLLECTED
        return caught.value

    def landed(self):
        return sorted(path.relative_to(self.to).as_posix() for path in self.to.rglob("*") if not path.is_dir())


def snapshot(folder, leave_out):
    """Every path below ``folder`` with its kind, size, owner bits and content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if any(path == left or left in path.parents for left in leave_out):
            continue
        facts = path.lstat()
        plain = path.is_file() and not path.is_symlink()
        found[str(path)] = (facts.st_mode, facts.st_size, facts.st_nlink if plain else 0, path.read_bytes() if plain else b"")
    return found


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.session.close()


def test_exactly_what_the_manifest_names_comes_home(world):
    world.files(adapter__weights=b"w" * 3_000_000, adapter__config=b"{}", empty=b"", stray=b"not named")
    world.manifest(artifact("adapter/weights", b"w" * 3_000_000), artifact("adapter/config", b"{}"), artifact("empty", b""))
    done = world.collect()
    assert world.landed() == ["adapter/config", "adapter/weights", "empty", "manifest.json"]
    assert (done.fetched_bytes, done.partial, done.manifest.steps) == (3_000_002, False, 5)
    assert (world.to / "manifest.json").read_bytes() == (world.source / "manifest.json").read_bytes()
    assert not (world.to / INCOMING).exists()
    view = status(JOB, world.session)
    assert (view.state, view.collected_to) == (JobState.COLLECTED, str(world.to))
    measured = next(event for event in world.session.ledger.events() if event.kind == "measured")
    assert measured.body["predicted_peak_bytes"] == 8
    assert measured.body["peak_memory"]["host_rss_bytes"] == 7


def test_collecting_again_fetches_what_is_missing_or_damaged(world):
    world.files(a=b"aa", b=b"bb", c=b"cc")
    world.manifest(artifact("a", b"aa"), artifact("b", b"bb"), artifact("c", b"cc"))
    assert world.collect().fetched_bytes == 6
    assert world.collect().fetched_bytes == 0
    (world.to / "b").unlink()
    (world.to / "c").write_bytes(b"XX")
    assert world.collect().fetched_bytes == 4
    assert (world.to / "c").read_bytes() == b"cc"


def folders_and_manifest(work):
    """In the order in which it happens: the folders whose names ``work`` brings onto the disk, and "manifest" when that gets its name."""
    order = []

    def note(frame, event, called):
        if event == "c_call" and called is os.fsync:
            order.append(Path(f"/proc/self/fd/{frame.f_locals['folder']}").readlink())
        elif event == "c_call" and called is os.rename and frame.f_locals["path"] == "manifest.json":
            order.append("manifest")

    sys.setprofile(note)  # nothing is replaced: the interpreter tells which calls are made
    try:
        work()
    finally:
        sys.setprofile(None)
    return order


def test_names_are_on_the_disk_before_the_manifest_says_that_all_is_there(world):
    """After a power cut a manifest beside missing files would be taken for a whole result. A new folder is a name too."""
    world.files(adapter__deep__weights=b"w", empty=b"")
    world.manifest(artifact("adapter/deep/weights", b"w"), artifact("empty", b""))
    order = folders_and_manifest(world.collect)
    at = order.index("manifest")
    assert set(order[:at]) == {world.to, world.to / "adapter", world.to / "adapter" / "deep"}
    assert order[at + 1 :] == [world.to]


def test_an_interrupted_file_is_gone_on_with(world, tmp_path):
    content = os.urandom(5_000_000)
    world.files(big=content)
    world.manifest(artifact("big", content))
    part = world.to / INCOMING / hashlib.sha256(content).hexdigest()
    part.parent.mkdir(parents=True)
    part.write_bytes(content[:3_000_001])
    offsets = []

    def fetch(start):
        offsets.append(start)
        return iter([content[start:]])

    with opened_destination(world.to) as destination:
        destination.receive(Wanted("big", len(content), hashlib.sha256(content).hexdigest()), fetch)
    assert offsets == [3_000_001]
    assert (world.to / "big").read_bytes() == content


@pytest.mark.parametrize("part", [b"XX", b"X" * 100], ids=["wrong", "too-long"])
def test_a_part_that_does_not_belong_is_done_over(world, part):
    world.files(big=b"0123456789")
    world.manifest(artifact("big", b"0123456789"))
    place = world.to / INCOMING / hashlib.sha256(b"0123456789").hexdigest()
    place.parent.mkdir(parents=True)
    place.write_bytes(part)
    world.collect()
    assert (world.to / "big").read_bytes() == b"0123456789"


BAD_PATHS = {
    "absolute": "/etc/passwd",
    "climbs": "../outside",
    "climbs-inside": "a/../../outside",
    "dot": "./a",
    "double-slash": "a//b",
    "trailing-slash": "a/",
    "empty": "",
    "backslash": "..\\outside",
    "drive": "C:/windows",
    "drive-relative": "c:x",
    "nul": "a\0b",
    "line-end": "a\nb",
    "invisible": "a\u202eb",
    "device": "CON",
    "device-with-ending": "logs/nul.txt",
    "trailing-dot": "a.",
    "trailing-space": "a ",
    "stream": "a:b",
    "wildcard": "a*",
    "long-name": "x" * 256,
    "long-path": "/".join(["x" * 100] * 12),
    "manifest": "manifest.json",
    "manifest-by-case": "Manifest.JSON",
    "incoming": f"{INCOMING}/x",
}


@pytest.mark.parametrize("path", BAD_PATHS.values(), ids=BAD_PATHS)
def test_a_path_that_is_not_plainly_inside_is_refused(world, path):
    world.manifest(artifact("good"), artifact(path))
    world.files(good=b"data")
    world.refused("store-bad-path")
    assert not world.to.exists(), "names are checked before anything is made"


COLLISIONS = {
    "twice": ["a", "a"],
    "case": ["model.bin", "Model.bin"],
    "case-of-a-folder": ["Adapter/a", "adapter/b"],
    "accents": ["caf\u00e9", "cafe\u0301"],
    "ligature": ["\ufb01le", "file"],
    "sharp-s": ["stra\u00dfe", "strasse"],
    "file-and-folder": ["a", "a/b"],
    "file-and-folder-by-case": ["A", "a/b"],
    "deep": ["x/y/z", "x/Y/w"],
}


@pytest.mark.parametrize("paths", COLLISIONS.values(), ids=COLLISIONS)
@pytest.mark.parametrize("order", [1, -1])
def test_names_that_collide_somewhere_are_refused(world, paths, order):
    world.manifest(*(artifact(path) for path in paths[::order]))
    world.refused("store-collision")
    assert not world.to.exists()


def test_ordinary_names_are_accepted():
    check_paths(["a", "b/a", "b/c.d-e_f", "adapter/model-00001-of-00002.safetensors", ".hidden", "naïve/файл", "console", "b/con_fig"])


def link(world, path):
    (world.source / path).symlink_to(world.secret)


def hard_link(world, path):
    os.link(world.secret, world.source / path)


def pipe(world, path):
    os.mkfifo(world.source / path)


def folder(world, path):
    (world.source / path).mkdir()


def device(world, path):
    try:
        os.mknod(world.source / path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero, which never ends
    except OSError as error:
        if error.errno == errno.EPERM:
            pytest.skip("devices need root")
        raise


def unix_socket(world, path):
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(world.source)
        server.bind(path)


@pytest.mark.parametrize("plant", [link, hard_link, pipe, folder, device, unix_socket])
def test_something_that_is_no_plain_file_is_never_read(world, plant, monkeypatch):
    monkeypatch.chdir(world.folder)
    plant(world, "bad")
    world.manifest(artifact("bad", b"do not touch"))
    world.refused("store-not-a-file")
    assert world.landed() == []


def test_a_linked_folder_on_the_way_is_not_followed(world):
    (world.folder / "elsewhere").mkdir()
    (world.folder / "elsewhere" / "x").write_text("secret")
    (world.source / "sub").symlink_to(world.folder / "elsewhere")
    world.manifest(artifact("sub/x", b"secret"))
    world.refused("store-not-a-file")


def test_a_linked_manifest_is_not_followed(world):
    world.manifest(artifact("a"))
    (world.source / "manifest.json").rename(world.folder / "elsewhere.json")
    (world.source / "manifest.json").symlink_to(world.folder / "elsewhere.json")
    world.refused("store-not-a-file")


def test_a_source_that_is_itself_a_link_is_not_followed(world):
    world.manifest(artifact("a"))
    world.source.rename(world.folder / "moved")
    world.source.symlink_to(world.folder / "moved")
    world.refused("store-not-a-file")


def test_a_linked_folder_in_the_destination_is_not_followed(world):
    (world.folder / "elsewhere").mkdir()
    world.to.mkdir(parents=True)
    (world.to / "sub").symlink_to(world.folder / "elsewhere")
    world.files(sub__x=b"data")
    world.manifest(artifact("sub/x"))
    world.refused("store-not-a-file")
    assert list((world.folder / "elsewhere").iterdir()) == []


PLANTS = {
    "link": lambda place, secret: place.symlink_to(secret),
    "hard-link": lambda place, secret: os.link(secret, place),
    "pipe": lambda place, _secret: os.mkfifo(place),
    "folder": lambda place, _secret: place.mkdir(),
}


@pytest.mark.parametrize("planted", PLANTS)
@pytest.mark.parametrize("where", ["name", "part"])
def test_nothing_planted_in_the_destination_is_written_through(world, planted, where):
    """Neither under the file's own name nor under the name of its part."""
    place = world.to / "x" if where == "name" else world.to / INCOMING / hashlib.sha256(b"data").hexdigest()
    place.parent.mkdir(parents=True)
    PLANTS[planted](place, world.secret)
    world.files(x=b"data")
    world.manifest(artifact("x"))
    world.refused("store-not-a-file")
    assert world.secret.read_text() == "do not touch"


def test_a_destination_that_is_a_link_is_not_followed(world):
    (world.folder / "elsewhere").mkdir()
    world.to.symlink_to(world.folder / "elsewhere")
    world.files(x=b"data")
    world.manifest(artifact("x"))
    with pytest.raises(StoreError):
        world.collect()
    assert list((world.folder / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("there", "code"), [(b"DATA", "store-digest"), (b"dat", "store-truncated"), (b"data and more", "store-grown"), (b"", "store-truncated")]
)
def test_a_file_that_is_not_what_the_job_wrote_is_refused(world, there, code):
    world.files(x=there, y=b"good")
    world.manifest(artifact("y", b"good"), artifact("x", b"data"))
    error = world.refused(code)
    assert error.where == "x"
    assert "manifest.json" not in world.landed(), "the manifest comes last, so its presence means that all is there"
    assert "x" not in world.landed()


def test_a_file_that_never_ends_is_cut_off_at_its_size(world):
    """A file that grows while it is read must not fill the disk."""
    read = []

    def endless(start):
        while True:
            read.append(1)
            yield b"x" * 1000

    with opened_destination(world.to) as destination, pytest.raises(StoreError) as caught:
        destination.receive(Wanted("x", 2500, "0" * 64), endless)
    assert caught.value.code == "store-grown"
    assert len(read) == 3


def test_a_missing_file_is_named(world):
    world.manifest(artifact("gone/away"))
    error = world.refused("store-missing")
    assert error.where == "gone/away"


BAD_MANIFESTS = {
    "not-json": b"{",
    "not-an-object": b"[]",
    "no-fields": b"{}",
    "not-utf8": b"\xff\xfe",
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("text", BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_a_malformed_manifest_is_refused(world, text):
    (world.source / "manifest.json").write_bytes(text)
    world.refused("bad-manifest")


@pytest.mark.parametrize(
    "change",
    [{"launch_id": "other-abc"}, {"contract": 2}, {"artifacts": [{"path": "a", "bytes": -1, "sha256": "0" * 64}]},
     {"artifacts": [{"path": "a", "bytes": 1, "sha256": "../../x"}]}, {"artifacts": "a"}, {"outcome": "fine"}],
    ids=["another-job", "another-contract", "negative-size", "digest-as-path", "no-list", "unknown-outcome"],
)  # fmt: skip
def test_a_manifest_that_says_impossible_things_is_refused(world, change):
    world.manifest(**change)
    world.refused("bad-manifest")


def test_an_endless_manifest_is_refused(world):
    """Also one that would be good JSON."""
    world.files(x=b"data")
    world.manifest(artifact("x"))
    with (world.source / "manifest.json").open("ab") as file:
        file.write(b" " * MANIFEST_LIMIT)
    assert "larger than" in world.refused("bad-manifest").what


def test_a_manifest_with_too_many_files_is_refused(world):
    world.manifest(*({"path": f"f{n}", "bytes": 0, "sha256": "0" * 64} for n in range(100_001)))
    world.refused("bad-manifest")


def test_more_than_the_disk_holds_is_refused_before_anything_is_fetched(world):
    world.files(x=b"data")
    world.manifest(artifact("x"), {"path": "huge", "bytes": 1 << 60, "sha256": "0" * 64})
    world.refused("store-disk-full")
    assert world.landed() == []


def test_two_collectors_do_not_mix(world):
    world.files(x=b"data")
    world.manifest(artifact("x"))
    with opened_destination(world.to):
        world.refused("store-busy")


def test_a_kill_while_collecting_leaves_whole_files_only(world):
    """A collector is killed again and again; what has its name is whole, and the last run completes the rest."""
    contents = {f"f{n}": os.urandom(300_000) for n in range(12)}
    world.files(**contents)
    world.manifest(*(artifact(name, content) for name, content in contents.items()))
    for attempt in range(6):
        pid = os.fork()
        if pid == 0:
            try:
                with opened_destination(world.to) as destination:
                    for name, content in contents.items():
                        wanted = Wanted(name, len(content), hashlib.sha256(content).hexdigest())
                        if not destination.has(wanted):
                            destination.receive(
                                wanted, lambda start, content=content: iter([content[start : start + 100_000], content[start + 100_000 :]])
                            )
            finally:
                os._exit(0)
        SystemClock().sleep(0.002 * (attempt + 1))
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        for path in world.to.glob("f*"):
            assert path.read_bytes() == contents[path.name]
    world.collect()
    assert world.landed() == sorted([*contents, "manifest.json"])


def test_a_running_job_is_not_collected(tmp_path):
    world = World(tmp_path, last=ScriptedState.WORKING)
    with pytest.raises(UsageError, match="running"):
        world.collect()
    world.session.close()


def test_an_interrupted_manifest_comes_home_as_partial(tmp_path):
    world = World(tmp_path, last=ScriptedState.ENDED)
    world.files(x=b"data")
    world.manifest(artifact("x"), outcome="interrupted")
    done = world.collect()
    assert (done.partial, done.goes_on) == (True, False)  # it was stopped: launching it again is asking for the same, ended job
    assert status(JOB, world.session).state is JobState.STOPPED
    world.session.close()


def test_a_failed_job_gives_its_log_metrics_and_reason(tmp_path):
    with builders.session(tmp_path / "home", ["--fail-at", "3", "--steps", "5"]) as session:
        launch(builders.plan(tmp_path), session=session, launch_id=JOB)
        while not status(JOB, session).ended:
            SystemClock().sleep(0.05)
        done = collect(JOB, session=session, to=tmp_path / "out")
        assert done.partial
        assert done.files == ("failure", "log.txt", "metrics.jsonl")
        assert [entry.path for entry in done.left_there] == ["checkpoints/step"]
        assert (tmp_path / "out/log.txt").read_text() == "step 1 of 5\nstep 2 of 5\nstep 3 of 5\n"
        assert (tmp_path / "out/failure").read_text().startswith("the data ran dry")
        assert len((tmp_path / "out/metrics.jsonl").read_text().splitlines()) == 3
        assert status(JOB, session).state is JobState.FAILED


def test_a_checkpoint_that_changes_while_it_is_fetched_is_refused(tmp_path):
    """Nothing but its size in the list vouches for it; what is not whole gets no name."""
    with builders.session(tmp_path / "home", ["--fail-at", "3", "--steps", "5"]) as session:
        launch(builders.plan(tmp_path), session=session, launch_id=JOB)
        while not status(JOB, session).ended:
            SystemClock().sleep(0.05)
        (there,) = (tmp_path / "home").rglob("checkpoints/step")
        there.write_bytes(b"weights")
        assert "checkpoints/step" in collect(JOB, session=session, to=tmp_path / "whole", checkpoints=True).files
        with pytest.raises(StoreError, match="has 3 bytes, 7 were listed"):
            collect(JOB, session=session, to=tmp_path / "cut", checkpoints=True, progress=lambda _: os.truncate(there, 3))
        assert not list((tmp_path / "cut").rglob("checkpoints/*"))


def test_results_go_to_the_folder_of_the_recipe(tmp_path, monkeypatch):
    """Relative to the folder in which the job was launched, also when it is collected from another."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    with builders.session(tmp_path / "home", []) as session:
        launch(builders.plan(tmp_path, output={"dir": "./results"}), session=session, launch_id=JOB)
        while not status(JOB, session).ended:
            SystemClock().sleep(0.05)
        monkeypatch.chdir(tmp_path)
        done = collect(JOB, session=session)
    assert done.folder == tmp_path / "project" / "results" / JOB
    assert (done.folder / "manifest.json").exists()


def test_a_full_destination_says_so_and_goes_on_later(world):
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    world.to.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(world.to)], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let us mount a small disk")
    try:
        content = os.urandom(300_000)
        wanted = Wanted("big", len(content), hashlib.sha256(content).hexdigest())
        with opened_destination(world.to) as destination, pytest.raises(StoreError, match="cannot be written"):
            destination.receive(wanted, lambda start: iter([content[start:]]))
        subprocess.run(["mount", "-o", "remount,size=2m", str(world.to)], check=True)
        with opened_destination(world.to) as destination:
            destination.receive(wanted, lambda start: iter([content[start:]]))
        assert (world.to / "big").read_bytes() == content
    finally:
        subprocess.run(["umount", "-l", str(world.to)], check=True)


def test_the_source_is_never_written(world):
    world.files(a=b"aa", d__b=b"bb")
    world.manifest(artifact("a", b"aa"), artifact("d/b", b"bb"))
    before = snapshot(Path(world.source), leave_out=())
    world.collect()
    assert snapshot(Path(world.source), leave_out=()) == before
