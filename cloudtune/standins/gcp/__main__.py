"""The stand-in as a program of its own: prints its environment as one line of JSON and serves until it is told to end.

    python -m cloudtune.standins.gcp --folder F [--port P] [--mode process|timed] [--speed S]

Its own handles (faults, preemption, the clock) are below ``/standin`` on the same port: controls.py.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from pathlib import Path

from cloudtune.standins.gcp.cloud import GcpStandin
from cloudtune.standins.gcp.scene import Scene


def main() -> int:
    """Serve until SIGTERM, SIGINT, or the end of standard input."""
    parser = argparse.ArgumentParser(prog="python -m cloudtune.standins.gcp", description="a stand-in for Google Cloud on this machine")
    parser.add_argument("--folder", type=Path, required=True, help="where the project's objects and machines lie")
    parser.add_argument("--port", type=int, default=0, help="port of the REST services; 0 takes a free one")
    parser.add_argument("--mode", choices=("process", "timed"), default="process", help="run the jobs' programs, or only let time pass")
    parser.add_argument("--speed", type=float, default=1.0, help="seconds of the cloud in a real one")
    parser.add_argument("--scene", type=json.loads, default={}, metavar="JSON", help="fields of the scene, such as quotas (scene.py)")
    asked = parser.parse_args()
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    with GcpStandin.start(asked.folder, mode=asked.mode, speed=asked.speed, port=asked.port, scene=Scene(**asked.scene)) as cloud:
        sys.stdout.write(json.dumps({**cloud.environment, "CLOUDTUNE_STANDIN_GRPC": cloud.grpc_url}) + "\n")
        sys.stdout.flush()
        over.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
