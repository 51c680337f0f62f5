"""Errors of requests, in one shape everywhere: an HTTP status, a code for programs, a sentence for people."""

from typing import Any

from pydantic import ValidationError

from pneumocam.image import InternalError, RadiographError
from pneumocam.service.log import log_failure

FAILED = "The service failed, not your image. Try again; if it happens again, please report it."
# Codes of requests, by what is wrong with them. All other codes are those of `pneumocam.image` and are about the image.
CODES = {
    "bad_request": (400, "an argument or the body; the sentence names it and says what was expected"),
    "not_found": (404, "the address"),
    "method_not_allowed": (405, "the HTTP method"),
    "timeout": (408, "the rest of the body did not arrive"),
    "upload_gone": (
        410,
        "no such upload, or not any more: Gradio's clients upload first, for an hour",
    ),
    "too_large": (413, "the body, or the number of images in it"),
    "no_url": (400, "a web address in place of an image; nothing is fetched"),
    "rate": (429, "too many requests of one address"),
    "internal_error": (500, "the service"),
    "busy": (503, "too many requests are waiting; try again as Retry-After says"),
    "no_space": (507, "the disk for uploads is full"),
}
SENTENCES = {
    "bad_request": "The request is not understood; /openapi.json and docs/api.md show what is expected.",
    "not_found": "There is nothing at this address, or not any more: uploads and results are kept for an hour.",
    "method_not_allowed": "This address takes another HTTP method; /openapi.json has the list.",
    "too_large": "Too much came. /page/info tells how large an image may be, and how many may come at once.",
    "busy": "The queue is full. Please come back in a minute.",
}


class RequestError(Exception):
    """A request that is refused.

    Attributes:
        code: a key of `CODES`.
        message: what came, what was expected, what to do; free of file names, paths and contents.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message

    @property
    def status(self) -> int:
        return CODES[self.code][0]


def explain(error: BaseException) -> tuple[int, str, str]:
    """HTTP status, code and sentence for any exception; one that was not expected is logged, without its message."""
    if isinstance(error, RequestError):
        return error.status, error.code, error.message
    if isinstance(error, RadiographError):
        return 422, error.code, error.message
    if isinstance(error, InternalError):
        return 500, error.code, error.message
    if isinstance(error, ValidationError):
        return 400, "bad_request", sentence(error.errors(include_url=False, include_input=False))
    log_failure(error)
    return 500, "internal_error", FAILED


def of_status(status: int) -> RequestError:
    """The error for an HTTP status of Starlette or Gradio, in words of this service."""
    code = {400: "bad_request", 403: "not_found", 422: "bad_request"}.get(status)
    code = code or next((code for code, (known, _) in CODES.items() if known == status), "internal_error")
    return RequestError(code, SENTENCES.get(code, FAILED))


def sentence(errors: Any) -> str:
    """Pydantic's findings as one line, without the values that came."""
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in list(errors)[:5])


def body(code: str, message: str) -> dict[str, Any]:
    """The JSON of an error. `detail` repeats the sentence for Gradio's clients."""
    return {"error": {"code": code, "message": message}, "detail": message}
