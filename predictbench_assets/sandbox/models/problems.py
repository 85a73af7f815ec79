"""Errors of providers: a status, a type and a code for each kind, in the JSON of the wire that was asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

Wire = Literal["openai", "anthropic", "google"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of error, as each wire names it."""

    status: int
    openai_type: str
    openai_code: str | None
    anthropic_type: str
    google_status: str
    message: str
    anthropic_status: int | None = None
    """None where it is that of all."""
    google_quota: str | None = None
    """Id of the quota that Google names; its status alone does not tell a quota from a limit."""

    def status_on(self, wire: Wire) -> int:
        """HTTP status on a wire."""
        return self.anthropic_status if wire == "anthropic" and self.anthropic_status else self.status

    def body_on(self, wire: Wire, request_id: str, message: str | None = None) -> dict[str, Any]:
        """JSON of the error on a wire."""
        text = message or self.message
        if wire == "anthropic":
            return {
                "type": "error",
                "error": {"type": self.anthropic_type, "message": text},
                "request_id": request_id,
            }
        if wire == "google":
            details: list[dict[str, Any]] = []
            if self.google_quota:
                kind = "type.googleapis.com/google.rpc.QuotaFailure"
                details.append({"@type": kind, "violations": [{"quotaId": self.google_quota}]})
            error = {"code": self.status, "message": text, "status": self.google_status, "details": details}
            return {"error": error}
        return {"error": {"message": text, "type": self.openai_type, "param": None, "code": self.openai_code}}


_INVALID = ("invalid_request_error", None, "invalid_request_error", "INVALID_ARGUMENT")
_KEY = ("invalid_request_error", "invalid_api_key", "authentication_error", "UNAUTHENTICATED")

PROBLEMS: Final[Mapping[str, Problem]] = MappingProxyType(
    {
        "400": Problem(400, *_INVALID, "The request is invalid, on purpose."),
        "401": Problem(401, *_KEY, "The key was refused, on purpose."),
        "403": Problem(
            403,
            *("invalid_request_error", "model_not_allowed", "permission_error", "PERMISSION_DENIED"),
            "The key may not use this model, on purpose.",
        ),
        "404": Problem(
            404,
            *("invalid_request_error", "model_not_found", "not_found_error", "NOT_FOUND"),
            "There is no such model.",
        ),
        "429": Problem(
            429,
            *("requests", "rate_limit_exceeded", "rate_limit_error", "RESOURCE_EXHAUSTED"),
            "The rate limit is reached, on purpose.",
        ),
        "quota": Problem(
            429,
            *("insufficient_quota", "insufficient_quota", "billing_error", "RESOURCE_EXHAUSTED"),
            "The quota of this key is used up: the credit balance is too low, on purpose.",
            anthropic_status=402,
            google_quota="GenerateRequestsPerDayPerProjectPerModel",
        ),
        "500": Problem(500, *("server_error", None, "api_error", "INTERNAL"), "The server failed, on purpose."),
        "503": Problem(
            503, *("server_error", None, "overloaded_error", "UNAVAILABLE"), "The server is not there, on purpose."
        ),
        "529": Problem(
            529, *("overloaded_error", None, "overloaded_error", "UNAVAILABLE"), "The server is overloaded, on purpose."
        ),
        "context": Problem(
            400,
            *("invalid_request_error", "context_length_exceeded", "invalid_request_error", "INVALID_ARGUMENT"),
            "prompt is too long: its input token count is 200001 tokens > 200000 maximum, on purpose",
        ),
        "secret": Problem(401, *_KEY, "The key {key} was refused, on purpose."),
    }
)
