"""The limits of the service: one table for every interface, the page, the handler and the documentation."""

import os
import sys
from dataclasses import dataclass, fields
from typing import Any

MB = 1_000_000


@dataclass(frozen=True)
class Limits:
    """Each with its unit; a request beyond one gets the status in brackets.

    Attributes:
        images: in one request (413).
        image_bytes: of one image (413, or `too_large` for an image among many).
        json_bytes: of a JSON body to Gradio's queue, which names uploads and holds none (413).
        held_bytes: of the bodies of all open requests together (503).
        at_work: images that are decoded, classified or drawn at the same time; each takes a thread.
        waiting: requests that wait for their turn (503); Gradio's queue has the same bound.
        open: requests that are open at the same time, event streams included (503); a quarter of one address (429).
        rate: requests with images of one public address (429), in the notation of the `limits` package.
        idle_seconds: that a client may pause while it sends a body (408).
        kept_seconds: until an upload of Gradio's clients and its results are deleted.
        upload_bytes: on disk, of all uploads of Gradio's clients together (507).
        retry_seconds: in the Retry-After header of 429, 503 and 507.
    """

    images: int = 32
    image_bytes: int = 20 * MB
    json_bytes: int = 256_000
    held_bytes: int = 1_000 * MB
    at_work: int = 16
    waiting: int = 64
    open: int = 512
    rate: str = "600/minute"
    idle_seconds: float = 60
    kept_seconds: int = 3_000
    upload_bytes: int = 2_000 * MB
    retry_seconds: int = 30

    @property
    def request_bytes(self) -> int:
        """Of a request with several images: as many images of full size, each with the header of its part."""
        return self.images * (self.image_bytes + 65_536)

    @property
    def tool_bytes(self) -> int:
        """Of a call of an MCP tool: one image of full size in base64."""
        return self.image_bytes // 3 * 4 + 65_536

    @classmethod
    def from_environment(cls) -> "Limits":
        """The limits with the values of environment variables, such as PNEUMOCAM_UPLOAD_BYTES=500000000.

        Raises:
            SystemExit: as in `setting`.
        """
        return cls(**{limit.name: setting(f"PNEUMOCAM_{limit.name.upper()}", limit.default) for limit in fields(cls)})


def setting(name: str, default: Any) -> Any:
    """The value of an environment variable, of the default's type; the default if it is not set.

    Raises:
        SystemExit: the value is not a number above 0, where the default is one.
    """
    text = os.environ.get(name)
    if not text:
        return default
    try:
        value = type(default)(text)
        if not isinstance(value, str) and not 0 < value < float("inf"):
            raise ValueError
    except ValueError:
        sys.exit(f"{name} is {text!r}; expected a value above 0, such as {default}.")
    return value


LIMITS = Limits()
