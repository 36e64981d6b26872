"""The machines of a job and this machine's place among them, from what each platform says. Starts nothing."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudtune_entry.ground import Ground, Trouble
from cloudtune_entry.orders import Orders

TRAINER = "cloudtune_trainer"
PORT = 29400
# Machines of one job come up minutes apart and their names resolve late.
RESOLVE_SECONDS = 600


@dataclass(frozen=True)
class Cluster:
    """``rank`` counts from 0, the machine that others meet at is ``master``; ``interface`` is the network to talk over."""

    nodes: int = 1
    rank: int = 0
    master: str = "127.0.0.1"
    interface: str = ""


def find_cluster(ground: Ground, environ: Mapping[str, str]) -> Cluster:
    """SageMaker's resourceconfig.json, Vertex AI's CLUSTER_SPEC, or this machine alone."""
    try:
        if ground.kind == "sagemaker":
            return _sagemaker(ground.root / "input/config/resourceconfig.json")
        if ground.kind == "vertex" and environ.get("CLUSTER_SPEC"):
            return _vertex(json.loads(environ["CLUSTER_SPEC"]))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise Trouble(f"the platform's description of the machines is not what we know ({error!r})") from error
    return Cluster()


def _sagemaker(path: Path) -> Cluster:
    if not path.exists():
        return Cluster()
    body: dict[str, Any] = json.loads(path.read_bytes())
    hosts = sorted(body["hosts"], key=_host_order)
    return Cluster(len(hosts), hosts.index(body["current_host"]), hosts[0], str(body.get("network_interface_name", "")))


def _host_order(host: str) -> tuple[int, str]:
    """algo-2 before algo-10."""
    digits = "".join(letter for letter in host if letter.isdigit())
    return (int(digits) if digits else 0, host)


def _vertex(body: Mapping[str, Any]) -> Cluster:
    """Pool 0 holds the primary machine, pool 1 the workers."""
    pools = body["cluster"]
    hosts = [*pools["workerpool0"], *pools.get("workerpool1", ())]
    task = body["task"]
    rank = 0 if task["type"] == "workerpool0" else int(task["index"]) + len(pools["workerpool0"])
    return Cluster(len(hosts), rank, str(hosts[0]).rsplit(":", 1)[0])


def command(orders: Orders, cluster: Cluster) -> list[str]:
    """The trainer's command line: plain for one process, under torchrun for more."""
    if orders.nodes != cluster.nodes:
        raise Trouble(f"the plan is for {orders.nodes} machine(s), the platform gave {cluster.nodes}")
    if max(1, orders.gpus) * cluster.nodes == 1:
        return [sys.executable, "-m", TRAINER]
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(max(1, orders.gpus)), "--max-restarts", "0"]
    if cluster.nodes == 1:
        return [*run, "--standalone", "-m", TRAINER]
    meeting = ["--master-addr", cluster.master, "--master-port", str(PORT)]
    return [*run, "--nnodes", str(cluster.nodes), "--node-rank", str(cluster.rank), *meeting, "-m", TRAINER]


def await_master(cluster: Cluster, seconds: float = RESOLVE_SECONDS) -> None:
    """Wait until the meeting machine's name resolves. Raises Trouble when it does not within ``seconds``."""
    deadline = time.monotonic() + seconds
    while cluster.nodes > 1:
        try:
            socket.getaddrinfo(cluster.master, PORT)
        except OSError as error:
            if time.monotonic() > deadline:
                raise Trouble(f"the name of machine 0, {cluster.master}, does not resolve after {seconds:.0f} s") from error
            time.sleep(1)
        else:
            return
