"""SageMaker training prices from the AWS price list, streamed: the file has hundreds of MB and is never held. No login needed.

The list is one JSON object: ``products`` (sku → attributes) comes before ``terms.OnDemand`` (sku → price dimensions).
Read with ijson (BSD), whose C parser goes through 300 MB in seconds with flat memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import date
from typing import IO, Any

from cloudtune.clock import Clock
from cloudtune.errors import SourceError
from cloudtune.offers.catalog import Catalog, Price
from cloudtune.sources.prices import opened, shown

URL = "https://pricing.us-east-1.amazonaws.com/offers/v1.0/aws/AmazonSageMaker/current/{region}/index.json"
CHUNK_BYTES = 1 << 16
SOURCE = "AWS price list, SageMaker training, on demand"


def fetch(regions: Collection[str], instances: Collection[str], clock: Clock, today: date, url: str = URL) -> Catalog:
    """The on-demand prices of ``instances`` in ``regions``. Raises SourceError when a list is cut, broken, or without prices."""
    found: set[Price] = set()
    for region in sorted(regions):
        where = url.replace("{region}", region)
        with opened(where, clock) as stream:
            found.update(_prices(stream, region, frozenset(instances), shown(where)))
    if not found:
        raise SourceError("the price list has no training prices of known machines", where=shown(url), hint="the old prices stay in place")
    return Catalog("aws", today.isoformat(), SOURCE, tuple(sorted(found)))


def _prices(stream: IO[bytes], region: str, instances: frozenset[str], where: str) -> Iterator[Price]:
    wanted: dict[str, str] = {}
    for kind, sku, value in _items(stream, where):
        if kind == "product":
            if (instance := _training_instance(value)) in instances:
                wanted[sku] = str(instance)
        elif sku in wanted and (usd := _hourly(value)) is not None:
            yield Price(wanted[sku], "", region, "on_demand", usd)


def _items(stream: IO[bytes], where: str) -> Iterator[tuple[str, str, Any]]:
    """("product" | "term", sku, value) in the order of the file."""
    try:
        import ijson
    except ImportError as error:
        raise SourceError("reading the AWS price list needs ijson", hint="install it with: pip install 'cloudtune[prices]'") from error
    products, terms = ijson.sendable_list(), ijson.sendable_list()
    parsers = [ijson.kvitems_coro(products, "products"), ijson.kvitems_coro(terms, "terms.OnDemand")]
    try:
        while chunk := stream.read(CHUNK_BYTES):
            for parser in parsers:
                parser.send(chunk)
            yield from (("product", sku, value) for sku, value in products)
            yield from (("term", sku, value) for sku, value in terms)
            products.clear()
            terms.clear()
        for parser in parsers:
            parser.close()
    except ijson.JSONError as error:
        raise SourceError("the price list is cut or broken", where=where, hint="try again; the old prices stay in place") from error


def _training_instance(product: Any) -> str | None:
    """The machine type when the product is an hour of SageMaker training."""
    attributes = product.get("attributes") if isinstance(product, Mapping) else None
    if not isinstance(attributes, Mapping):
        return None
    name = str(attributes.get("instanceName") or attributes.get("instanceType") or "")
    if str(attributes.get("component", "")).lower() == "training" or name.endswith("-Training"):
        return name.removesuffix("-Training")
    return None


def _hourly(term: Any) -> float | None:
    """USD per hour of a product's on-demand term; None for anything else."""
    for offer in term.values() if isinstance(term, Mapping) else ():
        dimensions = offer.get("priceDimensions") if isinstance(offer, Mapping) else None
        for dimension in dimensions.values() if isinstance(dimensions, Mapping) else ():
            if str(dimension.get("unit", "")).lower() in ("hrs", "hours", "hour"):
                return _positive(dimension.get("pricePerUnit", {}).get("USD"))
    return None


def _positive(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return round(value, 6) if 0 < value < 100_000 else None
