"""``cloudtune estimate``: memory, time and price on every machine; nothing is chosen, nothing has to fit.

A model instead of a recipe shows every method side by side, or is taken for a QLoRA recipe when more is asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudtune.cli.options import Json, Provider, Sets
from cloudtune.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cloudtune.memory.device import Device
    from cloudtune.recipe.load import LoadedRecipe
    from cloudtune.session import Session
    from cloudtune.verbs.estimate import Reckoning

PICTURES = (".html", ".png", ".svg")


def estimate(
    source: Annotated[
        str, typer.Argument(metavar="RECIPE|MODEL", help="The recipe, a YAML file; or a model's hub id or folder.", show_default=False)
    ],
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="For --timeline: a .html, .png or .svg file.", show_default=False)
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say in words where the peak is and what would lower it.")] = False,
    timeline: Annotated[bool, typer.Option("--timeline", help="Draw memory over the run, here or into FILE.")] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Trace the model's own code with an installed torch; knows every architecture.")
    ] = False,
    longest: Annotated[bool, typer.Option("--longest", help="The longest data.max_length that one GPU holds.")] = False,
    largest_batch: Annotated[bool, typer.Option("--largest-batch", help="The biggest micro batch that one GPU holds.")] = False,
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="NAME", help="Only GPUs with this in their name, such as L4; for --longest also: all.")
    ] = None,
    provider: Provider = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Estimate and print."""
    from cloudtune.session import Session

    if file is not None and source.endswith(PICTURES):  # --timeline FILE RECIPE
        source, file = str(file), Path(source)
    _check(file, timeline=timeline, exact=exact, others=explain or longest or largest_batch)
    with Session.open() as session:
        loaded, bare = _load(source, sets or ())
        if exact:
            _trace(loaded, session, provider=provider, gpu=gpu, as_json=as_json)
        elif bare and not (explain or timeline or longest or largest_batch):
            _methods(loaded, session, provider=provider, gpu=gpu, as_json=as_json)
        elif longest or largest_batch:
            _limits(loaded, session, provider=provider, gpu=gpu, wanted=(longest, largest_batch), as_json=as_json)
        else:
            _report(loaded, session, provider=provider, gpu=gpu, wanted=(explain, timeline), file=file, as_json=as_json)


def _check(file: Path | None, *, timeline: bool, exact: bool, others: bool) -> None:
    if file is not None and not timeline:
        raise UsageError(f"{file} is one argument too many", hint="a picture is drawn with: cloudtune estimate RECIPE --timeline FILE")
    if file is not None and file.suffix not in PICTURES:
        raise UsageError(f"pictures are written as {', '.join(PICTURES)}", where=str(file), hint="without a file it is drawn here")
    if exact and (timeline or others):
        raise UsageError("--exact answers with the peak alone", hint="leave the other questions out, or leave --exact out")


def _load(source: str, sets: Sequence[str]) -> tuple[LoadedRecipe, bool]:
    """The recipe; for a model one that holds nothing else, and True."""
    from cloudtune.cli.bare import base_of
    from cloudtune.recipe.load import load_text
    from cloudtune.recipe.locations import is_builtin
    from cloudtune.verbs.validate import validate

    path, base = Path(source), base_of(source)
    if base is None and (path.suffix in (".yaml", ".yml") or path.is_file() or not (is_builtin(source) or "/" in source)):
        return validate(path, overrides=sets), False
    text = BARE.format(base=base or source)
    return load_text(text, file=f"<{source}>", overrides=sets), not any(item.startswith("method") for item in sets)


BARE = """version: 1
name: estimate
model: {{base: "{base}"}}
method: {{type: qlora}}
data: {{train: [{{path: any/rows, format: text}}], max_length: 2048}}
training: {{batch_size: 1}}
"""


def _methods(loaded: LoadedRecipe, session: Session, *, provider: str | None, gpu: str | None, as_json: bool) -> None:
    from cloudtune.show.sizing import method_lines
    from cloudtune.verbs.estimate import with_gpu
    from cloudtune.verbs.plan import gather
    from cloudtune.verbs.sizing import sizes

    found = sizes(with_gpu(gather(loaded, provider=provider, session=session), gpu))
    _give(found, method_lines, as_json=as_json)


def _limits(
    loaded: LoadedRecipe, session: Session, *, provider: str | None, gpu: str | None, wanted: tuple[bool, bool], as_json: bool
) -> None:
    """For the card of the best machine, or for those named."""
    from cloudtune.show.sizing import limit_lines
    from cloudtune.verbs.estimate import reckoning, with_gpu
    from cloudtune.verbs.plan import gather
    from cloudtune.verbs.sizing import every_device, limits

    longest, largest_batch = wanted
    devices: tuple[Device, ...]
    if gpu is None:
        known = reckoning(loaded, provider=provider, session=session)
        question, devices = known.question, (known.device,)
    else:
        question = with_gpu(gather(loaded, provider=provider, session=session), None if gpu == "all" else gpu)
        devices = every_device(question)
    found = limits(question, devices, longest=longest, largest_batch=largest_batch)
    _give({"model": loaded.recipe.model.base, "limits": found}, limit_lines, as_json=as_json, values=(loaded.recipe, found))


def _trace(loaded: LoadedRecipe, session: Session, *, provider: str | None, gpu: str | None, as_json: bool) -> None:
    from cloudtune.show.sizing import traced_lines
    from cloudtune.verbs.sizing import traced

    _give(traced(loaded, provider=provider, session=session, gpu=gpu), traced_lines, as_json=as_json)


def _report(
    loaded: LoadedRecipe,
    session: Session,
    *,
    provider: str | None,
    gpu: str | None,
    wanted: tuple[bool, bool],
    file: Path | None,
    as_json: bool,
) -> None:
    from cloudtune.cli.output import json_result, result
    from cloudtune.show.tables import estimate_lines
    from cloudtune.show.text import stdout_page
    from cloudtune.verbs.estimate import reckoning

    explain, timeline = wanted
    known = reckoning(loaded, provider=provider, session=session, gpu=gpu)
    said = known.explanation() if explain else ()
    curve = known.timeline() if timeline else None
    if file is not None:
        _draw(known, file, said)
    if as_json:
        body = {**known.report.model_dump(mode="json"), **({"explanation": said} if explain else {})}
        json_result(body if curve is None else {**body, "timeline": curve})
        return
    page = stdout_page()
    lines = estimate_lines(known.report, page)
    if explain:
        from cloudtune.show.sizing import explanation_lines

        lines += ["", *explanation_lines(said, page)]
    if curve is not None and file is None:
        from cloudtune.show.timeline import timeline_lines

        lines += ["", *timeline_lines(curve, page, _title(known))]
    result(lines)


def _title(known: Reckoning) -> str:
    report = known.report
    size = f"micro batch {report.layout.micro_batch_size}, {known.recipe.data.max_length:,} tokens"
    return f"{report.model}: {report.method}, {size}, {report.device}"


def _draw(known: Reckoning, file: Path, said: Sequence[str]) -> None:
    """The timeline as a file of the kind that its name says."""
    from cloudtune.cli.output import chatter, write_bytes

    curve, title = known.timeline(), _title(known)
    if file.suffix == ".png":
        from cloudtune.show.timeline_png import png

        write_bytes(file, png(curve, title))
    else:
        from cloudtune.show.timeline_html import html_page, svg

        text = html_page(curve, title, said or known.explanation()) if file.suffix == ".html" else svg(curve, title)
        write_bytes(file, text.encode())
    chatter(f"written to {file}")


def _give(value: Any, lines: Any, *, as_json: bool, values: tuple[Any, ...] | None = None) -> None:
    """As one JSON object, or as the lines that ``lines`` makes of it."""
    from cloudtune.cli.output import json_result, result
    from cloudtune.show.text import stdout_page

    if as_json:
        json_result(value)
    else:
        result(lines(*(values or (value,)), stdout_page()))
