"""The stand-in AWS as a program: prints its environment as one JSON line and runs until it is asked to end.

python -m cloudtune.standins.aws --folder F [--port P] [--mode process|scripted] [--speed S] [--bucket B]
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from pathlib import Path

from cloudtune.standins.aws.cloud import AwsStandin


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM, SIGINT or the end of standard input's writer (``--with-parent``)."""
    parser = argparse.ArgumentParser(prog="cloudtune.standins.aws")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--mode", choices=("process", "scripted"), default="process")
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--bucket", help="bucket to make at once; an empty text makes none")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input ends")
    options = parser.parse_args(arguments)
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    with AwsStandin.start(options.folder, mode=options.mode, speed=options.speed, port=options.port, bucket=options.bucket) as cloud:
        sys.stdout.write(json.dumps(cloud.environment) + "\n")
        sys.stdout.flush()
        if options.with_parent:
            threading.Thread(target=_until_end, args=(over,), daemon=True).start()
        while not over.wait(0.5):
            pass
    return 0


def _until_end(over: threading.Event) -> None:
    sys.stdin.read()
    over.set()


if __name__ == "__main__":
    sys.exit(main())
