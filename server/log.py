"""The log: one line an answer, and nothing of what came."""

import logging
import os
import re
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, TextIO

logger = logging.getLogger(__package__)


def log_outcome(
    endpoint: str, outcome: str | int, *, size: int | None = None, format: str | None = None, ms: float | None = None
) -> None:
    """Log one line about one answer, whatever the arguments hold: nothing but short plain words and numbers.

    Args:
        endpoint: which one answered.
        outcome: an HTTP status, `ok`, or the code of an error.
        size: bytes that came.
        format: of the film, such as JPEG or DICOM.
        ms: milliseconds that the answer took.
    """
    facts = {"bytes": size, "format": format, "ms": None if ms is None else round(ms)}
    words = [endpoint, outcome, *(f"{name}={value}" for name, value in facts.items() if value is not None)]
    logger.info(" ".join(re.sub(r"[^\w =/+.-]", "_", str(word), flags=re.ASCII)[:40] for word in words))


class _MainThreadOnly:
    """A stream that takes what the main thread writes. Requests are handled in all the others."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if threading.current_thread() is threading.main_thread():
            self._stream.write(text)
        return len(text)


def quieten() -> None:
    """Let nothing to stdout and stderr from now on but what the main thread says and the log of outcomes.

    Gradio, uvicorn, Pillow and pydicom write tracebacks and warnings there that hold names, paths and contents, and the
    decoders in C do so without asking Python. PNEUMOCAM_DEBUG=1 leaves all as it is; not for other people's films.
    """
    logger.setLevel(logging.INFO)
    logging.getLogger().setLevel(logging.WARNING)
    if os.environ.get("PNEUMOCAM_DEBUG"):
        logging.basicConfig()
        return
    sys.stdout.flush()
    sys.stderr.flush()
    out, err = (os.fdopen(os.dup(number), "w", buffering=1, errors="replace") for number in (1, 2))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    sys.stdout, sys.stderr = _MainThreadOnly(out), _MainThreadOnly(err)
    handler = logging.StreamHandler(out)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    for name in (__package__, "app", "api", "pneumocam"):
        own = logging.getLogger(name)
        own.addHandler(handler)
        own.propagate = False
    threading.excepthook = lambda args: log_failure(args.exc_value)
    traceback.print_exc = lambda *_args, **_options: log_failure(sys.exception())


def log_failure(error: BaseException | None) -> None:
    """Log where something failed and of what type, without its message."""
    frames = traceback.extract_tb(error.__traceback__) if error else ()
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    logger.error("failure %s at %s", type(error).__name__, place)
