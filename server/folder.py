"""The folder of uploads and results: private to this process, bounded, and swept within the hour."""

import atexit
import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from server.log import logger

MAX_AGE = 50 * 60.0  # seconds that an upload or a result is kept
SWEEP = 60.0  # seconds from one look for old files to the next, so that nothing outlives its hour
ORPHAN_AGE = 150.0  # seconds after which what an aborted upload left is deleted; more than IDLE
QUOTA = "2gb"


def quota() -> int:
    """Bytes that the folder of uploads may hold, from PNEUMOCAM_UPLOAD_QUOTA, such as 500mb or 2gb.

    Raises:
        SystemExit: it is no size.
    """
    text = os.environ.get("PNEUMOCAM_UPLOAD_QUOTA") or QUOTA
    parts = re.fullmatch(r"(\d+)\s*(mb|gb)", text.strip().lower())
    if not parts:
        sys.exit(f"PNEUMOCAM_UPLOAD_QUOTA is {text!r}; expected a size such as 500mb or {QUOTA}.")
    return int(parts[1]) << {"mb": 20, "gb": 30}[parts[2]]


@dataclass
class Uploads:
    """This process's private folder, with a lock that says that the process lives.

    Attributes:
        path: it; Gradio puts uploads and results there.
        quota: most bytes that it may hold.
        used: bytes that it holds, about: what it held when it was last measured, and what came since.
        own: files in it that belong to the page and stay.
        receiving: uploads that are under way.
    """

    path: Path = Path()
    quota: int = 0
    used: int = 0
    own: frozenset[Path] = frozenset()
    receiving: int = 0
    _lock: int | None = field(default=None, repr=False)

    def claim(self) -> str:
        """Make the folder, below GRADIO_TEMP_DIR or the system's temporary one, and delete what dead processes left.

        Returns:
            Its path, for GRADIO_TEMP_DIR: Gradio looks at that once, when it is imported. If the folder cannot be made,
            `trouble` says so, and it is tried again when somebody uploads.

        Raises:
            SystemExit: the place belongs to another user, or nothing can be written anywhere.
        """
        self.quota = quota()
        base = _base()
        self.path = Path(os.path.realpath(base)) / f"run-{os.getpid()}-{secrets.token_hex(8)}"
        with contextlib.suppress(OSError):
            self.make()
        atexit.register(self.remove)
        return str(self.path)

    def make(self) -> None:
        """Make the folder if it is not there.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        if self._lock is not None and self.path.is_dir():
            return
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self.path.parent):  # or a process that starts would take a folder without a lock for a dead one's
            _delete_leftovers(self.path.parent)
            self.path.mkdir(mode=0o700, exist_ok=True)
            if self._lock is not None:
                os.close(self._lock)
            self._lock = os.open(self.path, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def trouble(self) -> str | None:
        """Why nothing can be uploaded, for the page, the log and answers; None where it can."""
        try:
            self.make()
            with tempfile.TemporaryFile(dir=self.path) as file:
                file.write(bytes(4096))
        except OSError as error:
            return f"{reason(error)}, so films cannot be taken in at the moment. Please come back later."
        if self.used >= self.quota:
            return "The space for uploads is used up. Films are deleted within the hour; please come back later."
        return None

    def sweep(self) -> None:
        """Delete what is older than MAX_AGE, and what aborted uploads left; measure what the folder holds."""
        now, held = time.time(), 0
        for folder, _, names in os.walk(self.path, topdown=False):
            for path in (Path(folder) / name for name in names):
                age = ORPHAN_AGE if Path(folder) == self.path else MAX_AGE
                with contextlib.suppress(OSError):
                    info = path.stat()
                    if abs(now - info.st_mtime) > age and path not in self.own:
                        path.unlink()
                    else:
                        held += info.st_blocks * 512
            if Path(folder) != self.path:
                held += 4096
                with contextlib.suppress(OSError):
                    if now - Path(folder).stat().st_mtime > ORPHAN_AGE:
                        Path(folder).rmdir()  # fails if there is something in it
        self.used = held

    def clear_orphans(self) -> None:
        """Delete what an upload that failed left, once no other is under way: finished ones lie in folders."""
        files = [path for path in self.path.glob("*") if path.is_file()]
        if self.receiving == 0:  # only now: so all that is listed has ended, and who starts later adds other files
            for path in files:
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the folder with all that is in it."""
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = None


uploads = Uploads()


def _base() -> Path:
    """Where the folders of all processes lie."""
    if given := os.environ.get("GRADIO_TEMP_DIR"):
        _temporary()  # other libraries need one, too
        return Path(given)
    base = _temporary() / f"pneumocam-{os.getuid()}"
    with contextlib.suppress(OSError):
        base.mkdir(mode=0o700, exist_ok=True)
        info = base.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
            sys.exit(f"{base} belongs to somebody else; set GRADIO_TEMP_DIR to a folder of your own.")
    return base


def _temporary() -> Path:
    """The system's temporary folder, or shared memory where that is full or read-only."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        memory = "/dev/shm"  # noqa: S108 - nothing is made there but what has a name of its own
        try:
            tempfile.TemporaryFile(dir=memory).close()
        except OSError:
            sys.exit(f"{error}, nor in {memory}. The disk is full or read-only; set TMPDIR to a folder with some room.")
        tempfile.tempdir = memory
        logger.warning("No temporary folder can be written; uploads lie in %s.", memory)
        return Path(memory)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _delete_leftovers(base: Path) -> None:
    """Delete the folders of processes that do not hold their lock any more."""
    for folder in base.glob("run-*"):
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def reason(error: OSError) -> str:
    return "The server's disk is full" if error.errno in FULL else "The server's disk cannot be written"
