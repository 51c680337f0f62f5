"""The log: one line for each request, without file names, contents or addresses."""

import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

logger = logging.getLogger(__package__)


def log_outcome(what: str, outcome: str | int, *, size: int, seconds: float) -> None:
    """Log one line about one request; whatever the arguments hold, only short plain words and numbers are written."""
    line = f"{what[:40]} {outcome} bytes={size} ms={seconds * 1000:.0f}"
    logger.info(re.sub(r"[^\w =/+.-]", "_", line, flags=re.ASCII))


def log_failure(error: BaseException) -> None:
    """Log the type and place of an unexpected exception, without its message, which may quote an upload."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown place"
    logger.error("failure %s at %s", type(error).__name__, place)


@contextmanager
def private_log() -> Iterator[None]:
    """Within the block, only the lines of this module reach stderr.

    Gradio, uvicorn and the MCP package print tracebacks and warnings that hold the names and paths of uploads.
    PNEUMOCAM_DEBUG=1 keeps that output, for finding errors with images of your own.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    with ExitStack() as stack:
        stack.callback(logger.removeHandler, handler)
        if not os.environ.get("PNEUMOCAM_DEBUG"):
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        yield
