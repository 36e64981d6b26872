"""The verb ``rehearse``: a whole launch against a local stand-in of the plan's cloud, through to an adapter that loads.

    small job → stand-in → launch (checks, upload, submit) → log → spot interruption → resume → collect → load

Launcher, request, provider and supervisor are the real ones, and so are the cloud's own client libraries: they are pointed
at the stand-in by environment variables alone. Everything lies in a temporary folder, the user's ledger is not touched, and
nothing is spent. What it leaves unproved is part of the result.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cloudtune.job import new_launch_id
from cloudtune.session import Session
from cloudtune.settings import Settings
from cloudtune.standins.registry import open_cloud, standin
from cloudtune.verbs.dryrun import Proof, engine_here, preparing_runner, user_here
from cloudtune.verbs.loading import Load, load_here, load_in
from cloudtune.verbs.rehearsal import Shortfall
from cloudtune.verbs.small import Small, SmallStager, make_small
from cloudtune.verbs.walk import Walk, steps_of

if TYPE_CHECKING:
    from cloudtune.engine.client import Connection
    from cloudtune.planning.plan import Plan
    from cloudtune.standins.runner import Runner

Mode = Literal["process", "container"]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What was proved and what was not. ``machine``: as the plan names it."""

    recipe: str
    launch_id: str
    provider: str
    cloud: str
    machine: str
    mode: Mode
    proofs: tuple[Proof, ...]
    unproved: tuple[str, ...]
    seconds: float
    log_tail: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything that was tried worked."""
        return all(proof.ok for proof in self.proofs)


def rehearse(
    plan: Plan, *, session: Session, mode: Mode = "process", launch_id: str | None = None, progress: Say | None = None
) -> Rehearsed:
    """Rehearse ``plan`` against the stand-in of its provider; takes one to five minutes.

    Raises CloudtuneError when the rehearsal itself cannot be set up: no stand-in for the provider, an extra that is not
    installed, no engine in mode container. What goes wrong inside it is a failed proof of the result.
    """
    say = progress or (lambda _: None)
    entry = standin(plan.chosen.provider)
    began = time.monotonic()
    done: list[Proof] = []
    tail: tuple[str, ...] = ()
    unproved: tuple[str, ...] = ()
    name = launch_id or new_launch_id(plan.recipe.name)
    with _workplace() as folder, engine_here("process" if mode == "process" else "container", say) as (connection, _):
        prepared = folder / "small"
        prepared.mkdir()
        preparing, image = preparing_runner(plan, connection, prepared, say)
        step = "small job"
        at = time.monotonic()
        try:
            small = make_small(plan, session=session, runner=preparing, image=image, folder=prepared, say=say)
            done.append(Proof(step, ok=True, detail=small.detail, seconds=time.monotonic() - at))
            runner, load = _runner(connection, image, session.settings.cache)
            cannot = entry.unproved if mode == "process" else (*entry.unproved, *entry.unproved_in_containers)
            unproved = _unproved(plan, mode, small, cannot)
            with _walk(small, runner, folder, session, name, load, say) as walk:
                for step, action in steps_of(walk):
                    say(step)
                    at = time.monotonic()
                    done.append(Proof(step, ok=True, detail=action(), seconds=time.monotonic() - at))
        except Shortfall as shortfall:
            done.append(Proof(step, ok=False, detail=shortfall.what, seconds=time.monotonic() - at))
            tail = shortfall.log_tail
    chosen = plan.chosen
    machine = f"{chosen.instance}, {chosen.purchase.replace('_', ' ')}, in {chosen.region}"
    return Rehearsed(
        plan.recipe.name, name, chosen.provider, entry.name, machine, mode, tuple(done), unproved, time.monotonic() - began, tail
    )


@contextmanager
def _walk(small: Small, runner: Runner, folder: Path, session: Session, name: str, load: Load, say: Say) -> Iterator[Walk]:
    """A launcher of its own, with a home of its own, whose cloud is the stand-in."""
    provider, region = small.plan.chosen.provider, small.plan.chosen.region
    with (
        open_cloud(provider, folder / "cloud", region, runner) as cloud,
        environment({**cloud.environment, "CLOUDTUNE_CACHE": str(session.settings.cache)}, standin(provider).login),
    ):
        settings = Settings.load(
            cwd=folder, flags={"home": str(folder / "home"), "cache": str(session.settings.cache)}, environ=dict(os.environ)
        )
        with Session.open(settings) as ours:
            place = ours.place(provider)
            stager = SmallStager(place.stager, small)
            with Session(settings, ours.clock, places={provider: replace(place, stager=stager)}) as walking:
                yield Walk(small, walking, cloud, stager, name, folder, say, load)


@contextmanager
def environment(values: Mapping[str, str], login: tuple[str, ...]) -> Iterator[None]:
    """The process's environment with ``values`` and without the user's own login to the cloud; put back afterwards."""
    before = dict(os.environ)
    for name in [name for name in before if name.startswith(login)]:
        del os.environ[name]
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _runner(connection: Connection | None, image: str, cache: Path) -> tuple[Runner, Load]:
    """What the stand-in's machines run a job with, and what loads its result."""
    from cloudtune.rendering.container import Mount
    from cloudtune.rendering.contract import CACHE_DIR
    from cloudtune.standins.container import ContainerRunner
    from cloudtune.standins.runner import ProcessRunner

    if connection is None:
        return ProcessRunner(), load_here
    cache.mkdir(parents=True, exist_ok=True)
    user = user_here(connection)
    mounts = (Mount(cache, CACHE_DIR),)
    runner = ContainerRunner(connection.url, image, user=user, env={"CLOUDTUNE_CACHE": CACHE_DIR}, mounts=mounts)
    return runner, load_in(connection, image, user, cache)


@contextmanager
def _workplace() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cloudtune-rehearsal-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def _unproved(plan: Plan, mode: Mode, small: Small, cloud: tuple[str, ...]) -> tuple[str, ...]:
    chosen, layout = plan.chosen, plan.layout
    found = list(cloud)
    if mode == "process":
        found.append("the image: the job ran as plain processes of this machine, with its own Python packages")
    found.append(f"GPU, driver, memory and speed of {chosen.instance}: the job ran on the CPU")
    if layout.nodes * max(1, layout.gpus) > 1:
        found.append(f"{layout.nodes} x {layout.gpus} GPUs together: one process was run")
    if chosen.purchase != "spot":
        found.append("an interruption: only spot machines are taken away, and the plan's are bought on demand")
    return tuple(dict.fromkeys([*found, *(one for one in small.unproved if one not in found)]))


def require_cloud(provider: str | None) -> None:
    """Raises UsageError for a provider without a stand-in, before a plan is made for it."""
    if provider is not None and provider != "auto":
        standin(provider)
