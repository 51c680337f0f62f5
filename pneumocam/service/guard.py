"""ASGI middleware around all interfaces: known routes only, limits, security headers, safe error messages, the log."""

import asyncio
import contextlib
import ipaddress
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers, MutableHeaders
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pneumocam.service.errors import RequestError, body, explain, of_status
from pneumocam.service.limits import Limits
from pneumocam.service.log import log_outcome
from pneumocam.service.uploads import Uploads

FRAMES = "frame-ancestors 'self' https://huggingface.co https://*.hf.space"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    f"manifest-src 'self'; base-uri 'none'; form-action 'none'; {FRAMES}"
)
CSP_UPLOAD = f"default-src 'none'; sandbox; {FRAMES}"  # no browser runs an uploaded file
FEATURES = "camera display-capture geolocation gyroscope accelerometer microphone midi payment serial usb"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": ", ".join(f"{feature}=()" for feature in FEATURES.split()),
}
OWN = re.compile(r"/|/(healthz|openapi\.json)|/(api|page|web|examples)/.*|/gradio_api/mcp(/.*)?")
ID = r"[\w-]{1,64}"
GRADIO = {  # what gradio_client and @gradio/client ask; nothing else of Gradio's is reachable
    "config": ("GET", r"/config/?"),
    "info": ("GET", r"/gradio_api/(info/?|app_id/?|startup-events)"),
    "upload": ("POST", r"/gradio_api/upload"),
    "progress": ("GET", r"/gradio_api/upload_progress"),
    "join": ("POST", r"/gradio_api/queue/join"),
    "events": ("GET", rf"/gradio_api/queue/data|/gradio_api/call/(v2/)?{ID}/[0-9a-f]{{32}}"),
    "call": ("POST", rf"/gradio_api/call/(v2/)?{ID}/?"),
    "cancel": ("POST", r"/gradio_api/(cancel|reset/?)"),
    "heartbeat": ("GET", rf"/gradio_api/heartbeat/{ID}"),
    "file": ("GET HEAD", r"/gradio_api/file=/.+"),
}
HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]{1,253})(:\d{1,5})?", re.ASCII)
DRAIN = 64_000_000  # bytes that are read of a refused request, so that its sender reads the answer


class Guard:
    """The middleware.

    Args:
        app: Gradio, which takes the routes of `GRADIO`.
        own: takes the routes of `OWN`.
        limits: the bounds.
        uploads: Gradio's folder.
    """

    def __init__(self, app: ASGIApp, own: ASGIApp, limits: Limits, uploads: Uploads | None = None) -> None:
        self.app, self.own, self.limits, self.uploads = app, own, limits, uploads
        self.open = Counter[str]()  # requests by public address; "" for all together
        self.held = 0  # bytes of the bodies of open requests
        self.rates = MovingWindowRateLimiter(MemoryStorage())
        self.rate = parse(limits.rate)
        one, many = limits.image_bytes + 65_536, limits.request_bytes
        self.body_bytes = {"/api/predict": one, "/page/predict": one, "/page/report": one, "/api/predict_many": many}
        self.body_bytes |= {"/page/archive": many, "/gradio_api/upload": many, "/gradio_api/mcp": limits.tool_bytes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Exchange(self, scope, receive, send).run()
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self.app(scope, receive, send)

    @contextlib.contextmanager
    def counted(self, address: str) -> Iterator[None]:
        """Count a request as open; raises RequestError `busy` or `rate` if too many are."""
        if self.open[""] >= self.limits.open:
            raise RequestError("busy", "Too many requests are open. Please come back in a minute.")
        if address and self.open[address] >= self.limits.open // 4:
            raise RequestError("rate", "Too many requests of your address are open. Wait for their answers.")
        self.open.update(["", address] if address else [""])
        try:
            yield
        finally:
            self.open.subtract(["", address] if address else [""])
            if not self.open[address]:
                del self.open[address]

    def check_rate(self, address: str) -> None:
        """Count a request with images; raises RequestError `rate` if its address sent too many."""
        if address and not self.rates.hit(self.rate, address):
            raise RequestError("rate", f"Your address sent more than {self.rate} requests. Please wait a minute.")


def _public(scope: Scope) -> str:
    """The client's address, or "" for one of a local network: behind an unknown proxy all clients share its address."""
    try:
        return scope["client"][0] if ipaddress.ip_address(scope["client"][0]).is_global else ""
    except (TypeError, ValueError):
        return ""


class _Exchange:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        kept = [pair for pair in scope["headers"] if pair[0] not in (b"x-gradio-server", b"range", b"if-range")]
        self.guard, self.limits, self.receive, self.send = guard, guard.limits, receive, send
        self.scope: Scope = {**scope, "headers": kept}
        self.path: str = scope["path"]
        self.name = "own"
        self.logged = "unknown"  # what the log says of the address: never more than what this file knows
        self.came = self.status = 0
        self.whole = self.started = False
        self.ended: Exception | None = None  # why the body ended early

    async def run(self) -> None:
        began, address = time.perf_counter(), _public(self.scope)
        try:
            self._check()
            if self.path == "/healthz":  # also when everything is full
                await self.guard.own(self.scope, self._received, self._sent)
                return
            with self.guard.counted(address):
                if self.path in self.guard.body_bytes or self.name in ("join", "call"):
                    self.guard.check_rate(address)
                await self._forward()
        except asyncio.CancelledError:
            self.status = 499
            raise
        except Exception as error:
            await self._refuse(self.ended or error)
        finally:
            self.guard.held -= self.came
            if self.path.startswith("/api/") or self.scope["method"] != "GET" or self.status >= 400:
                seconds = time.perf_counter() - began
                log_outcome(f"{self.scope['method']} {self.logged}", self.status, size=self.came, seconds=seconds)

    def _check(self) -> None:
        for name in ("host", "x-forwarded-host"):  # Gradio builds addresses of these
            for value in Headers(scope=self.scope).getlist(name):
                if not all(HOST.fullmatch(part.strip()) for part in value.split(",")):
                    raise RequestError("bad_request", f"The header {name} names no host; expected host:port.")
        if OWN.fullmatch(self.path):
            self.logged = self.path if self.path in self.guard.body_bytes else f"/{self.path.split('/')[1]}"
        else:
            methods = ""
            for self.name, (methods, pattern) in GRADIO.items():  # noqa: B007
                if re.fullmatch(pattern, self.path, re.ASCII):
                    break
            else:
                self.name = "unknown"
                raise of_status(404)
            self.logged = self.name
            if self.scope["method"] not in methods.split():
                raise RequestError("method_not_allowed", f"This address takes {methods} only.")

    async def _forward(self) -> None:
        if self.name == "own":
            await self.guard.own(self.scope, self._received, self._sent)
            return
        receive: Receive = self._received
        if self.name == "upload" and self.guard.uploads:
            size = Headers(scope=self.scope).get("content-length", "")
            self.guard.uploads.reserve(int(size) if size.isdecimal() else self.limits.image_bytes)
            receive = self._received_upload
        elif self.name in ("join", "call"):
            receive = await self._checked_json()
        await self.guard.app(self.scope, receive, self._sent)
        if self.status >= 400 and not self.started:
            raise self.ended or of_status(self.status)  # Gradio's own message may quote the request

    # The body

    async def _received(self) -> Message:
        if self.whole:
            return await self.receive()  # waits until the client goes away
        try:
            message = await asyncio.wait_for(self.receive(), self.limits.idle_seconds)
        except TimeoutError:
            raise RequestError("timeout", f"Nothing came for {self.limits.idle_seconds:g} s. Send it again.") from None
        size = len(message.get("body", b""))
        self.came += size
        self.guard.held += size
        self.whole = message["type"] == "http.disconnect" or not message.get("more_body")
        most = self.guard.body_bytes.get(self.path.rstrip("/"), self.limits.json_bytes)
        if self.came > most:
            raise RequestError("too_large", f"The body has more than {most:,} bytes. Send less in one request.")
        if self.guard.held > self.limits.held_bytes:
            raise RequestError("busy", "Too many large requests are open. Please come back in a minute.")
        return message

    async def _received_upload(self) -> Message:
        """An upload that ends early is told to Gradio in the one way in which it deletes what it has written."""
        try:
            message = await self._received()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
        except (RequestError, ClientDisconnect) as error:
            self.ended = error
            raise MultiPartException("") from None
        return message

    async def _checked_json(self) -> Receive:
        """Read a call whole, and refuse one that names a file elsewhere: Gradio would fetch a web address."""
        parts = bytearray()
        while not self.whole:
            parts += (await self._received()).get("body", b"")
        try:
            value = json.loads(parts)
            for file in _files(value):
                self._check_file(file)
        except (ValueError, RecursionError):
            raise RequestError("bad_request", "The body is not JSON; expected an object in UTF-8.") from None
        messages = iter([{"type": "http.request", "body": json.dumps(value).encode(), "more_body": False}])
        headers = MutableHeaders(scope=self.scope)
        del headers["content-length"], headers["transfer-encoding"]

        async def replayed() -> Message:
            return next(messages, None) or await self.receive()

        return replayed

    def _check_file(self, path: str) -> None:
        if re.match(r"\s*([a-z][a-z0-9+.-]*:)?//", path, re.IGNORECASE):
            raise RequestError("no_url", "A web address came, and none is fetched. Upload the image and send its path.")
        if self.guard.uploads:
            self.guard.uploads.file(path)

    # The answer

    async def _sent(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.name != "own" and self.status >= 400:
                return  # answered in other words
            headers = MutableHeaders(scope=message)
            headers.update(HEADERS)
            headers.setdefault("Content-Security-Policy", CSP if self.name == "own" else CSP_UPLOAD)
            headers.setdefault("Cache-Control", "no-store")
        elif not self.started and self.name != "own" and self.status >= 400:
            return
        self.started = True
        await self.send(message)

    async def _refuse(self, error: Exception) -> None:
        if isinstance(error, ClientDisconnect):
            self.status = 499
            return
        if isinstance(error, OSError):
            error = RequestError("no_space", "The server's disk is full or cannot be written. Please come back later.")
        if self.started:  # a stream: it ends here
            with contextlib.suppress(Exception):
                await self.send({"type": "http.response.body", "body": b""})
            return
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._drain(), 5)
        self.name = "own"
        await refusal(error, self.limits)(self.scope, self.receive, self._sent)

    async def _drain(self) -> None:
        while self.scope["method"] == "POST" and not self.whole and self.came < DRAIN:
            message = await self.receive()
            self.whole = not message.get("more_body")
            self.came += (size := len(message.get("body", b"")))
            self.guard.held += size


def refusal(error: Exception, limits: Limits) -> JSONResponse:
    """The answer to a request that failed."""
    status, code, message = explain(error)
    headers = {"Retry-After": str(limits.retry_seconds)} if status in (429, 503, 507) else {}
    return JSONResponse(body(code, message), status, headers)


def _files(value: Any) -> Iterator[str]:
    """The paths of all files that a JSON value names."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if isinstance(item.get("path"), str):
                yield item["path"]
            stack += item.values()
        elif isinstance(item, list):
            stack += item
