"""The JobService as JSON over HTTP, at the paths that the library's REST transport calls. Translates; decides nothing."""

from __future__ import annotations

import json
from typing import Any

from cloudtune.standins.gcp.answers import ApiError
from cloudtune.standins.gcp.jobservice import JobBook
from cloudtune.standins.gcp.wire import Answer, Call, Route, route

_PARENT = "/v1/projects/{project}/locations/{region}"
_JOB = f"{_PARENT}/customJobs/{{job}}"


def job_routes(book: JobBook) -> list[Route]:
    """The routes; the names of the operations are those of the RPCs, so that one plan of faults serves both."""
    rest = _Rest(book)
    return [
        route("POST", f"{_PARENT}/customJobs", "CreateCustomJob", rest.create),
        route("GET", f"{_PARENT}/customJobs", "ListCustomJobs", rest.list),
        route("POST", f"{_JOB}:cancel", "CancelCustomJob", rest.cancel),
        route("GET", _JOB, "GetCustomJob", rest.get),
        route("DELETE", _JOB, "DeleteCustomJob", rest.delete),
        route("GET", f"{_PARENT}/operations/{{operation}}", "GetOperation", rest.operation),
        # The library's REST transport asks for operations here: it is the first rule in the service's own list.
        route("GET", f"{_PARENT.replace('/v1/', '/ui/')}/operations/{{operation}}", "GetOperation", rest.operation),
    ]


class _Rest:
    def __init__(self, book: JobBook) -> None:
        from google.cloud.aiplatform_v1 import types
        from google.longrunning import operations_pb2

        self._book = book
        self._types: Any = types
        self._operations: Any = operations_pb2

    def create(self, call: Call) -> Answer:
        job = self._parsed(call)
        request = self._types.CreateCustomJobRequest(parent=_parent(call), custom_job=job)
        return _message(self._book.create(request), call)

    def _parsed(self, call: Call) -> Any:
        """A body with an unknown field is refused, as the service does it."""
        from google.protobuf.json_format import ParseError

        try:
            return self._types.CustomJob.from_json(call.read())
        except ParseError as error:
            raise ApiError("INVALID_ARGUMENT", f"Invalid JSON payload received. {error}") from error

    def get(self, call: Call) -> Answer:
        return _message(self._book.get(self._types.GetCustomJobRequest(name=_name(call))), call)

    def list(self, call: Call) -> Answer:
        request = self._types.ListCustomJobsRequest(
            parent=_parent(call),
            filter=call.query.get("filter", ""),
            page_size=int(call.query.get("pageSize") or 0),
            page_token=call.query.get("pageToken", ""),
        )
        request._pb.read_mask.FromJsonString(call.query.get("readMask", ""))  # noqa: SLF001 - a mask's JSON form is the plain proto's
        jobs, token = self._book.listed(request)
        return _message(self._types.ListCustomJobsResponse(custom_jobs=jobs, next_page_token=token), call)

    def cancel(self, call: Call) -> Answer:
        self._book.cancel(self._types.CancelCustomJobRequest(name=_name(call)))
        return Answer({})

    def delete(self, call: Call) -> Answer:
        return _operation(self._book.delete(self._types.DeleteCustomJobRequest(name=_name(call))))

    def operation(self, call: Call) -> Answer:
        name = f"{_parent(call)}/operations/{call.parts['operation']}"
        return _operation(self._book.operation(self._operations.GetOperationRequest(name=name)))


def _parent(call: Call) -> str:
    return f"projects/{call.parts['project']}/locations/{call.parts['region']}"


def _name(call: Call) -> str:
    return f"{_parent(call)}/customJobs/{call.parts['job']}"


def _message(message: Any, call: Call) -> Answer:
    """A proto as JSON; enums as numbers where the client asks for them, as words otherwise."""
    numbers = "enum-encoding=int" in call.query.get("$alt", "")
    text = type(message).to_json(message, use_integers_for_enums=numbers, always_print_fields_with_no_presence=False, indent=None)
    return Answer(text.encode(), headers={"Content-Type": "application/json; charset=UTF-8"})


def _operation(operation: Any) -> Answer:
    from google.protobuf.json_format import MessageToDict

    return Answer(json.loads(json.dumps(MessageToDict(operation))))
