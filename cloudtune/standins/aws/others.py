"""Service Quotas and the price list of the stand-in account, from its quotas and from our own dated offers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from cloudtune.offers.lookup import load_offers
from cloudtune.standins.aws.account import quota_code
from cloudtune.standins.aws.answers import AwsError

if TYPE_CHECKING:
    from cloudtune.offers.offer import Offer
    from cloudtune.standins.aws.account import Account

_PAGE: Final = 100


class Quotas:
    """ListServiceQuotas, GetServiceQuota, GetAWSDefaultServiceQuota and RequestServiceQuotaIncrease for SageMaker."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._names = {quota_code(name): name for name in account.quota_names()}
        self._operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "ListServiceQuotas": self._list,
            "ListAWSDefaultServiceQuotas": self._list,
            "GetServiceQuota": self._get,
            "GetAWSDefaultServiceQuota": self._default,
            "RequestServiceQuotaIncrease": self._request,
        }

    def handle(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        """One call. Raises AwsError."""
        if operation not in self._operations:
            raise AwsError("UnknownOperationException", f"{operation} is not part of this stand-in")
        if body.get("ServiceCode") != "sagemaker":
            raise AwsError("NoSuchResourceException", "The request failed because the specified service does not exist.")
        return self._operations[operation](body)

    def _list(self, body: dict[str, Any]) -> dict[str, Any]:
        names = list(self._account.quota_names())
        first, size = int(body.get("NextToken") or 0), int(body.get("MaxResults") or _PAGE)
        page = [self._shown(name) for name in names[first : first + size]]
        return {"Quotas": page, **({"NextToken": str(first + size)} if first + size < len(names) else {})}

    def _get(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"Quota": self._shown(self._name(body))}

    def _default(self, body: dict[str, Any]) -> dict[str, Any]:
        name = self._name(body)
        return {"Quota": {**self._shown(name), "Value": 0.0}}  # what a new account has

    def _request(self, body: dict[str, Any]) -> dict[str, Any]:
        name = self._name(body)
        if name in self._account.pending_increases:
            raise AwsError("ResourceAlreadyExistsException", "The specified resource already exists.")
        self._account.pending_increases[name] = int(body["DesiredValue"])
        asked = {"QuotaCode": quota_code(name), "QuotaName": name, "DesiredValue": body["DesiredValue"], "Status": "PENDING"}
        return {"RequestedQuota": {"Id": quota_code(name), "ServiceCode": "sagemaker", **asked}}

    def _name(self, body: Mapping[str, Any]) -> str:
        name = self._names.get(str(body.get("QuotaCode")))
        if name is None:
            raise AwsError("NoSuchResourceException", "The request failed because the specified quota does not exist.")
        return name

    def _shown(self, name: str) -> dict[str, Any]:
        code = quota_code(name)
        arn = f"arn:aws:servicequotas:{self._account.region}:123456789012:sagemaker/{code}"
        names = {"ServiceCode": "sagemaker", "ServiceName": "Amazon SageMaker", "QuotaArn": arn, "QuotaCode": code, "QuotaName": name}
        return {**names, "Value": float(self._account.quota_of(name)), "Unit": "None", "Adjustable": True, "GlobalQuota": False}


class Prices:
    """GetProducts of the price list: training on demand, from the table of offers that planning uses."""

    def handle(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        """One call. Raises AwsError."""
        if operation != "GetProducts":
            raise AwsError("UnknownOperationException", f"{operation} is not part of this stand-in")
        if body.get("ServiceCode") != "AmazonSageMaker":
            raise AwsError("NotFoundException", "no such service in this price list")
        products = [
            product
            for offer in load_offers("aws")
            if offer.purchase == "on_demand" and offer.usd_per_hour is not None
            for product in [_product(offer)]
            if all(_meets(product["product"]["attributes"], one) for one in body.get("Filters") or ())
        ]
        first, size = int(body.get("NextToken") or 0), int(body.get("MaxResults") or _PAGE)
        page = [json.dumps(product) for product in products[first : first + size]]
        more = {"NextToken": str(first + size)} if first + size < len(products) else {}
        return {"FormatVersion": "aws_v1", "PriceList": page, **more}


def _product(offer: Offer) -> dict[str, Any]:
    attributes = {
        "instanceName": offer.instance,
        "component": "Training",
        "regionCode": offer.region,
        "productFamily": "ML Instance",
        "usagetype": f"{offer.region}-Train:{offer.instance}",
        "servicecode": "AmazonSageMaker",
    }
    price = {"unit": "Hrs", "pricePerUnit": {"USD": f"{offer.usd_per_hour:.10f}"}}
    sku = f"{offer.region}-{offer.instance}"
    terms = {
        "OnDemand": {f"{sku}.T": {"sku": sku, "effectiveDate": f"{offer.price_date}T00:00:00Z", "priceDimensions": {f"{sku}.T.P": price}}}
    }
    return {
        "product": {"sku": sku, "productFamily": "ML Instance", "attributes": attributes},
        "terms": terms,
        "serviceCode": "AmazonSageMaker",
    }


def _meets(attributes: Mapping[str, str], one: Mapping[str, str]) -> bool:
    found, wanted = attributes.get(one["Field"], ""), one["Value"]
    kind = one.get("Type", "TERM_MATCH")
    if kind == "CONTAINS":
        return wanted in found
    if kind in ("ANY_OF", "NONE_OF"):
        return (found in wanted.split(",")) == (kind == "ANY_OF")
    return found == wanted
