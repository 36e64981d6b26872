"""The JobService over gRPC, from the library's own proto classes. Plain text on 127.0.0.1: a client needs an insecure channel.

Faults are told as a client would meet them: a dead login arrives as UNAVAILABLE with the words of the library's plugin.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cloudtune.standins.faults import FaultPlan
from cloudtune.standins.gcp.answers import FAULTS, ApiError
from cloudtune.standins.gcp.jobservice import JobBook

SERVICE = "google.cloud.aiplatform.v1.JobService"
DEAD_LOGIN = (
    "Getting metadata from plugin failed with error: ('invalid_grant: Token has been expired or revoked.', {'error': 'invalid_grant'})"
)
_THREADS = 32


class RpcServer:
    """Serves a ``JobBook`` until ``close``."""

    def __init__(self, book: JobBook, faults: FaultPlan, port: int = 0) -> None:
        import grpc

        self._faults = faults
        self._closing = threading.Event()
        self._codes = {code.value[0]: code for code in grpc.StatusCode}
        self._server = grpc.server(ThreadPoolExecutor(_THREADS), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers(self._handlers(grpc, book))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Stop; calls that were given no answer end now."""
        self._closing.set()
        self._server.stop(None).wait(5)

    def _handlers(self, grpc: Any, book: JobBook) -> tuple[Any, ...]:
        from google.cloud.aiplatform_v1 import types
        from google.longrunning import operations_pb2
        from google.protobuf import empty_pb2

        def empty(request: Any) -> Any:
            book.cancel(request)
            return empty_pb2.Empty()

        def listed(request: Any) -> Any:
            jobs, token = book.listed(request)
            return types.ListCustomJobsResponse(custom_jobs=jobs, next_page_token=token)

        plain: Callable[[Any], bytes] = lambda message: bytes(message.SerializeToString())  # noqa: E731
        methods = {
            "CreateCustomJob": (book.create, types.CreateCustomJobRequest, types.CustomJob.serialize),
            "GetCustomJob": (book.get, types.GetCustomJobRequest, types.CustomJob.serialize),
            "ListCustomJobs": (listed, types.ListCustomJobsRequest, types.ListCustomJobsResponse.serialize),
            "CancelCustomJob": (empty, types.CancelCustomJobRequest, plain),
            "DeleteCustomJob": (book.delete, types.DeleteCustomJobRequest, plain),
        }
        jobs = {
            name: grpc.unary_unary_rpc_method_handler(self._wrapped(name, action), request.deserialize, write)
            for name, (action, request, write) in methods.items()
        }
        get_operation = grpc.unary_unary_rpc_method_handler(
            self._wrapped("GetOperation", book.operation), operations_pb2.GetOperationRequest.FromString, plain
        )
        return (
            grpc.method_handlers_generic_handler(SERVICE, jobs),
            grpc.method_handlers_generic_handler("google.longrunning.Operations", {"GetOperation": get_operation}),
        )

    def _wrapped(self, name: str, action: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
        """``action`` behind the plan of faults and the translation of errors."""

        def served(request: Any, context: Any) -> Any:
            fault = self._faults.take(name)
            kind = fault.kind if fault else ""
            if kind == "silent":
                while context.is_active() and not self._closing.wait(0.05):
                    pass
                context.abort(self._codes[14], "The stand-in gave no answer.")
            if kind == "dropped":
                context.abort(self._codes[14], "Socket closed")
            if kind == "malformed":
                context.abort(self._codes[13], "Exception deserializing response!")
            if kind == "expired":
                context.abort(self._codes[14], DEAD_LOGIN)
            if kind == "access_denied":
                context.abort(self._codes[7], f"Permission '{fault.detail if fault else ''}' denied on resource (or it may not exist).")
            if kind in FAULTS:
                context.abort(self._codes[FAULTS[kind].number], FAULTS[kind].message)
            try:
                answer = action(request)
            except ApiError as error:
                context.abort(self._codes[error.number], error.message)
            if kind == "lost_reply":
                context.abort(self._codes[14], "recvmsg:Connection reset by peer")
            return answer

        return served
