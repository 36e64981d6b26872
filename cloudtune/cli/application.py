"""The Typer application: the commands by name, and the one that is asked for loaded. Raises our errors in place of Typer's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module
from typing import Annotated, Any

import typer

from cloudtune.cli.main import COMMANDS
from cloudtune.errors import CloudtuneError, UsageError


def invoke(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code. Raises CloudtuneError, and KeyboardInterrupt when it is broken off."""
    try:
        command = typer.main.get_command(build(arguments[0] if arguments else ""))
        with command.make_context("cloudtune", list(arguments) or ["--help"]) as context:
            command.invoke(context)
    except typer.Exit as ending:
        return ending.exit_code
    except typer.TyperException as error:
        raise _usage(error, arguments) from error
    except typer.Abort as error:
        raise KeyboardInterrupt(*error.args) from error
    return 0


def build(wanted: str = "") -> typer.Typer:
    """The Typer application, in which only the command ``wanted`` is loaded; the others are names with a help line."""
    app = typer.Typer(
        name="cloudtune",
        help="Fine-tune a language model from one recipe: memory, time and price before you pay, then the job itself.",
        epilog="Start with: cloudtune init, then cloudtune plan RECIPE. Exit codes and JSON: docs/cli.md",
        rich_markup_mode=None,
        add_completion=False,
        add_help_option=False,
    )
    app.callback()(_root)
    for name, text in COMMANDS.items():
        app.command(name, help=text, add_help_option=False)(_load(name) if name == wanted else _not_loaded)
    return app


def _load(name: str) -> Callable[..., Any]:
    """The command's function with ``--help`` added.

    Typer's own ``--help`` sends its empty value through pydantic whenever it is not given, which would cost every
    command 40 ms; a flag with a default does not.
    """
    function: Callable[..., Any] = getattr(import_module(f"cloudtune.cli.{name}"), name)

    @wraps(function)
    def with_help(*, show_help: bool = False, **given: Any) -> None:  # noqa: ARG001 - its callback has answered
        function(**given)

    parameters = inspect.signature(function, eval_str=True).parameters.values()
    option = inspect.Parameter("show_help", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Help)
    with_help.__signature__ = inspect.Signature([*parameters, option])  # type: ignore[attr-defined]
    with_help.__annotations__ = {**function.__annotations__, "show_help": Help}
    return with_help


def _not_loaded() -> None:
    """Stands for a command that this call does not use."""


def _print_version(wanted: bool) -> None:
    if wanted:
        import cloudtune

        typer.echo(f"cloudtune {cloudtune.__version__}")
        raise typer.Exit


def _print_help(context: typer.Context, wanted: bool) -> None:
    if wanted:
        typer.echo(context.get_help())
        raise typer.Exit


Help = Annotated[bool, typer.Option("-h", "--help", help="Show this message and exit.", is_eager=True, callback=_print_help)]


def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)] = False,
    show_help: Help = False,
) -> None:
    """Options before the command."""


def _usage(error: typer.TyperException, arguments: Sequence[str]) -> CloudtuneError:
    """Typer's complaint about the command line in our words."""
    known = arguments[0] if arguments and arguments[0] in COMMANDS else ""
    text = error.format_message().replace("Value error, ", "")  # pydantic's words inside Typer's
    if not text.startswith("No such command"):
        return UsageError(text.rstrip("."), hint=f"see: cloudtune {known} --help".replace("  ", " "))
    from difflib import get_close_matches

    near = get_close_matches(arguments[0], COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else "the commands are listed by: cloudtune --help"
    return UsageError(f"there is no command {arguments[0]!r}", hint=hint)
