"""What Google's services answer when they will not do something: one exception, its codes on gRPC and on HTTP. No sockets here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# canonical code → (gRPC number, HTTP status); https://cloud.google.com/apis/design/errors, "Handling errors"
CODES: dict[str, tuple[int, int]] = {
    "CANCELLED": (1, 499),
    "INVALID_ARGUMENT": (3, 400),
    "DEADLINE_EXCEEDED": (4, 504),
    "NOT_FOUND": (5, 404),
    "ALREADY_EXISTS": (6, 409),
    "PERMISSION_DENIED": (7, 403),
    "RESOURCE_EXHAUSTED": (8, 429),
    "FAILED_PRECONDITION": (9, 400),
    "ABORTED": (10, 409),
    "UNIMPLEMENTED": (12, 501),
    "INTERNAL": (13, 500),
    "UNAVAILABLE": (14, 503),
    "UNAUTHENTICATED": (16, 401),
}


@dataclass
class ApiError(Exception):
    """A refusal. ``code`` is a canonical one; ``reason`` and ``facts`` go out as google.rpc.ErrorInfo when there is a reason."""

    code: str
    message: str
    reason: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    domain: str = "googleapis.com"

    @property
    def number(self) -> int:
        """The gRPC status number."""
        return CODES[self.code][0]

    @property
    def http(self) -> int:
        """The HTTP status."""
        return CODES[self.code][1]

    def body(self) -> dict[str, Any]:
        """The JSON body as every Google REST service but Cloud Storage writes it."""
        error: dict[str, Any] = {"code": self.http, "message": self.message, "status": self.code}
        if self.reason:
            kind = "type.googleapis.com/google.rpc.ErrorInfo"
            error["details"] = [{"@type": kind, "reason": self.reason, "domain": self.domain, "metadata": dict(self.facts)}]
        return {"error": error}


def denied(permission: str, resource: str, service: str = "aiplatform.googleapis.com") -> ApiError:
    """What IAM answers, in its words."""
    return ApiError(
        "PERMISSION_DENIED",
        f"Permission '{permission}' denied on resource '//{service}/{resource}' (or it may not exist).",
        reason="IAM_PERMISSION_DENIED",
        facts={"permission": permission, "resource": resource},
        domain=service,
    )


def not_found(kind: str, name: str) -> ApiError:
    """A resource that does not exist, as Vertex AI says it."""
    return ApiError("NOT_FOUND", f"The {kind} does not exist: {name}")


# What a call meets when the plan of faults says so; ``lost_reply``, ``dropped`` and ``silent`` are the transport's business.
FAULTS: dict[str, ApiError] = {
    "throttle": ApiError(
        "RESOURCE_EXHAUSTED",
        "Quota exceeded for quota metric 'Resource management requests' and limit 'Resource management requests per minute per region' "
        "of service 'aiplatform.googleapis.com' for consumer 'project_number:123456789012'.",
        reason="RATE_LIMIT_EXCEEDED",
        facts={"service": "aiplatform.googleapis.com", "quota_limit": "ResourceManagementRequestsPerMinutePerProjectPerRegion"},
    ),
    "error500": ApiError("INTERNAL", "Internal error encountered."),
    "error503": ApiError("UNAVAILABLE", "The service is currently unavailable."),
    "expired": ApiError(
        "UNAUTHENTICATED",
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication "
        "credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
        reason="ACCESS_TOKEN_EXPIRED",
    ),
}
