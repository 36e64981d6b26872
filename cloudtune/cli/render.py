"""``cloudtune render``: what a job is built from, the request that would be sent, or a notebook. Builds and sends nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cloudtune.cli.options import Json, Provider, Sets
from cloudtune.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cloudtune.planning.plan import Plan
    from cloudtune.session import Session

Target = Literal["bundle", "request", "colab"]


def render(
    source: Annotated[Path, typer.Argument(metavar="RECIPE|PLAN", help="A recipe, or a plan saved with plan -o.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder of the bundle (default: build/NAME), or file of the request or notebook."),
    ] = None,
    target: Annotated[
        Target, typer.Option("--target", help="bundle: build context and job.json; request: the body for the provider; colab: a notebook.")
    ] = "bundle",
    provider: Provider = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Render one target."""
    from cloudtune.cli.planning import recipe_or_plan
    from cloudtune.session import Session

    with Session.open() as session:
        if target == "colab":
            _colab(_colab_plan(source, provider, sets or (), session), output, as_json)
            return
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


def _colab_plan(source: Path, provider: str | None, sets: Sequence[str], session: Session) -> Plan:
    """A recipe is planned for Colab's machines; a saved plan is taken as it is."""
    from cloudtune.cli.planning import recipe_or_plan
    from cloudtune.verbs.notebook import colab_plan
    from cloudtune.verbs.validate import validate

    if provider is not None:
        raise UsageError("a notebook runs on Colab whatever the provider", hint="leave it out; --set compute.instance=L4 names a GPU")
    if source.suffix == ".json":
        return recipe_or_plan(source, provider=None, sets=sets, session=session)
    return colab_plan(validate(source, overrides=sets), session=session)


def _colab(plan: Plan, output: Path | None, as_json: bool) -> None:
    from cloudtune.cli.output import json_result, result, write_text
    from cloudtune.rendering.notebook import script
    from cloudtune.verbs.notebook import make_notebook

    made = make_notebook(plan)
    path = output or Path(f"{plan.recipe.name}.ipynb")
    content = script(made.content) if path.suffix == ".py" else made.content
    write_text(path, content.decode())
    carried, bring = ([item.source.name for item in items] for items in (made.carried, made.bring))
    bring += [uri for uri in made.far if not uri.startswith("gs://")]
    if as_json:
        json_result({"file": path, "gpus": made.fits, "peak_bytes": plan.memory.peak_bytes, "carried": carried, "bring": bring})
        return
    runtime = f"a {' or '.join(made.fits)} runtime" if made.fits else "any runtime, no GPU needed"
    lines = [f"{path}  {len(content) / 1e6:.1f} MB, for {runtime}"]
    lines += [f"  it holds your data: {', '.join(carried)}"] if carried else []
    lines += [f"  to bring when it runs: {', '.join(bring)}"] if bring else []
    result(lines)


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
