"""``cloudtune catalog``: machines and their prices; fetch newer ones, and see what they change."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from cloudtune.cli.options import Json


def catalog(
    action: Annotated[
        Literal["list", "show", "refresh", "diff"],
        typer.Argument(help="list: offers; show: one machine type; refresh: fetch prices; diff: fetched against shipped prices."),
    ] = "list",
    instance: Annotated[str | None, typer.Argument(metavar="[INSTANCE]", help="The machine type for show, such as ml.g5.2xlarge.")] = None,
    provider: Annotated[Literal["aws", "gcp"] | None, typer.Option("--provider", help="Only this cloud.")] = None,
    region: Annotated[str | None, typer.Option("--region", help="Only this region; for refresh, the region to ask for.")] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="Only GPUs with this in their name.")] = None,
    url: Annotated[
        str | None, typer.Option("--url", help="For refresh: another address of --provider's price list; {region} is filled in.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show or refresh the catalog."""
    from cloudtune.errors import UsageError
    from cloudtune.session import Session
    from cloudtune.verbs import catalog as verb

    session = Session.open()
    if action == "refresh":
        done = verb.refresh(session, provider=provider, regions=(region,) if region else (), url=url)
        _give("refreshed", done, "refreshed_lines", as_json=as_json)
    elif action == "diff":
        _give("differences", verb.diff(session, provider=provider), "difference_lines", as_json=as_json)
    else:
        if action == "show" and instance is None:
            raise UsageError("show needs a machine type", hint="such as: cloudtune catalog show ml.g5.2xlarge")
        offers = verb.list_offers(session, provider=provider, region=region, gpu=gpu, instance=instance)
        _give("offers", offers, "offer_lines", as_json=as_json)


def _give(name: str, values: tuple[Any, ...], lines: str, *, as_json: bool) -> None:
    """Print the values: as one JSON object, or as the lines that the function ``lines`` of show/catalog.py makes of them."""
    from cloudtune.cli.output import json_result, result

    if as_json:
        json_result({name: values})
        return
    from cloudtune.show import catalog as shown
    from cloudtune.show.text import stdout_page

    result(getattr(shown, lines)(values, stdout_page()))
