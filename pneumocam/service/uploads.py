"""The folder of uploads that Gradio's clients need: private, bounded, deleted with the process.

Plain HTTP and MCP tools write nothing to disk.

Gradio writes uploads and overlays there and deletes them itself, as `delete_cache` says in `gradio_app.py`; `sweep`
deletes what is left of uploads that failed.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pneumocam.service.errors import RequestError
from pneumocam.service.limits import LIMITS, Limits
from pneumocam.service.log import logger


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A folder of this process below GRADIO_TEMP_DIR, which only this user can read; deleted at the end.

    Folders of processes that were killed are deleted first: they hold no lock.

    Raises:
        OSError: the disk is full or cannot be written, or the place belongs to another user.
    """
    own = f"pneumocam-{os.getuid()}"
    with contextlib.ExitStack() as lock:
        try:
            folder = _make(Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir(), own)), lock)
        except OSError:
            tempfile.tempdir = "/dev/shm"  # noqa: S108 - for other libraries too; what is made there is private
            folder = _make(Path(tempfile.tempdir, own), lock)
            logger.warning("No temporary folder can be written; uploads lie in shared memory.")
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _make(base: Path, lock: contextlib.ExitStack) -> Path:
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(base):  # or a process that starts would take a folder without a lock for that of a dead one
        for other in base.glob("run-*"):
            with contextlib.suppress(OSError), _locked(other, fcntl.LOCK_NB):
                shutil.rmtree(other, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=base)).resolve()
        lock.enter_context(_locked(folder))
    return folder


@contextlib.contextmanager
def _locked(folder: Path, flag: int = 0) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | flag)
        yield
    finally:
        os.close(handle)


class Uploads:
    """What lies in the folder.

    Attributes:
        folder: the folder.
    """

    def __init__(self, folder: Path, limits: Limits = LIMITS) -> None:
        """Watch over a folder."""
        self.folder, self.limits = folder, limits
        self._used, self._measured = 0, 0.0

    def reserve(self, size: int) -> None:
        """Count an upload that begins.

        Args:
            size: bytes that it may have.

        Raises:
            RequestError: `no_space`; the folder is full.
        """
        if time.monotonic() - self._measured > 1:
            self._used = sum(self._sizes())
            self._measured = time.monotonic()
        if self._used + size > self.limits.upload_bytes:
            raise RequestError("no_space", "The space for uploads is full. They are deleted within the hour.")
        self._used += size

    def _sizes(self) -> Iterator[int]:
        for path in self.folder.rglob("*"):
            with contextlib.suppress(OSError):  # deleted meanwhile
                yield path.lstat().st_blocks * 512

    def sweep(self) -> None:
        """Delete what Gradio left: parts of failed uploads, and empty folders."""
        oldest = time.time() - 1.1 * self.limits.kept_seconds
        for path in list(self.folder.rglob("*")):
            with contextlib.suppress(OSError):  # deleted meanwhile, or a folder with something in it
                if path.lstat().st_mtime < oldest:
                    path.rmdir() if path.is_dir() else path.unlink()

    def read(self, path: str) -> bytes:
        """An upload's bytes; raises RequestError `upload_gone` for any path that is no file in the folder."""
        return self.file(path).read_bytes()

    def file(self, path: str) -> Path:
        """The same path, if an upload lies there; raises RequestError `upload_gone` if not."""
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # a loop of links, NUL, a name that is too long
            file = Path(path).resolve()
            if file.is_relative_to(self.folder) and file.is_file():
                return file
        raise RequestError(
            "upload_gone", "There is no such upload, or not any more: it is kept for an hour. Upload the image again."
        )
