"""Decoders silenced; a subprocess, within bounds, for those that can end or fill a process."""

import ctypes
import io
import logging
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import _imaging

from pneumocam.image import decoder
from pneumocam.image.decoder import READY, SUBPROCESS_SECONDS
from pneumocam.image.errors import InternalError

_SIGKILL = 9

Array = NDArray[Any]

# libtiff writes to standard error what is wrong with a file, past all logging. Pillow has no word to stop it.
with suppress(AttributeError, OSError):
    _libtiff = ctypes.CDLL(_imaging.__file__)
    _libtiff.TIFFSetErrorHandler(None)
    _libtiff.TIFFSetWarningHandler(None)


class Shared:
    """A context manager that threads share: the first that enters starts `block`, and the last that leaves ends it.

    It is for settings that belong to the process, not to the thread: warning filters, log levels, pydicom's settings.
    """

    def __init__(self, block: Callable[[], AbstractContextManager[object]]) -> None:
        self._block, self._lock, self._inside, self._open = block, threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._open.enter_context(self._block())
            self._inside += 1

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._open.close()


@contextmanager
def _silence() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("pydicom", "PIL")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


silenced = Shared(_silence)  # holds back what the decoders would warn or log


def picture_values(data: bytes, file_format: str, max_pixels: int) -> tuple[list[int], Array]:
    """What `decoder` finds in a JPEG 2000, AVIF or HEIF, bounded in memory and time whatever the data.

    Returns:
        Width, height, number of pictures, whether it was turned, whether a pixel counts as `EXPENSIVE`; and the pixels,
        which are empty if there are too many or several pictures.
    """
    facts, values = arrays_of_subprocess(data, file_format, str(max_pixels))
    return [int(fact) for fact in facts], values


def arrays_of_subprocess(data: bytes, *arguments: str) -> list[Array]:
    """The arrays that `decoder`, run as a subprocess, makes of a file.

    Only what happens after the subprocess has said that it is ready is the image's doing.
    """
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # each thread's stack counts as address space
    try:
        child = subprocess.run(  # noqa: S603 - no shell
            [_interpreter(), "-P", "-W", "ignore", decoder.__file__, *arguments],
            input=data,
            capture_output=True,
            timeout=3 * SUBPROCESS_SECONDS,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        raise InternalError("The decoder of this image could not be run to its end. Try again later.") from None
    # The system kills with SIGKILL when memory is short; a decoder that aborts or meets its limits ends otherwise.
    if not child.stdout.startswith(READY) or child.returncode == -_SIGKILL:
        raise InternalError("The decoder of this image did not start, or the system ended it. Try again later.")
    if child.returncode:
        raise ValueError("The decoder failed.")
    output = io.BytesIO(child.stdout)
    output.seek(len(READY))
    arrays: list[Array] = []
    while output.tell() < len(child.stdout):
        arrays.append(np.load(output, allow_pickle=False))
    return arrays


def _interpreter() -> str:
    """The running Python, but in a frozen or embedding program, which would start itself again."""
    executable = sys.executable or ""
    if getattr(sys, "frozen", False) or not re.match("(python|pypy)", Path(executable).name, re.IGNORECASE):
        raise InternalError(
            "JPEG 2000, JPEG-LS, lossless JPEG, AVIF and HEIC are decoded by a Python interpreter, and this program "
            "has none at sys.executable. Run it with Python, or export the image as PNG."
        )
    return executable
