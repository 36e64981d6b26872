"""The verb behind ``launch --dry-run``: the job rehearsed on this machine, for free, before a cent is spent.

    render → image → examine the user's data → shrunk model → train → SIGTERM → resume → evaluate → save → reload

The image, the contract, the data, the tokenizer and the chat template are the real ones; only the model is shrunk (same
class, few layers, small widths, random weights). Without a usable engine the same programs run as plain processes,
and the result says what that leaves unproved. Everything happens in a temporary folder; the ledger is not touched.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cloudtune.engine.client import Connection
from cloudtune.errors import CloudtuneError, UsageError
from cloudtune.recipe.examination import Defect, Examination
from cloudtune.rendering.contract import Contract, Limits, contract_of
from cloudtune.rendering.image import choose_image, ensure_image
from cloudtune.verbs.rehearsal import Rehearsal, Shortfall, proofs_of
from cloudtune.verbs.render import image_context

if TYPE_CHECKING:
    from cloudtune.engine.runner import Runner
    from cloudtune.planning.plan import Plan
    from cloudtune.session import Session

Mode = Literal["auto", "container", "process"]
MEMORY_BYTES = 6 * 2**30
MOST_CPUS = 2
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Proof:
    """One thing that was tried. ``detail`` says with what result; a failed one ends the dry run."""

    name: str
    ok: bool
    detail: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class DryRun:
    """What was proved and what was not. ``places``: a channel's path inside the job → the user's own path."""

    recipe: str
    mode: Literal["container", "process"]
    contract: Contract
    engine: str
    proofs: tuple[Proof, ...]
    unproved: tuple[str, ...]
    examination: Examination | None
    places: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    log_tail: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything that was tried worked and the data holds nothing wrong."""
        return all(proof.ok for proof in self.proofs) and not (self.examination and self.examination.wrong)

    @property
    def defects(self) -> tuple[str, ...]:
        """Each defect as ``file:line: what (how often); hint`` with the user's own path."""
        return tuple(self.located(defect) for defect in (self.examination.defects if self.examination else ()))

    def located(self, defect: Defect) -> str:
        """One defect in one line."""
        place = self.places.get(defect.channel, defect.channel)
        line = f":{defect.line}" if defect.line else ""
        more = ""
        if defect.count > 1:
            listed = ", ".join(map(str, defect.lines[1:]))
            more = f" ({defect.count} times; also on line {listed}{' …' if defect.count > len(defect.lines) else ''})"
        hint = f"; {defect.hint}" if defect.hint else ""
        return f"{place}{line}: {defect.what}{more}{hint}"


def dry_run(plan: Plan, *, session: Session, mode: Mode = "auto", progress: Say | None = None) -> DryRun:
    """Rehearse ``plan`` here; takes about a minute. ``mode``: container needs an engine, process never uses one.

    Raises CloudtuneError when the rehearsal itself cannot be set up (mode container without an engine, a failing image
    build, unreadable data); what goes wrong inside it is a failed proof of the result.
    """
    say = progress or (lambda _: None)
    began = time.monotonic()
    with _workplace() as folder, engine_here(mode, say) as (connection, engine):
        runner, image = preparing_runner(plan, connection, folder, say)
        contract = contract_of(plan.chosen.provider)
        rehearsal = Rehearsal(
            plan,
            session,
            runner,
            image,
            folder,
            contract,
            Limits(memory_bytes=MEMORY_BYTES, cpus=float(min(MOST_CPUS, os.cpu_count() or 1))),
            say,
        )
        done: list[Proof] = []
        tail: tuple[str, ...] = ()
        try:
            for name, step in proofs_of(rehearsal):
                say(name)
                at = time.monotonic()
                done.append(Proof(name, ok=True, detail=step(), seconds=time.monotonic() - at))
        except Shortfall as shortfall:
            done.append(Proof(shortfall.name, ok=False, detail=shortfall.what, seconds=time.monotonic() - at))
            tail = shortfall.log_tail
        return DryRun(
            recipe=plan.recipe.name,
            mode=runner.mode,
            contract=contract,
            engine=engine,
            proofs=tuple(done),
            unproved=rehearsal.unproved(),
            examination=rehearsal.examination,
            places=rehearsal.places(),
            seconds=time.monotonic() - began,
            log_tail=tail,
        )


@contextmanager
def _workplace() -> Iterator[Path]:
    """A temporary folder that an unprivileged user of a container can walk through."""
    with tempfile.TemporaryDirectory(prefix="cloudtune-dry-run-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@contextmanager
def engine_here(mode: Mode, say: Say) -> Iterator[tuple[Connection | None, str]]:
    """A usable engine and its sentence, or None and the reason why there is none."""
    from cloudtune.engine.probe import usable_engine

    if mode == "process":
        yield None, "plain processes, as asked"
        return
    try:
        connection = usable_engine(os.environ)
    except CloudtuneError as error:
        if mode == "container":
            raise
        say(f"no container engine: {error.what}")
        yield None, error.what
        return
    try:
        yield connection, f"{connection.kind} {connection.version} at {connection.url}"
    finally:
        connection.close()


def preparing_runner(plan: Plan, connection: Connection | None, folder: Path, say: Say) -> tuple[Runner, str]:
    """What runs the programs, and the image (empty for plain processes). Builds the cpu image when it is not there."""
    from cloudtune.engine.runner import ContainerRunner, ProcessRunner
    from cloudtune.resources import resource_dir

    if connection is None:
        if not _has_stack():
            raise UsageError(
                "without a container engine the dry run needs the training stack here",
                hint="run: pip install 'cloudtune[train]', or start docker",
                code="no-training-stack",
            )
        package = Path(__file__).resolve().parents[2]
        return ProcessRunner(folder, (resource_dir("containers") / "trainer", package)), ""
    from cloudtune.engine.builder import EngineBuilder
    from cloudtune.rendering.image import Abilities

    context = image_context("cpu", plan.cloudtune_version)
    choice = choose_image("local", "cpu", context, Abilities(engine=True))
    image = ensure_image(EngineBuilder(connection), choice.name, context, say)
    return ContainerRunner(connection, user_here(connection)), image


def user_here(connection: Connection) -> str | None:
    """``uid:gid`` for containers, so that what they write belongs to you; None where root in them is you already."""
    return None if os.getuid() == 0 or connection.rootless else f"{os.getuid()}:{os.getgid()}"


def _has_stack() -> bool:
    from importlib.util import find_spec

    return all(find_spec(name) is not None for name in ("torch", "transformers", "peft", "accelerate"))
