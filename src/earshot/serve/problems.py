"""What goes wrong with a request, in the form that clients of OpenAI's interface read."""

from __future__ import annotations

from typing import Any

from earshot.core.errors import EarshotError


class ApiError(EarshotError):
    """A request that cannot be answered.

    Args:
        status: HTTP status, 400..599.
        message: What is wrong and what to do.
        code: A short name that programs can go by.
        param: The field that is to blame, if one is.
    """

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        self.status = status
        self.code = code
        self.param = param
        super().__init__(message)

    def as_dict(self) -> dict[str, Any]:
        """The body of the answer."""
        return error_body(self.status, str(self), code=self.code, param=self.param)


def error_body(
    status: int, message: str, *, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}`.

    Args:
        status: HTTP status, from which `type` follows.
        message: What is wrong and what to do.
        code: A short name that programs can go by.
        param: The field that is to blame, if one is.
    """
    return {
        "error": {"message": message, "type": _kind(status), "param": param, "code": code},
    }


def _kind(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"
