"""``cloudtune render``: what a job is built from, or the request that would be sent. Builds and sends nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cloudtune.cli.options import Json, Provider, Sets
from cloudtune.errors import UsageError

if TYPE_CHECKING:
    from cloudtune.planning.plan import Plan
    from cloudtune.session import Session

Target = Literal["bundle", "request", "colab"]


def render(
    source: Annotated[Path, typer.Argument(metavar="RECIPE|PLAN", help="A recipe, or a plan saved with plan -o.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the bundle (default: build/NAME), or file of the request.")
    ] = None,
    target: Annotated[
        Target, typer.Option("--target", help="bundle: build context and job.json; request: the body for the provider.")
    ] = "bundle",
    provider: Provider = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Render one target."""
    from cloudtune.cli.planning import recipe_or_plan
    from cloudtune.session import Session

    if target == "colab":
        raise UsageError("this version renders no notebooks", hint="--target bundle writes a folder that runs anywhere with Python")
    with Session.open() as session:
        plan = recipe_or_plan(source, provider=provider, sets=sets or (), session=session)
        if target == "bundle":
            _bundle(plan, output, as_json)
        else:
            _request(plan, session, output)


def _bundle(plan: Plan, output: Path | None, as_json: bool) -> None:
    from cloudtune.cli.output import json_result, result
    from cloudtune.verbs.render import render as make
    from cloudtune.verbs.render import write_bundle

    bundle = make(plan)
    folder = output or Path("build") / plan.recipe.name
    files = write_bundle(bundle, folder, plan)
    if as_json:
        names = sorted(path.relative_to(folder).as_posix() for path in files)
        json_result({"folder": folder, "digest": bundle.digest, "image_digest": bundle.image_digest, "files": names})
        return
    result(
        [
            f"{len(files)} files in {folder}",
            f"  bundle {bundle.digest}",
            f"  image  {bundle.image_digest}  build it with: docker build {folder}/image",
        ]
    )


def _request(plan: Plan, session: Session, output: Path | None) -> None:
    """The request is JSON by nature, so ``--json`` changes nothing."""
    from cloudtune.cli.output import chatter, json_result, write_text
    from cloudtune.show.json import to_text

    body = _request_body(plan, session)
    if output is None:
        json_result(body)
        return
    write_text(output, to_text(body))
    chatter(f"written to {output}")


def _request_body(plan: Plan, session: Session) -> dict[str, Any]:
    from cloudtune.job import LaunchId
    from cloudtune.providers.base import Staged
    from cloudtune.providers.registry import request_builder
    from cloudtune.verbs.render import render as make

    build = request_builder(plan.chosen.provider, session.settings, session.clock)
    staged = Staged(digest=make(plan).digest)
    request = build(plan, staged, LaunchId(f"{plan.recipe.name}-launch-id"))
    return {"provider": request.provider, "launch_id": request.launch_id, "body": dict(request.body)}
