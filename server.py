"""The HTTP guard and the housekeeping around the page.

What may be asked and how much, what is kept and for how long, what is logged. `app.py` claims `uploads` before it
imports Gradio, calls `quieten` before it serves, and hands `app_kwargs` to `launch`.
"""

import asyncio
import atexit
import base64
import contextlib
import errno
import fcntl
import hashlib
import ipaddress
import json
import logging
import math
import os
import re
import secrets
import shutil
import signal
import stat
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, TextIO

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_AGE = 50 * 60.0  # seconds that an upload or a result is kept
SWEEP = 60.0  # seconds from one look for old files to the next, so that nothing outlives its hour
ORPHAN_AGE = 150.0  # seconds after which what an aborted upload left is deleted; more than IDLE
IDLE = 60.0  # seconds that a client may pause while it sends
QUOTA = "2gb"
MAX_FILMS = 32  # files in one upload
MAX_FILM = 20 * 2**20  # bytes, as max_file_size="20mb" in app.py
MAX_UPLOAD = MAX_FILMS * (MAX_FILM + 2**16)
MAX_JSON = 256 * 2**10
MAX_MCP = MAX_FILM // 3 * 4 + 2**16  # a film of full size in base64
MAX_HELD = 256 * 2**20  # bytes of JSON of all requests together
MAX_ELEMENTS = 20_000  # commas, brackets and braces in one JSON body; films in base64 have none
MAX_DEPTH = 32
MAX_OPEN = 512  # requests at once, event streams among them
RETRY_AFTER = 30  # seconds
DRAIN = 64 * 2**20  # bytes read of a refused request, so that its sender gets to read the answer

logger = logging.getLogger(__name__)


class RequestError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: of HTTP.
        code: snake_case name of the cause.
        message: what came, what was expected, what to do; free of names, paths and contents.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


# Settings


def seconds(name: str, default: float) -> float:
    """An environment variable that holds a number of seconds.

    Raises:
        SystemExit: it holds none; says what was expected.
    """
    text = os.environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        sys.exit(f"{name} is {text!r}; expected a number of seconds above 0, such as {default:g}.")
    return value


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


# Logging


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


def start(notice: str | None = None) -> str | None:
    """Prepare the process to serve: its log, and the end of its uploads when it is told to end.

    Args:
        notice: what the page is to say on top, if anything.

    Returns:
        The notice, with what does not work here; that is logged, too.
    """
    quieten()

    def end(number: int, _frame: object) -> None:
        uploads.remove()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
    if trouble := uploads.trouble():
        logger.warning(trouble)
        from gradio import routes  # not sooner: GRADIO_TEMP_DIR has to be set by then

        # Gradio makes a folder there that is of no use here, and would not start without it.
        routes.DEFAULT_TEMP_DIR = tempfile.gettempdir()  # type: ignore[attr-defined]
    return " ".join(filter(None, (notice, trouble))) or None


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
    for name in (__name__, "app", "api", "pneumocam"):
        own = logging.getLogger(name)
        own.addHandler(handler)
        own.propagate = False
    threading.excepthook = lambda args: _log_failure(args.exc_value)
    traceback.print_exc = lambda *_args, **_options: _log_failure(sys.exception())


def _log_failure(error: BaseException | None) -> None:
    """Log where something failed and of what type, without its message."""
    frames = traceback.extract_tb(error.__traceback__) if error else ()
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    logger.error("failure %s at %s", type(error).__name__, place)


# The folder of uploads and results


@dataclass
class Uploads:
    """This process's private folder, with a lock that says that the process lives.

    Attributes:
        path: it; Gradio puts uploads and results there.
        quota: most bytes that it may hold.
        used: bytes that it holds, about: what it held when it was last measured, and what came since.
        own: files in it that belong to the page and stay.
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
            return f"{_reason(error)}, so films cannot be taken in at the moment. Please come back later."
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
        if self.receiving == 0:
            for path in self.path.glob("*"):
                if path.is_file():
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


def _reason(error: OSError) -> str:
    return "The server's disk is full" if error.errno in FULL else "The server's disk cannot be written"


# What a request may hold

_SESSION = r"[\w-]{1,64}"
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]{1,253})(:\d{1,5})?", re.ASCII)


@dataclass(frozen=True)
class Route:
    """What may be asked: all else is answered 404."""

    name: str
    methods: tuple[str, ...]
    path: re.Pattern[str]
    query: dict[str, str] = field(default_factory=dict)  # patterns of parameters


def _route(name: str, methods: str, path: str, **query: str) -> Route:
    return Route(name, tuple(methods.split()), re.compile(path, re.ASCII), query)


ROUTES = (
    _route("page", "GET HEAD", "/"),
    _route("asset", "GET HEAD", r"/assets/[\w-]+(\.[\w-]+)*(/[\w-]+(\.[\w-]+)*)*"),
    _route("asset", "GET HEAD", r"/static/(img|js|fonts)(/[\w-]+(\.[\w-]+)*)+"),
    _route("asset", "GET HEAD", r"/(theme\.css|favicon\.ico|robots\.txt|manifest\.json|pwa_icon(/(192|512))?)"),
    _route("config", "GET", r"/config/?"),
    _route("info", "GET", r"/gradio_api/(info/?|openapi\.json|app_id/?|startup-events)"),
    _route("healthz", "GET HEAD", "/healthz"),
    _route("upload", "POST", "/gradio_api/upload", upload_id=_SESSION),
    _route("progress", "GET", "/gradio_api/upload_progress", upload_id=_SESSION),
    _route("join", "POST", "/gradio_api/queue/join"),
    _route("events", "GET", "/gradio_api/queue/data", session_hash=_SESSION),
    _route("call", "POST", r"/gradio_api/call/(?P<name>\w{1,64})/?"),
    _route("call_v2", "POST", r"/gradio_api/call/v2/(?P<name>\w{1,64})/?"),
    _route("events", "GET", r"/gradio_api/call/(v2/)?\w{1,64}/[0-9a-f]{32}"),
    _route("cancel", "POST", "/gradio_api/cancel"),
    _route("reset", "POST", "/gradio_api/reset/?"),
    _route("heartbeat", "GET", rf"/gradio_api/heartbeat/{_SESSION}"),
    _route("file", "GET HEAD", r"/gradio_api/file=/.+"),
    _route("mcp", "GET POST DELETE", "/gradio_api/mcp(/http)?/?"),
    _route("info", "GET", "/gradio_api/mcp/schema"),
)
BODIES = {"join", "call", "call_v2", "cancel", "reset", "mcp"}  # routes whose POST has JSON
QUIET = {"asset", "healthz"}  # logged only when they fail

# What Gradio's clients send, and of what type; None where it may be left out.
JOIN: dict[str, type | None] = {
    "data": list,
    "fn_index": int,
    "session_hash": str,
    "event_data": None,
    "trigger_id": None,
}
CALL: dict[str, type | None] = {"data": list, "session_hash": None}
CANCEL: dict[str, type | None] = {"session_hash": str, "fn_index": int, "event_id": str}
MCP_IDS = (str, int, type(None))
RESET: dict[str, type | None] = {"event_id": str}


def parse(body: bytes) -> dict[str, Any]:
    """A JSON object without anything that no client of this service sends.

    Raises:
        RequestError: it is no JSON, no object, or holds NaN, huge numbers, half characters, or too much or too deep.
    """
    expected = "expected a JSON object in UTF-8, with finite numbers of at most 64 bit"
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_ELEMENTS:
        raise RequestError(413, "too_large", f"The body has more than {MAX_ELEMENTS} elements; {expected}.")
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
        for item, depth in _walk(value):
            if depth > MAX_DEPTH:
                raise RecursionError
            if isinstance(item, str):
                item.encode()
            elif (isinstance(item, float) and not math.isfinite(item)) or (
                isinstance(item, int) and abs(item) >= 2**63
            ):
                raise ValueError
    except RecursionError:
        raise RequestError(400, "bad_json", f"The body is nested deeper than {MAX_DEPTH} levels; {expected}.") from None
    except ValueError:
        raise RequestError(400, "bad_json", f"The body could not be read; {expected}.") from None
    if not isinstance(value, dict):
        raise RequestError(400, "bad_json", f"The body is a JSON {_kind(value)}; {expected}.")
    return value


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError


def _walk(value: Any) -> Iterator[tuple[Any, int]]:
    """All values in a parsed JSON document, keys too, each with its depth."""
    stack = [(value, 1)]
    while stack:
        item, depth = stack.pop()
        yield item, depth
        if isinstance(item, dict):
            stack += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            stack += [(part, depth + 1) for part in item]


def _kind(value: Any) -> str:
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def check_fields(value: dict[str, Any], fields: dict[str, type | None]) -> dict[str, Any]:
    """The fields of a request that this service knows.

    Args:
        value: the request.
        fields: their types; None for one that may be left out.

    Raises:
        RequestError: one is missing or of another type.
    """
    for name, kind in fields.items():
        if kind and type(value.get(name)) is not kind:
            came = _kind(value[name]) if name in value else "missing"
            raise _invalid(f"{name} is {came}; expected a JSON {_kind(kind())}.")
    session, trigger = value.get("session_hash"), value.get("trigger_id")
    if session is not None and not (isinstance(session, str) and re.fullmatch(_SESSION, session, re.ASCII)):
        raise _invalid("session_hash is malformed; expected up to 64 letters, digits and dashes.")
    if trigger is not None and type(trigger) is not int:
        raise _invalid(f"trigger_id is {_kind(trigger)}; expected a JSON number.")
    return {name: value[name] for name in fields if name in value}


def _invalid(message: str) -> RequestError:
    return RequestError(422, "bad_request", message)


def check_values(function: Any, data: list[Any]) -> None:
    """Check each value of an endpoint by the model of its component, as Gradio does later, without saying why.

    Args:
        function: Gradio's, of the endpoint.
        data: a value for each of its inputs.

    Raises:
        RequestError: one does not fit.
    """
    for block, value in zip(function.inputs, data, strict=True):
        model = getattr(block, "data_model", None)
        if model and value is not None:
            try:
                model.model_validate(value, context={"validate_meta": True})
            except ValueError:
                came = f"{block.label} is not what a {type(block).__name__} takes"
                raise _invalid(f"{came}; expected {FILE} if it is a film, a list of such if several.") from None


FILE = '{"path": what /gradio_api/upload answered, "meta": {"_type": "gradio.FileData"}}'


def check_files(value: Any) -> list[Path]:
    """The uploads that a request names.

    Args:
        value: parsed JSON.

    Raises:
        RequestError: a file is named by an address, which Gradio would fetch, or is no upload.
    """
    paths = []
    for item, _ in _walk(value):
        if not isinstance(item, dict):
            continue
        meta, path = item.get("meta"), item.get("path")
        if isinstance(path, str) and _is_url(path):
            raise RequestError(422, "no_url", NO_URL)
        if isinstance(path, str) and "meta" in item and not isinstance(meta, dict):
            raise _invalid(f"meta is {_kind(meta)}; expected {FILE}.")
        if isinstance(meta, dict) and meta.get("_type") == "gradio.FileData":
            if not isinstance(path, str) or not _is_upload(path):
                raise RequestError(
                    422, "not_an_upload", "A film is named that was not uploaded here. Upload it first, then name it."
                )
            paths.append(Path(path))
    return paths


NO_URL = (
    "A film's address came, but this service fetches nothing. Send the film itself: upload it first, or over MCP send "
    "it as a data: URL."
)
GONE = "This upload is not here any more: films are deleted within the hour. Upload it again."


def _is_url(text: str) -> bool:
    return text.lstrip().lower().startswith(("http:", "https:", "ftp:", "file:", "//"))


def _is_upload(path: str) -> bool:
    plain = os.path.normpath(path) == path and "\0" not in path
    return plain and Path(path).is_relative_to(uploads.path) and path != str(uploads.path)


# The guard

CSP = (  # Gradio makes functions of the texts that the page gives as js=, and cannot do without eval then
    "default-src 'none'; script-src 'self' 'unsafe-eval'{inline}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; manifest-src 'self'; "
    "base-uri 'self'; form-action 'self'; object-src 'none'; "
    "frame-ancestors 'self' https://huggingface.co https://*.hf.space"
)
CSP_FILE = "default-src 'none'; sandbox; frame-ancestors 'self' https://huggingface.co https://*.hf.space"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": ", ".join(
        f"{feature}=()"
        for feature in (
            *("accelerometer", "autoplay", "browsing-topics", "camera", "display-capture", "encrypted-media"),
            *("geolocation", "gyroscope", "magnetometer", "microphone", "midi", "payment", "serial", "usb"),
        )
    ),
}


class SecurityHeaders:
    """The outermost layer: headers for every answer, also for those of Gradio's own outer layers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Content-Security-Policy", CSP.format(inline=""))
            await send(message)

        with contextlib.suppress(Exception):  # Gradio's layers have answered 500 and told nobody why
            await self.app(scope, receive, with_headers)


class Guard:
    """Lets through what the page and clients need, in bounds, and makes every error a sentence without internals.

    Args:
        app: what answers.
        demo: the Blocks behind it, for its endpoints and its queue.
        model: id and revision, for /healthz.
    """

    def __init__(self, app: ASGIApp, demo: Any, model: dict[str, str]) -> None:
        self.app, self.demo, self.model = app, demo, model
        self.open = 0  # requests
        self.held = 0  # bytes of JSON bodies
        self.busy: Counter[str] = Counter()  # requests at work by client: those that are on their way into a queue
        self._endpoints: dict[str, tuple[Any, list[dict[str, Any]]]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange(self, scope, receive, send)
        self.open += 1
        try:
            await exchange.run()
        finally:
            self.open -= 1

    def endpoints(self) -> dict[str, tuple[Any, list[dict[str, Any]]]]:
        """Of each public endpoint, Gradio's function and its parameters."""
        if not self._endpoints:
            named = self.demo.get_api_info()["named_endpoints"]
            functions = {fn.api_name: fn for fn in self.demo.fns.values() if f"/{fn.api_name}" in named}
            self._endpoints = {name: (fn, named[f"/{name}"]["parameters"]) for name, fn in functions.items()}
        return self._endpoints

    def hashes(self) -> str:
        """For the policy: the scripts that `launch(head=...)` brings, which Gradio puts into the page by script."""
        scripts = re.findall(r"<script[^>]*>(.+?)</script>", self.demo.head or "", re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
        return "".join(f" 'sha256-{digest}'" for digest in digests)

    def check_share(self, session: str | None, host: str) -> str:
        """One client may fill no more than a quarter of the queue, one public address no more than half.

        Args:
            session: what the client calls itself, if it does.
            host: its address; behind a proxy that is not trusted, the proxy's.

        Returns:
            Whose request it is, for `busy`.

        Raises:
            RequestError: it has as much waiting already.
        """
        waiting = [event for one in self.demo._queue.event_queue_per_concurrency_id.values() for event in one.queue]
        there = [event for event in waiting if _host(event.request.scope) == host]
        mine = (
            [event for event in waiting if event.session_hash == session]
            if session
            else [event for event in there if event.session_hash == event._id]  # as Gradio names who has no session
        )
        client, share = f"queue {session or host}", self._share()
        if len(mine) + self.busy[client] >= share or (_is_public(host) and len(there) >= 2 * share):
            raise RequestError(429, "busy", BUSY)
        return client

    def check_tools(self, host: str) -> str:
        """As `check_share`, for calls of tools, which have a queue of their own: of a public address's at once."""
        client = f"tools {host}"
        if _is_public(host) and self.busy[client] >= self._share():
            raise RequestError(429, "busy", BUSY)
        return client

    def _share(self) -> int:
        return max(1, (self.demo._queue.max_size or 64) // 4)


BUSY = "As many of your requests wait already as one client may have waiting. Wait for their answers, then send more."


def _host(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""


def _is_public(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return False


class Exchange:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self.guard, self.demo = guard, guard.demo
        kept = [pair for pair in scope["headers"] if pair[0] not in (b"x-gradio-server", b"range", b"if-range")]
        self.scope: Scope = {**scope, "headers": kept}
        self.headers = Headers(scope=self.scope)
        self.receive, self.send = receive, send
        self.route = Route("other", (), re.compile(""))
        self.path: re.Match[str] | None = None
        self.began = time.perf_counter()
        self.came = 0  # bytes of the body
        self.whole = False  # whether all of it has come
        self.held = 0  # bytes of it in memory
        self.status = 0
        self.started = False
        self.page: tuple[Message, list[bytes]] | None = None  # an answer that is held until it is whole

    async def run(self) -> None:
        try:
            await self._forward()
        except RequestError as error:
            await self._refuse(error)
        except ClientDisconnect:
            self.status = 499
        except OSError as error:
            _log_failure(error)
            await self._refuse(
                RequestError(507, "no_space", f"{_reason(error)}. Nothing was kept; please come back later.")
            )
        except Exception as error:
            if self.route.name != "events":  # Gradio ends a stream of a session that it does not know so
                _log_failure(error)
            await self._refuse(_explain(self.route.name, 400 if self.route.name == "upload" else 500))
        finally:
            self.guard.held -= self.held
            if self.route.name not in QUIET or self.status >= 400:
                ms = (time.perf_counter() - self.began) * 1000
                log_outcome(f"{self.scope['method']} {self.route.name}", self.status, size=self.came, ms=ms)

    async def _forward(self) -> None:
        self.route, self.path = _find(self.scope["method"], self.scope["path"])
        if self.guard.open > MAX_OPEN:
            raise RequestError(503, "busy", "Too many requests are open here. Please come back in a minute.")
        self._check_headers()
        if self.route.name == "healthz":
            await self._healthz()
        elif self.route.name == "upload":
            await self._upload()
        elif self.route.name in BODIES and self.scope["method"] == "POST":
            await self._json()
        else:
            await self._pass(self.receive)

    async def _pass(self, receive: Receive) -> None:
        await self.guard.app(self.scope, receive, self._send)
        if self.status >= 400 and not self.started:
            raise _explain(self.route.name, self.status)

    def _check_headers(self) -> None:
        """Gradio makes addresses of these outside of what it catches: a wrong one would leave its client waiting."""
        for name in ("host", "x-forwarded-host"):
            for value in self.headers.getlist(name):
                if not all(_ADDRESS.fullmatch(part.strip()) for part in value.split(",")):
                    raise RequestError(
                        400, "bad_request", f"The header {name} names no host; expected one, such as host:port."
                    )
        query = QueryParams(self.scope["query_string"])
        for name, pattern in self.route.query.items():
            if not all(re.fullmatch(pattern, value, re.ASCII) for value in query.getlist(name)):
                raise RequestError(
                    400, "bad_request", f"{name} is malformed; expected up to 64 letters, digits and dashes."
                )

    async def _healthz(self) -> None:
        queue = self.demo._queue
        facts = {"waiting": len(queue), "limit": queue.max_size}
        await self._respond(200, {"status": "ok", "model": self.guard.model, "queue": facts})

    # Uploads

    async def _upload(self) -> None:
        kind, options = parse_options_header(self.headers.get("content-type"))
        boundary = b"--" + options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not 3 <= len(boundary) <= 72:
            raise _explain("upload", 400)
        if int(self.headers.get("content-length", 0)) > MAX_UPLOAD:
            raise _explain("upload", 413)
        if trouble := await asyncio.to_thread(uploads.trouble):
            raise RequestError(507, "no_space", trouble)
        parts, tail = 0, b""

        async def counted() -> Message:
            nonlocal parts, tail
            message = await self._next()
            body = message.get("body", b"")
            uploads.used += len(body)
            parts += (tail + body).count(boundary)
            tail = (tail + body)[1 - len(boundary) :]
            if parts > MAX_FILMS + 1:  # one more than there are parts ends the last
                raise RequestError(413, "too_many_films", f"More than {MAX_FILMS} files came. Send several requests.")
            if self.came > MAX_UPLOAD:
                raise _explain("upload", 413)
            if uploads.used > uploads.quota:
                raise RequestError(507, "no_space", uploads.trouble() or "The space for uploads is used up.")
            return message

        uploads.receiving += 1
        try:
            await self._pass(counted)
        finally:
            uploads.receiving -= 1
            if not self.started:
                await asyncio.to_thread(uploads.clear_orphans)

    async def _next(self) -> Message:
        """The next message of the client; raises RequestError if it makes us wait for it too long."""
        try:
            message = await asyncio.wait_for(self.receive(), IDLE)
        except TimeoutError:
            raise RequestError(408, "timeout", f"Nothing came for {IDLE:g} s. Send the request again.") from None
        self.came += len(message.get("body", b""))
        self.whole = not message.get("more_body")
        return message

    # JSON

    async def _json(self) -> None:
        media, _, _ = self.headers.get("content-type", "").partition(";")
        if media.strip().lower() != "application/json":
            raise RequestError(
                415, "bad_request", "Expected a JSON object; send it with Content-Type: application/json."
            )
        name, host = self.route.name, _host(self.scope)
        value = parse(await self._body(MAX_MCP if name == "mcp" else MAX_JSON))
        client = ""
        try:
            checked = getattr(self, f"_check_{name}")(value)
            if name in ("join", "call", "call_v2"):
                client = self.guard.check_share(checked.get("session_hash") if name != "call_v2" else None, host)
            elif name == "mcp":
                client = self.guard.check_tools(host)
        except RequestError as error:
            if name != "mcp" or error.status not in (422, 429) or value.get("id") is None:
                raise
            await self._refuse_tool(value["id"], error)
            return
        body = json.dumps(checked).encode()  # so that what follows cannot read it otherwise
        headers = MutableHeaders(scope=self.scope)
        headers["content-length"] = str(len(body))
        del headers["transfer-encoding"]
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replayed() -> Message:
            return next(messages, None) or await self.receive()

        self.guard.busy[client] += 1
        try:
            await self._pass(replayed)
        finally:
            self.guard.busy -= Counter([client])

    async def _body(self, limit: int) -> bytes:
        too_large = RequestError(
            413, "too_large", f"The body has more than {limit // 1024} KB. Upload films at /gradio_api/upload first."
        )
        if int(self.headers.get("content-length", 0)) > limit:
            raise too_large
        body = bytearray()
        while True:
            message = await self._next()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part = message.get("body", b"")
            self.held += len(part)
            self.guard.held += len(part)
            body += part
            if len(body) > limit:
                raise too_large
            if self.guard.held > MAX_HELD:
                raise RequestError(503, "busy", "Too many large requests are open here. Please come back in a minute.")
            if not message.get("more_body"):
                return bytes(body)

    def _check_join(self, value: dict[str, Any]) -> dict[str, Any]:
        """The page's and the clients' way into the queue."""
        value = check_fields(value, JOIN)  # Gradio would take more, such as `batched`
        function = self.demo.fns.get(value["fn_index"])
        if function is None or not function.queue:
            raise RequestError(
                404, "unknown_endpoint", "fn_index is none of this page's functions. Load the page again."
            )
        if len(value["data"]) != len(function.inputs):
            raise _invalid(f"data has {len(value['data'])} values; expected {len(function.inputs)}.")
        paths = check_files(value)
        check_values(function, value["data"])
        if function.api_visibility != "public" and not all(path.is_file() for path in paths):
            raise RequestError(410, "upload_gone", GONE)  # endpoints for programs say it themselves
        return value

    def _check_call(self, value: dict[str, Any]) -> dict[str, Any]:
        """For curl: the values in a list, of which the last may be left out."""
        function, parameters = self._endpoint()
        value = check_fields(value, CALL)
        data = value["data"]
        missing = parameters[len(data) :]
        if len(data) != len(function.inputs):
            if len(data) > len(parameters) or not all(one["parameter_has_default"] for one in missing):
                names = ", ".join(one["parameter_name"] for one in parameters) or "none"
                raise _invalid(f"data has {len(data)} values; expected these, in their order: {names}.")
            data = value["data"] = data + [one["parameter_default"] for one in missing]
        check_files(value)
        check_values(function, data)
        return value

    def _check_call_v2(self, value: dict[str, Any]) -> dict[str, Any]:
        """For curl: the values by name."""
        function, parameters = self._endpoint()
        names = {one["parameter_name"] for one in parameters}
        needed = {one["parameter_name"] for one in parameters if not one["parameter_has_default"]}
        if not needed <= value.keys() <= names:
            known = ", ".join(sorted(names)) or "none"
            raise _invalid(f"The body has other names than this endpoint's parameters; expected {known}.")
        check_files(value)
        check_values(function, [value.get(one["parameter_name"]) for one in parameters])
        return value

    def _endpoint(self) -> tuple[Any, list[dict[str, Any]]]:
        endpoints = self.guard.endpoints()
        name = self.path["name"] if self.path else ""
        if name not in endpoints:
            raise RequestError(
                404, "unknown_endpoint", f"No such endpoint; expected one of {', '.join(sorted(endpoints))}."
            )
        return endpoints[name]

    def _check_cancel(self, value: dict[str, Any]) -> dict[str, Any]:
        return check_fields(value, CANCEL)

    def _check_reset(self, value: dict[str, Any]) -> dict[str, Any]:
        return check_fields(value, RESET)

    def _check_mcp(self, value: dict[str, Any]) -> dict[str, Any]:
        """A message of the Model Context Protocol; only calls of tools name films."""
        params = value.get("params", {})
        if value.get("jsonrpc") != "2.0" or not isinstance(params, dict) or type(value.get("id")) not in MCP_IDS:
            raise RequestError(400, "bad_request", "The body is no message of MCP; expected JSON-RPC 2.0.")
        check_files(params)
        return value

    # Answers

    async def _send(self, message: Message) -> None:
        """Pass an answer on; hold errors back, which are told in other words, and what is to be changed as a whole."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.status >= (500 if self.route.name == "mcp" else 400):
                return
            headers = MutableHeaders(scope=message)
            if self.route.name not in ("asset", "page"):
                headers["Cache-Control"] = "no-store"
            if self.route.name == "file":
                headers["Content-Security-Policy"] = CSP_FILE
            if self.route.name in ("upload", "config") or headers.get("content-type", "").startswith("text/html"):
                self.page = message, []
                return
        elif self.status >= 400 and not self.started:
            return
        elif self.page:
            await self._send_whole(message)
            return
        elif self.route.name == "events":
            message = {**message, "body": clear_event(message.get("body", b""))}
        elif self.route.name == "mcp":
            message = {**message, "body": _clear_mcp(message.get("body", b""))}
        self.started = True
        await self.send(message)

    async def _send_whole(self, message: Message) -> None:
        assert self.page
        start, parts = self.page
        parts.append(message.get("body", b""))
        if message.get("more_body"):
            return
        body = b"".join(parts)
        if self.route.name == "upload":
            if body == b"[]":  # what Gradio makes of an upload that is cut off
                raise _explain("upload", 400)
        elif self.route.name == "config":
            # For the page, which has its own copy. The JavaScript client would keep its program from ending.
            body = body.replace(b'"connect_heartbeat":true', b'"connect_heartbeat":false')
            MutableHeaders(scope=start)["Content-Length"] = str(len(body))
        else:
            body = self._with_nonce(start, body)
        self.started = True
        await self.send(start)
        await self.send({"type": "http.response.body", "body": body})

    def _with_nonce(self, start: Message, html: bytes) -> bytes:
        """Allow the scripts that are in a page, and no other inline ones."""
        nonce = secrets.token_urlsafe(16)
        body = html.replace(b"<script", f'<script nonce="{nonce}"'.encode())
        headers = MutableHeaders(scope=start)
        headers["Content-Length"] = str(len(body))
        headers["Content-Security-Policy"] = CSP.format(inline=f" 'nonce-{nonce}'{self.guard.hashes()}")
        headers["Cache-Control"] = "no-store"
        return body

    async def _refuse_tool(self, number: Any, error: RequestError) -> None:
        """As MCP tells errors to the one who called a tool."""
        content = [{"type": "text", "text": f"{error.code}: {error.message}"}]
        await self._respond(200, {"jsonrpc": "2.0", "id": number, "result": {"content": content, "isError": True}})

    async def _refuse(self, error: RequestError) -> None:
        if self.started:  # an event stream: it ends here
            with contextlib.suppress(Exception):
                await self.send({"type": "http.response.body", "body": b""})
            return
        with contextlib.suppress(RequestError, TimeoutError):
            await asyncio.wait_for(self._drain(), 5)
        answer: dict[str, Any] = {"error": {"code": error.code, "message": error.message}}
        answer["detail"] = error.message  # what Gradio's clients and page read
        if error.status == 422:  # in which they expect the findings of validators
            answer["detail"] = [{"__type__": "validate", "is_valid": False, "message": error.message}]
        await self._respond(error.status, answer)

    async def _drain(self) -> None:
        """Read what the client still sends: one that is cut off while it sends does not see the answer."""
        while self.scope["method"] == "POST" and not self.whole and self.came < DRAIN:
            await self._next()

    async def _respond(self, status: int, answer: dict[str, Any]) -> None:
        self.status, self.started = status, True
        body = json.dumps(answer).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Cache-Control": "no-store"}
        if status in (429, 503, 507):
            headers["Retry-After"] = str(RETRY_AFTER)
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})


def _find(method: str, path: str) -> tuple[Route, re.Match[str] | None]:
    known = [(route, match) for route in ROUTES if (match := route.path.fullmatch(path))]
    if not known:
        raise RequestError(404, "not_found", "There is nothing at this address. README.md tells what there is.")
    for route, match in known:
        if method in route.methods:
            return route, match
    allowed = ", ".join(known[0][0].methods)
    raise RequestError(405, "method_not_allowed", f"This address takes {allowed} only.")


def _explain(route: str, status: int) -> RequestError:
    """Gradio's error in words of this service: its own may quote what came."""
    film = f"{MAX_FILM // 2**20} MB"
    known = {
        ("file", 403): (404, "not_found", GONE),
        ("file", 404): (404, "not_found", GONE),
        ("progress", 404): (404, "not_found", "No such upload is under way."),
        ("upload", 400): (400, "bad_upload", "This is no upload; send multipart/form-data with each film as `files`."),
        ("upload", 413): (
            413,
            "too_large",
            f"Too much came: a film may have {film}, its name 200 characters, and one upload {MAX_FILMS} films.",
        ),
        ("join", 503): (503, "queue_full", QUEUE_FULL),
        ("call", 503): (503, "queue_full", QUEUE_FULL),
        ("call_v2", 503): (503, "queue_full", QUEUE_FULL),
    }
    if found := known.get((route, status)):
        return RequestError(*found)
    if status == 404:
        return RequestError(404, "not_found", "There is nothing at this address.")
    if status < 500:
        return RequestError(status, "bad_request", "The request could not be understood; README.md shows how to ask.")
    return RequestError(500, "internal_error", FAILED)


FAILED = "The service failed, not your film. Try again; if it happens again, please report it."
QUEUE_FULL = "The queue is full: many films are waiting already. Please come back in a minute."
UNKNOWN = "This session is not known here, or is over. Ask again."


def clear_event(body: bytes) -> bytes:
    """A server-sent event, as Gradio writes it in one piece; an error in it says something and nothing internal."""
    head, mark, text = body.partition(b"data: ")
    is_call = head == b"event: error\n"
    if not is_call and not (head == b"" and (b'"success":false' in text or b'"unexpected_error"' in text)):
        return body
    try:
        value = json.loads(text)
    except ValueError:
        return body
    if not isinstance(value, dict):  # what a call gets that has no such event
        value = {"error": UNKNOWN}
    elif value.get("msg") == "unexpected_error":
        value["message"] = UNKNOWN if value.get("session_not_found") else FAILED
    else:
        output = value if is_call else value.get("output") or {}
        if output.get("error") is None:
            output |= {"error": uploads.trouble() or FAILED, "title": "internal_error", "visible": True}
            value = output if is_call else {**value, "output": output, "title": "internal_error"}
    return head + mark + json.dumps(value).encode() + b"\n\n"


def _clear_mcp(body: bytes) -> bytes:
    """A message of the MCP server; where a tool failed, without paths and inner addresses."""
    if b'"isError":true' not in body:
        return body
    pattern = rb"\[Errno \d+\][^\"]*|(?:Client|Server) error '\d+ [^\"]*"
    return re.sub(pattern, (uploads.trouble() or FAILED).encode(), body)


# Housekeeping


def app_kwargs(demo: Any, model: dict[str, str]) -> dict[str, Any]:
    """What `launch` is to hand to FastAPI, so that the guard stands before the page.

    Args:
        demo: the Blocks that are launched.
        model: id and revision of what answers.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        # Gradio adds layers of its own around those that it is given; these headers belong around all.
        app.middleware_stack = SecurityHeaders(app.middleware_stack)
        uploads.own = frozenset(path for path in uploads.path.rglob("*") if path.is_file())
        task = asyncio.create_task(_keep_house(demo))
        try:
            yield
        finally:
            task.cancel()

    guard = Middleware(Guard, demo=demo, model=model)
    return {"middleware": [guard], "lifespan": lifespan, "openapi_url": None}


async def _keep_house(demo: Any) -> None:
    seen: dict[str, float] = {}
    while True:
        try:
            await asyncio.to_thread(uploads.sweep)
            forget(demo, seen)
        except Exception as error:
            _log_failure(error)
        await asyncio.sleep(SWEEP)


def forget(demo: Any, seen: dict[str, float]) -> None:
    """Drop what Gradio remembers of clients that went: names of their files, and answers that nobody fetched.

    Args:
        demo: the Blocks.
        seen: of each thing remembered, when it was first seen; kept from call to call.
    """
    from gradio.routes import file_upload_statuses as progress

    queue = demo._queue
    waiting = {event.session_hash for event in queue.event_ids_to_events.values()}
    idle = [session for session in queue.pending_messages_per_session if session not in waiting]
    kept = {*(f"events {session}" for session in idle), *(f"upload {name}" for name in progress._signals)}
    for gone in seen.keys() - kept:
        del seen[gone]
    for key in kept:
        if time.monotonic() - seen.setdefault(key, time.monotonic()) > MAX_AGE:
            kind, name = key.split(" ", 1)
            if kind == "events":
                queue.pending_messages_per_session.pop(name, None)
                queue.pending_event_ids_session.pop(name, None)
            else:
                progress._statuses.pop(name, None)
                progress._signals.pop(name, None)
    holder = demo.state_holder
    for session, used in list(holder.time_last_used.items()):
        if session not in waiting and (datetime.now() - used).total_seconds() > MAX_AGE:
            holder.session_data.pop(session, None)
            holder.time_last_used.pop(session, None)
    for names in demo.temp_file_sets:
        names -= {name for name in names if not Path(name).exists()}
