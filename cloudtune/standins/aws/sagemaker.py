"""The operations of SageMaker that a launcher uses on training jobs, answered from records; lives run in threads of their own."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from cloudtune.standins.aws import rules, shapes
from cloudtune.standins.aws.answers import AwsError
from cloudtune.standins.aws.life import Life, World
from cloudtune.standins.aws.record import Record

if TYPE_CHECKING:
    from cloudtune.standins.aws.account import Account

SERVICE: Final = "sagemaker"
_DEFAULT_PAGE: Final = 10
_UNKNOWN: Final = "Requested resource not found."


class SageMaker:
    """``world`` None: jobs are scripted, they train until ``finish`` or a stop and run nothing."""

    def __init__(self, account: Account, world: World, iam: Any, *, scripted: bool) -> None:
        self.account = account
        self.world = world
        self.records: dict[str, Record] = {}
        """By name, in the order of creation; a deleted job's record is gone."""
        self.accepted: list[Record] = []
        """Every job that was ever accepted."""
        self._iam = iam
        self._scripted = scripted
        self._lives: dict[str, tuple[Life, threading.Thread]] = {}
        self._lock = threading.RLock()
        self._operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "CreateTrainingJob": self._create,
            "DescribeTrainingJob": self._describe,
            "ListTrainingJobs": self._list,
            "StopTrainingJob": self._stop,
            "UpdateTrainingJob": self._update,
            "DeleteTrainingJob": self._delete,
            "AddTags": self._add_tags,
            "ListTags": self._list_tags,
            "DeleteTags": self._delete_tags,
            "Search": self._search,
        }

    def handle(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        """One call. Raises AwsError."""
        if operation not in self._operations:
            known = operation in shapes.operations(SERVICE)
            raise AwsError("UnknownOperationException", f"{operation}: {'not part of this stand-in' if known else 'no such operation'}")
        shapes.require_valid(SERVICE, operation, body)
        return self._operations[operation](body)

    def _create(self, body: dict[str, Any]) -> dict[str, Any]:
        rules.check_members(body)
        name = body["TrainingJobName"]
        self._require_free(name)
        rules.check_role(body["RoleArn"], self.account, self._iam)
        rules.check_data(body, self.account, self.world.s3)
        with self._lock:  # looked again: two equal calls may come at once
            self._require_free(name)
            rules.check_quota(body, self.account, self.records.values())
            now = self.world.clock.now()
            arn = self.account.arn(f"training-job/{name}")
            record = Record(dict(body), arn, now, [dict(tag) for tag in body.get("Tags") or ()])
            self._take_warm_pool(record)
            self.records[name] = record
            self.accepted.append(record)
        self._begin(record)
        return {"TrainingJobArn": record.arn}

    def _require_free(self, name: str) -> None:
        taken = self.records.get(name)
        if taken is not None:
            raise AwsError(
                "ResourceInUse",
                "Training job names must be unique within an AWS account and region, "
                f"and a training job with this name already exists ({taken.arn})",
            )

    def _begin(self, record: Record) -> None:
        if self._scripted:
            record.selected = record.types()[0]
            now = self.world.clock.now()
            record.move("Starting", "Starting the training job", now)
            record.attempt_began = record.training_began = now
            record.move("Training", "Training image download completed. Training in progress.", now)
            return
        life = Life(record, self.world)
        thread = threading.Thread(target=life.run, name=f"job {record.name}", daemon=True)
        self._lives[record.name] = (life, thread)
        thread.start()

    def _take_warm_pool(self, record: Record) -> None:
        """A matching pool that waits is used up by the new job."""
        now = self.world.clock.now()
        for other in self.records.values():
            waiting = other.warm_until is not None and now < other.warm_until and not other.reused_by
            if waiting and _pool_key(other.request) == _pool_key(record.request):
                other.warm_until, other.reused_by = now, record.name
                return

    def _found(self, body: Mapping[str, Any]) -> Record:
        record = self.records.get(body["TrainingJobName"])
        if record is None:
            raise AwsError("ValidationException", _UNKNOWN)
        return record

    def _describe(self, body: dict[str, Any]) -> dict[str, Any]:
        return self.shown(self._found(body))

    def shown(self, record: Record) -> dict[str, Any]:
        """The answer to DescribeTrainingJob."""
        quirks = self.account.quirks
        return record.describe(
            self.world.clock.now(), saving=quirks.spot_saving, late_billable=quirks.late_billable, unknown=quirks.unknown_secondary
        )

    def _list(self, body: dict[str, Any]) -> dict[str, Any]:
        """Filters by name and time before the page is cut, by status after it, as the service does: a page may be empty."""
        now, quirks = self.world.clock.now(), self.account.quirks
        start = _offset(body.get("NextToken"))
        if quirks.empty_pages and start is None:
            return {"TrainingJobSummaries": [], "NextToken": _token(0)}
        listed = [record for record in self.records.values() if (now - record.created).total_seconds() >= quirks.list_lag]
        wanted = _sorted([record for record in listed if _matches(record, body)], body)
        size = int(body.get("MaxResults") or _DEFAULT_PAGE)
        first = start or 0
        page = [record.summary(now) for record in wanted[first : first + size]]
        if body.get("StatusEquals"):
            page = [one for one in page if one["TrainingJobStatus"] == body["StatusEquals"]]
        if body.get("WarmPoolStatusEquals"):
            page = [one for one in page if one.get("WarmPoolStatus", {}).get("Status") == body["WarmPoolStatusEquals"]]
        more = {"NextToken": _token(first + size)} if first + size < len(wanted) else {}
        return {"TrainingJobSummaries": page, **more}

    def _stop(self, body: dict[str, Any]) -> dict[str, Any]:
        record = self._found(body)
        with record.lock:
            if record.ended:
                raise AwsError("ValidationException", f"The request was rejected because the training job is in status {record.status}.")
            record.asked.stop = True
            if self._scripted:
                self.finish(record.name, "Stopped")
        return {}

    def _update(self, body: dict[str, Any]) -> dict[str, Any]:
        record = self._found(body)
        keep = (body.get("ResourceConfig") or {}).get("KeepAlivePeriodInSeconds")
        now = self.world.clock.now()
        with record.lock:
            if keep is not None and record.warm_until is not None and now < record.warm_until:
                record.warm_until = now + timedelta(seconds=int(keep))
            elif keep is not None and record.ended:
                raise AwsError("ValidationException", "The warm pool of this training job is not available any more.")
            elif keep is not None:
                record.request["ResourceConfig"] = {**record.resources, "KeepAlivePeriodInSeconds": keep}
        return {"TrainingJobArn": record.arn}

    def _delete(self, body: dict[str, Any]) -> dict[str, Any]:
        record = self._found(body)
        with self._lock:
            if not record.ended:
                raise AwsError("ValidationException", f"Cannot delete the training job: it is in status {record.status}.")
            del self.records[record.name]
        return {}

    def _tagged(self, body: Mapping[str, Any]) -> Record:
        for record in self.records.values():
            if record.arn == body["ResourceArn"]:
                return record
        raise AwsError("ResourceNotFound", f"Resource {body['ResourceArn']} not found")

    def _add_tags(self, body: dict[str, Any]) -> dict[str, Any]:
        record = self._tagged(body)
        with record.lock:
            merged = {tag["Key"]: tag["Value"] for tag in (*record.tags, *body["Tags"])}
            record.tags = [{"Key": key, "Value": value} for key, value in merged.items()]
            return {"Tags": list(record.tags)}

    def _list_tags(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"Tags": list(self._tagged(body).tags)}

    def _delete_tags(self, body: dict[str, Any]) -> dict[str, Any]:
        record = self._tagged(body)
        record.tags = [tag for tag in record.tags if tag["Key"] not in body["TagKeys"]]
        return {}

    def _search(self, body: dict[str, Any]) -> dict[str, Any]:
        """Training jobs by filters on name, status and tags."""
        if body["Resource"] != "TrainingJob":
            raise AwsError("ValidationException", "this stand-in searches training jobs only")
        start, quirks = _offset(body.get("NextToken")), self.account.quirks
        if quirks.empty_pages and start is None:
            return {"Results": [], "NextToken": _token(0)}
        filters = (body.get("SearchExpression") or {}).get("Filters") or ()
        found = [record for record in self.records.values() if all(_passes(record, one) for one in filters)]
        first, size = start or 0, int(body.get("MaxResults") or _DEFAULT_PAGE)
        results = [{"TrainingJob": {**self.shown(record), "Tags": list(record.tags)}} for record in found[first : first + size]]
        return {"Results": results, **({"NextToken": _token(first + size)} if first + size < len(found) else {})}

    def finish(self, name: str, status: str = "Completed", reason: str = "") -> None:
        """Bring a scripted job to its end at once."""
        record, now = self.records[name], self.world.clock.now()
        with record.lock:
            record.end_attempt(now)
            record.training_ended, record.failure_reason = now, reason
            record.keep_warm(now, self.account.warm_quota(record.selected))
            output = record.request["OutputDataConfig"]
            record.artifacts = f"{output['S3OutputPath'].rstrip('/')}/{name}/output/model/"
            record.move(status, reason or f"Training job {status.lower()}", now, status=status)

    def close(self) -> None:
        """End every life; nothing of any job runs afterwards."""
        for life, _ in self._lives.values():
            life.closed = True
        for _, thread in self._lives.values():
            thread.join(60)


def _token(offset: int) -> str:
    return base64.urlsafe_b64encode(json.dumps({"at": offset}).encode()).decode()


def _offset(token: object) -> int | None:
    if token is None:
        return None
    try:
        return int(json.loads(base64.urlsafe_b64decode(str(token)))["at"])
    except (ValueError, KeyError, TypeError) as error:
        raise AwsError("ValidationException", "Invalid pagination token") from error


def _matches(record: Record, body: Mapping[str, Any]) -> bool:
    """Name and times. Times may be epoch seconds or ISO text, as a client sends them."""
    created, modified = record.created.timestamp(), record.modified.timestamp()
    limits = (
        ("CreationTimeAfter", created, 1),
        ("CreationTimeBefore", created, -1),
        ("LastModifiedTimeAfter", modified, 1),
        ("LastModifiedTimeBefore", modified, -1),
    )
    if body.get("NameContains") and body["NameContains"] not in record.name:
        return False
    return all(body.get(key) is None or sign * (value - float(body[key])) >= 0 for key, value, sign in limits)


def _sorted(records: list[Record], body: Mapping[str, Any]) -> list[Record]:
    keys: dict[str, Callable[[Record], Any]] = {
        "Name": lambda record: record.name,
        "Status": lambda record: record.status,
        "CreationTime": lambda record: record.created,
    }
    chosen = keys[body.get("SortBy") or "CreationTime"]
    return sorted(records, key=chosen, reverse=(body.get("SortOrder") or "Descending") == "Descending")


def _passes(record: Record, one: Mapping[str, Any]) -> bool:
    name, operator, value = str(one["Name"]), str(one.get("Operator", "Equals")), str(one.get("Value", ""))
    tags = {tag["Key"]: tag["Value"] for tag in record.tags}
    values: Iterable[str] = {
        "TrainingJobName": [record.name],
        "TrainingJobStatus": [record.status],
        "SecondaryStatus": [record.secondary],
    }.get(name, [tags[name.removeprefix("Tags.")]] if name.removeprefix("Tags.") in tags else [])
    return {
        "Equals": any(value == found for found in values),
        "NotEquals": all(value != found for found in values),
        "Contains": any(value in found for found in values),
        "Exists": bool(list(values)),
        "NotExists": not list(values),
    }.get(operator, False)


_POOL: Final = ("RoleArn", "VpcConfig", "EnableInterContainerTrafficEncryption", "EnableNetworkIsolation")
_POOL_MACHINES: Final = ("InstanceType", "InstanceCount", "VolumeKmsKeyId", "VolumeSizeInGB")


def _pool_key(request: Mapping[str, Any]) -> str:
    resources = request.get("ResourceConfig") or {}
    parts = [request.get(key) for key in _POOL], [resources.get(key) for key in _POOL_MACHINES]
    return json.dumps(parts, sort_keys=True)
