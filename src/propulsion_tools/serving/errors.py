"""What goes wrong with a request, as a status and a body that OpenAI's clients understand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from propulsion.errors import BankFullError
from propulsion_tools.errors import is_one_sentence

INVALID, LIMIT, SERVER = "invalid_request_error", "rate_limit_error", "server_error"


class ApiError(Exception):
    """A request that is not answered.

    Args:
        message: A sentence for a person; nothing of the server's insides.
        status: Of HTTP.
        code: A word that programs can tell it by.
        headers: For the answer.
    """

    def __init__(self, message: str, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = dict(headers or {})

    def __reduce__(self) -> tuple[Any, ...]:
        """What a copy in another process is made of."""
        return type(self), (self.message, self.status, self.code, self.headers)

    @property
    def body(self) -> dict[str, Any]:
        """The answer."""
        kind = LIMIT if self.status == 429 else SERVER if self.status >= 500 else INVALID
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.code}}


def as_api_error(error: BaseException) -> ApiError:
    """What a client is told of an error; nothing, where it is a fault of ours."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BankFullError):
        return ApiError("The device has no place for this adapter: try again, or unpin another.", 503, "no_capacity")
    if is_one_sentence(error):
        return ApiError(str(error), 422, "bad_input")
    return ApiError("The server could not answer; its log says more.", 500, "internal_error")


def shutting_down() -> ApiError:
    """For who comes when the server is about to end."""
    return ApiError("The server is shutting down: send the request again.", 503, "shutting_down", {"Retry-After": "5"})


def overloaded(waiting: int) -> ApiError:
    """For who comes when too many wait."""
    return ApiError(f"{waiting} rows wait for the model: try again later.", 429, "queue_full", {"Retry-After": "1"})


def not_finite() -> ApiError:
    """For an adapter whose answers are no numbers."""
    return ApiError("The adapter's scores for this input are not finite: it is of no use here.", 422, "not_finite")
