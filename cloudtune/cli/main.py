"""The command ``cloudtune``: finds the command's file, runs it, and turns what happened into text and an exit code.

Only the file of the command that is asked for is imported, so that ``ps`` never waits for what ``plan`` needs.
This is the one place that catches: everything below raises CloudtuneError, anything else is a bug of ours.

Exit codes: 0 done, 1 the job failed, 2 bad input, 3 nothing fits, 4 provider or login trouble, 70 a bug of ours
(the trace is saved to a file), 130 interrupted (a job that was started goes on).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from cloudtune.errors import CloudtuneError

EXIT_BUG = 70
EXIT_INTERRUPTED = 130

# Command -> its one line in the list; the function of the same name lives in cloudtune/cli/<command>.py.
COMMANDS = {
    "init": "Write a commented recipe to start from.",
    "validate": "Check a recipe and its files, all faults at once.",
    "estimate": "Memory, time and price on every machine.",
    "plan": "Choose machine and layout; show what it will cost.",
    "render": "Write a build context, the request, or a notebook.",
    "launch": "Plan, ask, start, follow, and bring the result home.",
    "rehearse": "Walk through a whole launch on a local stand-in of the cloud; spends nothing.",
    "ps": "List jobs: the active ones and the newest 20.",
    "status": "Everything known of one job.",
    "logs": "Print a job's log; -f follows it.",
    "stop": "End a job and keep its partial results.",
    "collect": "Bring a job's files home and check them.",
    "cost": "What jobs have cost so far.",
    "reconcile": "Settle what a crash left open.",
    "catalog": "Machines and their prices; refresh fetches newer ones.",
    "schema": "Print the recipe's JSON schema, for editors.",
    "doctor": "Check this installation and where settings come from.",
}


def run() -> None:
    """The entry point of the installed command."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. Nothing but SystemExit of the interpreter itself escapes."""
    _open_missing()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a sign is no reason to fail
    as_json = "--json" in arguments
    try:
        code = _invoke(arguments)
        sys.stdout.flush()
    except CloudtuneError as error:
        return _report(error, as_json)
    except KeyboardInterrupt as error:
        return _interrupted(error, as_json)
    except BrokenPipeError:
        return _nobody_reads()
    except Exception as error:  # noqa: BLE001 - the last resort: a bug of ours becomes a file and a sentence
        return _bug(error, as_json)
    return code


def _open_missing() -> None:
    """Streams that our caller has closed (``>&-``, some daemons) lead nowhere; the next file would get their numbers otherwise."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def _invoke(arguments: Sequence[str]) -> int:
    """The question that people ask most often is answered without Typer and pydantic, which take longer than the answer."""
    from cloudtune.cli.bare import answer, question

    if (asked := question(arguments)) is not None:
        answer(asked)
        return 0
    from cloudtune.cli.application import invoke

    return invoke(arguments)


def _report(error: CloudtuneError, as_json: bool) -> int:
    from cloudtune.show.errors import error_body, error_lines
    from cloudtune.show.text import stderr_page

    if as_json:
        from cloudtune.show.json import to_text

        _write(sys.stdout, to_text({"error": error_body(error)}))
    else:
        _write(sys.stderr, "".join(f"{line}\n" for line in error_lines(error, stderr_page())))
    return error.exit_code


def _interrupted(error: BaseException, as_json: bool) -> int:
    """Ctrl-C: the job, if there is one, goes on; say how to come back and how to stop it."""
    words = str(error) or "interrupted; a job that was started goes on: see cloudtune ps"
    _write(sys.stderr, f"\n{words}\n")
    if as_json:
        from cloudtune.show.errors import error_body
        from cloudtune.show.json import to_text

        what, _, hint = words.partition("\n")
        ending = CloudtuneError(what, hint=" ".join(hint.split()), code="interrupted")
        _write(sys.stdout, to_text({"error": {**error_body(ending), "exit_code": EXIT_INTERRUPTED}}))
    return EXIT_INTERRUPTED


def _nobody_reads() -> int:
    """Standard output was closed early (``cloudtune ps | head -1``): end quietly, also when Python flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_INTERRUPTED


def _bug(error: Exception, as_json: bool) -> int:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="cloudtune-bug-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write(f"cloudtune {' '.join(sys.argv[1:2])}\nPython {sys.version}\n\n")
        traceback.print_exception(error, file=file)
    ours = CloudtuneError(
        f"this is a bug in cloudtune, not in your input: {type(error).__name__}: {error}",
        where=file.name,
        hint="please report it with that file, which holds the trace",
        code="bug",
    )
    ours.exit_code = EXIT_BUG
    return _report(ours, as_json)


def _write(stream: Any, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        _nobody_reads()
