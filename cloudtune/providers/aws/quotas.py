"""How many machines of a type an account may use for training, and how many it uses now.

The service names a quota by a sentence (``ml.g5.2xlarge for spot training job usage``) and gives it a code that never
changes; the codes of a region are kept in the cache, because finding one takes twenty pages.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cloudtune.errors import CloudtuneError
from cloudtune.providers.aws.client import asking
from cloudtune.wire.aws import CURIOUS, facts_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cloudtune.wire.aws import Login

SERVICE: Final = "sagemaker"
CONSOLE: Final = "Service Quotas console > AWS services > Amazon SageMaker"
MOST_COUNTED: Final = 50
"""Running jobs that are described to count their machines; an account with more has a quota to match."""


@dataclass(frozen=True, slots=True)
class Quota:
    """``allowed`` machines at once, None when the service has no such quota here; ``code`` is the service's own."""

    name: str
    allowed: int | None
    code: str = ""


def quota_name(instance: str, *, spot: bool = False) -> str:
    """The sentence that the service has for it."""
    return f"{instance} for {'spot ' if spot else ''}training job usage"


def warm_pool_name(instance: str) -> str:
    """The same for machines that wait for the next job."""
    return f"{instance} for training warm pool usage"


class Quotas:
    """The quotas of one region."""

    def __init__(self, login: Login, region: str, cache: Path) -> None:
        self._login = login
        self._file = cache / "aws" / f"quota-codes-{region}.json"

    def look(self, name: str) -> Quota:
        """One quota. Raises AuthError when the login may not look, ProviderError when the service does not answer."""
        code = self._codes().get(name)
        if code is not None:
            return Quota(name, self._value(code), code)
        found = {quota["QuotaName"]: quota for quota in self._listed()}
        self._remember({known: quota["QuotaCode"] for known, quota in found.items()})
        one = found.get(name)
        return Quota(name, int(one["Value"]), one["QuotaCode"]) if one else Quota(name, None)

    def _value(self, code: str) -> int | None:
        """The account's own value, else the one that every account begins with."""
        client = self._login.client("service-quotas", pace=CURIOUS)
        for ask in (client.get_service_quota, client.get_aws_default_service_quota):
            try:
                with asking(self._login, f"the quota {code}"):
                    return int(ask(ServiceCode=SERVICE, QuotaCode=code)["Quota"]["Value"])
            except CloudtuneError as error:
                if error.__cause__ is None or facts_of(error.__cause__).code != "NoSuchResourceException":
                    raise
        return None

    def _listed(self) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {}
        while True:
            with asking(self._login, "the quotas of SageMaker"):
                page = self._login.client("service-quotas", pace=CURIOUS).list_service_quotas(ServiceCode=SERVICE, MaxResults=100, **token)
            yield from page.get("Quotas", ())
            if not page.get("NextToken"):
                return
            token = {"NextToken": page["NextToken"]}

    def _codes(self) -> dict[str, str]:
        try:
            codes = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return codes if isinstance(codes, dict) else {}

    def _remember(self, codes: dict[str, str]) -> None:
        wanted = {name: code for name, code in codes.items() if name.endswith(("training job usage", "training warm pool usage"))}
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps(wanted, sort_keys=True), encoding="utf-8")
        except OSError:
            return  # the next look takes longer, that is all


def in_use(login: Login, instance: str, *, spot: bool) -> int:
    """Machines of this type that training jobs of the account use or wait for now. Raises ProviderError."""
    client = login.client("sagemaker", pace=CURIOUS)
    total, counted = 0, 0
    token: dict[str, str] = {}
    while True:
        with asking(login, "the running training jobs"):
            page = client.list_training_jobs(StatusEquals="InProgress", MaxResults=100, **token)
        for summary in page.get("TrainingJobSummaries", ()):
            counted += 1
            if counted > MOST_COUNTED:
                return total
            total += _machines(login, client, summary["TrainingJobName"], instance, spot=spot)
        if not page.get("NextToken"):
            return total
        token = {"NextToken": page["NextToken"]}


def _machines(login: Login, client: Any, name: str, instance: str, *, spot: bool) -> int:
    with asking(login, f"training job {name}"):
        job = client.describe_training_job(TrainingJobName=name)
    config = job.get("ResourceConfig", {})
    kind = config.get("SelectedInstanceType") or config.get("InstanceType")
    if kind != instance or bool(job.get("EnableManagedSpotTraining")) != spot:
        return 0
    return int(config.get("SelectedInstanceCount") or config.get("InstanceCount") or 0)
