"""``catalog refresh`` against a local price server of the real lists' shape: streamed, whole or not at all, and shown."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.e2e.command import cloudtune, command_line, surroundings

MACHINES = {"ml.g5.2xlarge": "1.6500000000", "ml.p5.4xlarge": "7.0000000000"}


def aws_list(filler: int = 0) -> Iterator[bytes]:
    """The offer file of one region: products first, then terms; ``filler`` further products of about a kilobyte."""
    yield b'{"formatVersion":"v1.0","offerCode":"AmazonSageMaker","publicationDate":"2026-11-20T00:00:00Z","products":{'
    products = []
    for number, name in enumerate(MACHINES):
        attributes = {"servicecode": "AmazonSageMaker", "instanceName": name, "component": "Training", "regionCode": "us-east-1"}
        hosting = {**attributes, "component": "Hosting"}
        products.append(f'"T{number}":' + json.dumps({"sku": f"T{number}", "productFamily": "ML Instance", "attributes": attributes}))
        products.append(f'"H{number}":' + json.dumps({"sku": f"H{number}", "productFamily": "ML Instance", "attributes": hosting}))
    yield ",".join(products).encode()
    for number in range(filler):
        product = {"sku": f"F{number}", "attributes": {"instanceName": "ml.none", "component": "Notebook", "text": "x" * 900}}
        yield f',"F{number}":{json.dumps(product)}'.encode()
    yield b'},"terms":{"OnDemand":{'
    terms = []
    for number, price in enumerate(MACHINES.values()):
        for kind, factor in (("T", price), ("H", "99.0")):
            dimension = {"unit": "Hrs", "beginRange": "0", "pricePerUnit": {"USD": factor}}
            term = {f"{kind}{number}.J": {"sku": f"{kind}{number}", "priceDimensions": {"R": dimension}}}
            terms.append(f'"{kind}{number}":{json.dumps(term)}')
    yield ",".join(terms).encode()
    yield b'}},"attributesList":{}}'


def sku(description: str, usd: float, usage: str = "OnDemand", unit: str = "h") -> dict:
    price = {"units": str(int(usd)), "nanos": round((usd - int(usd)) * 1e9)}
    expression = {"usageUnit": unit, "tieredRates": [{"startUsageAmount": 0, "unitPrice": price}]}
    return {
        "description": description,
        "category": {"resourceFamily": "Compute", "usageType": usage},
        "serviceRegions": ["us-central1"],
        "pricingInfo": [{"pricingExpression": expression}],
    }


GCP_PAGES = [
    [
        sku("G2 Instance Core running in Americas", 0.024988),
        sku("G2 Instance Ram running in Americas", 0.002927),
        sku("Spot Preemptible G2 Instance Core running in Americas", 0.01, "Preemptible"),
        sku("Commitment v1: G2 Core in Americas for 1 Year", 0.001, "Commit1Yr"),
    ],
    [
        sku("Nvidia L4 GPU running in Americas", 0.560040),
        sku("Nvidia L4 GPU attached to Spot Preemptible VMs running in Americas", 0.2, "Preemptible"),
        sku("Spot Preemptible G2 Instance Ram running in Americas", 0.001, "Preemptible"),
        *(
            sku(f"{spot}{name}{other} running in Americas", usd / (2 if spot else 1), usage)
            for spot, other, usage in (("", "", "OnDemand"), ("Spot Preemptible ", " attached to Spot Preemptible VMs", "Preemptible"))
            for name, usd in (("A3 Instance Core", 0.0255), ("A3 Instance Ram", 0.00222), ("Nvidia H100 80GB GPU", 9.8))
        ),
        sku("SSD backed Local Storage", 0.08, "OnDemand", unit="GiBy.mo"),
        sku("SSD backed Local Storage attached to Spot Preemptible VMs", 0.0365, "Preemptible", unit="GiBy.mo"),
    ],
]


class PriceServer(BaseHTTPRequestHandler):
    """Answers by path: /aws, /gcp, and the troubles /cut, /broken, /busy (429 for ever), /busy-once, /empty."""

    calls: ClassVar[list[str]] = []
    filler = 0

    def do_GET(self) -> None:
        path = urlsplit(self.path).path.strip("/").split("/")[0]
        PriceServer.calls.append(path)
        getattr(self, f"answer_{path.replace('-', '_')}")()

    def _send(self, body: bytes, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def answer_aws(self) -> None:
        self.send_response(200)
        self.end_headers()
        for piece in aws_list(self.filler):
            self.wfile.write(piece)

    def answer_gcp(self) -> None:
        token = parse_qs(urlsplit(self.path).query).get("pageToken", ["0"])[0]
        more = {"nextPageToken": "1"} if token == "0" else {}
        self._send(json.dumps({"skus": GCP_PAGES[int(token)], **more}).encode())

    def answer_cut(self) -> None:
        whole = b"".join(aws_list(50))
        self._send(whole[: len(whole) // 2], length=len(whole))

    def answer_half(self) -> None:
        whole = b"".join(aws_list(50))
        self._send(whole[: len(whole) // 2])

    def answer_broken(self) -> None:
        self._send(b"<html>maintenance</html>")

    def answer_empty(self) -> None:
        self._send(b'{"products": {}, "terms": {"OnDemand": {}}, "skus": []}')

    def answer_busy(self) -> None:
        self.send_response(429)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer_busy_once(self) -> None:
        if PriceServer.calls.count("busy-once") == 1:
            self.answer_busy()
        else:
            self.answer_aws()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the overridden method
        """Say nothing."""


@contextmanager
def serving(filler: int = 0) -> Iterator[str]:
    PriceServer.calls, PriceServer.filler = [], filler
    server = ThreadingHTTPServer(("127.0.0.1", 0), PriceServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def prices() -> Iterator[str]:
    with serving() as address:
        yield address


def refresh(folder, address, path, provider="aws", home=None):
    home = home or folder / "home"
    region = {"aws": "us-east-1", "gcp": "us-central1"}[provider]
    arguments = ["catalog", "refresh", "--provider", provider, "--region", region, "--url", f"{address}/{path}", "--json"]
    return cloudtune(*arguments, folder=folder, env={"CLOUDTUNE_HOME": str(home)})


def test_fetched_prices_are_dated_shown_and_planned_with(tmp_path, prices):
    done = refresh(tmp_path, prices, "aws")
    assert done.code == 0, done.err
    (report,) = done.json["refreshed"]
    assert report["prices"] == 2
    home = {"CLOUDTUNE_HOME": str(tmp_path / "home")}
    shown = cloudtune("catalog", "show", "ml.g5.2xlarge", "--json", folder=tmp_path, env=home).json["offers"]
    on_demand, spot = shown
    assert (on_demand["usd_per_hour"], on_demand["price_date"], on_demand["age_days"]) == (1.65, report["fetched"], 0)
    assert (spot["purchase"], spot["usd_per_hour_high"]) == ("spot", 1.65)
    changed = {
        (item["instance"], item["purchase"])
        for item in cloudtune("catalog", "diff", "--json", folder=tmp_path, env=home).json["differences"]
    }
    assert changed == {(name, purchase) for name in MACHINES for purchase in ("on_demand", "spot")}
    text = cloudtune("catalog", "list", "--gpu", "H100", "--provider", "aws", folder=tmp_path, env=home).out
    assert "ml.p5.4xlarge" in text
    assert "7.0000" in text


def test_the_vertex_rule_sums_components_over_pages(tmp_path, prices):
    assert refresh(tmp_path, prices, "gcp", "gcp").code == 0
    home = {"CLOUDTUNE_HOME": str(tmp_path / "home")}
    shown = cloudtune("catalog", "show", "g2-standard-8", "--json", folder=tmp_path, env=home).json["offers"]
    by_purchase = {item["purchase"]: item["usd_per_hour"] for item in shown}
    listed = 8 * 0.024988 + 32 * 0.002927 + 0.560040
    assert by_purchase["on_demand"] == pytest.approx(1.15 * listed, abs=1e-4)
    assert by_purchase["spot"] == pytest.approx(8 * 0.01 + 32 * 0.001 + 0.2 + 0.15 * listed, abs=1e-4)
    assert by_purchase["flex_start"] is None


def test_local_disks_of_vertex_are_billed_with_spot_only_by_the_hour_and_without_the_fee(tmp_path, prices):
    assert refresh(tmp_path, prices, "gcp", "gcp").code == 0
    home = {"CLOUDTUNE_HOME": str(tmp_path / "home")}
    shown = cloudtune("catalog", "show", "a3-highgpu-8g", "--json", folder=tmp_path, env=home).json["offers"]
    by_purchase = {item["purchase"]: item["usd_per_hour"] for item in shown if item["region"] == "us-central1"}
    listed = 208 * 0.0255 + 1872 * 0.00222 + 8 * 9.8
    assert by_purchase["on_demand"] == pytest.approx(1.15 * listed, abs=1e-3)
    assert by_purchase["spot"] == pytest.approx(listed / 2 + 0.15 * listed + 16 * 375 * 0.0365 / 730, abs=1e-3)


@pytest.mark.parametrize(
    ("path", "provider", "words"),
    [
        ("cut", "aws", "cut or broken"),
        ("half", "aws", "cut or broken"),
        ("broken", "aws", "cut or broken"),
        ("empty", "aws", "no training prices"),
        ("busy", "aws", "429"),
        ("half", "gcp", "cut or broken"),
        ("broken", "gcp", "cut or broken"),
        ("empty", "gcp", "no components"),
        ("busy", "gcp", "429"),
    ],
)
def test_trouble_leaves_the_old_catalog_in_place(tmp_path, prices, path, provider, words):
    assert refresh(tmp_path, prices, provider, provider).code == 0
    kept = tmp_path / "home" / "catalog" / f"{provider}.json"
    before = kept.read_bytes()
    failed = refresh(tmp_path, prices, path, provider)
    assert failed.code == 4
    assert words in failed.err + failed.out
    assert "Traceback" not in failed.err
    assert kept.read_bytes() == before
    assert [item.name for item in kept.parent.iterdir()] == [kept.name]


def test_a_busy_server_is_asked_again(tmp_path, prices):
    assert refresh(tmp_path, prices, "busy-once").code == 0
    assert PriceServer.calls.count("busy-once") == 2


def test_a_server_that_is_not_there_is_one_sentence(tmp_path):
    failed = refresh(tmp_path, "http://127.0.0.1:9", "aws")
    assert (failed.code, "out of reach" in failed.err + failed.out) == (4, True)


def test_a_damaged_catalog_is_named_and_replaced(tmp_path, prices):
    kept = tmp_path / "home" / "catalog" / "aws.json"
    kept.parent.mkdir(parents=True)
    kept.write_text('{"version": 1')
    listed = cloudtune("catalog", "list", folder=tmp_path, env={"CLOUDTUNE_HOME": str(tmp_path / "home")})
    assert (listed.code, "no price catalog" in listed.err) == (2, True)
    assert refresh(tmp_path, prices, "aws").code == 0


MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


@pytest.mark.parametrize("megabytes", [20, pytest.param(300, marks=pytest.mark.full)])
def test_a_large_list_is_streamed_with_flat_memory(tmp_path, megabytes):
    with serving(filler=megabytes * 1024) as address:
        command = command_line("catalog", "refresh", "--provider", "aws", "--region", "us-east-1", "--url", f"{address}/aws")
        ran = subprocess.run(
            [sys.executable, "-c", MEASURED, *command],
            env=surroundings(extra={"CLOUDTUNE_HOME": str(tmp_path)}),
            capture_output=True,
            text=True,
            check=True,
            timeout=600,
        )
    largest = int(ran.stdout) * 1024
    assert largest < 150 * 2**20, f"{largest / 2**20:.0f} MiB for a list of {megabytes} MB"
