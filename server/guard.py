"""The guard: every request and every answer goes through it."""

import asyncio
import base64
import contextlib
import hashlib
import ipaddress
import json
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.folder import reason, uploads
from server.log import log_failure, log_outcome
from server.rules import (
    ADDRESS,
    BODIES,
    CALL,
    CANCEL,
    GONE,
    JOIN,
    MCP_IDS,
    QUIET,
    RESET,
    RequestError,
    Route,
    check_fields,
    check_files,
    check_values,
    find_route,
    invalid,
    parse,
)

IDLE = 60.0  # seconds that a client may pause while it sends
MAX_FILMS = 32  # files in one upload
MAX_FILM = 20 * 2**20  # bytes, as max_file_size="20mb" in app.py
MAX_UPLOAD = MAX_FILMS * (MAX_FILM + 2**16)
MAX_JSON = 256 * 2**10
MAX_MCP = MAX_FILM // 3 * 4 + 2**16  # a film of full size in base64
MAX_HELD = 256 * 2**20  # bytes of JSON of all requests together
MAX_OPEN = 512  # requests at once, event streams among them; a public address's: a quarter
MAX_HEARTBEATS = 2048  # idle streams at once, of which every open page holds one; a public address's: a sixteenth
RETRY_AFTER = 30  # seconds
DRAIN = 64 * 2**20  # bytes read of a refused request, so that its sender gets to read the answer

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
        self.open: Counter[str] = Counter()  # requests, and those of each address
        self.held = 0  # bytes of JSON bodies
        self.busy: Counter[str] = Counter()  # requests at work by client: those that are on their way into a queue
        self._endpoints: dict[str, tuple[Any, list[dict[str, Any]]]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await Exchange(self, scope, receive, send).run()

    @contextlib.contextmanager
    def opened(self, route: str, host: str) -> Iterator[None]:
        """Count a request as open; heartbeats apart, which are idle and as many as there are open pages.

        Args:
            route: its name.
            host: the client's address.

        Raises:
            RequestError: too many are open already, or too many of this public address.
        """
        kind, limit, share = ("requests", MAX_OPEN, MAX_OPEN // 4)
        if route == "heartbeat":
            kind, limit, share = ("heartbeats", MAX_HEARTBEATS, MAX_HEARTBEATS // 16)
        counted = (kind, f"{kind} {host}")
        if self.open[kind] >= limit:
            raise RequestError(503, "busy", "Too many requests are open here. Please come back in a minute.")
        if _is_public(host) and self.open[counted[1]] >= share:
            raise RequestError(429, "busy", OPEN)
        self.open.update(counted)
        try:
            yield
        finally:
            self.open.subtract(counted)
            if not self.open[counted[1]]:
                del self.open[counted[1]]

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
OPEN = "As many requests are open here as one address may have open. Wait for their answers, then send more."


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
            log_failure(error)
            await self._refuse(
                RequestError(507, "no_space", f"{reason(error)}. Nothing was kept; please come back later.")
            )
        except Exception as error:
            if self.route.name != "events":  # Gradio ends a stream of a session that it does not know so
                log_failure(error)
            await self._refuse(_explain(self.route.name, 400 if self.route.name == "upload" else 500))
        finally:
            self.guard.held -= self.held
            if self.route.name not in QUIET or self.status >= 400:
                ms = (time.perf_counter() - self.began) * 1000
                log_outcome(f"{self.scope['method']} {self.route.name}", self.status, size=self.came, ms=ms)

    async def _forward(self) -> None:
        self.route, self.path = find_route(self.scope["method"], self.scope["path"])
        self._check_headers()
        if self.route.name == "healthz":  # for who watches over the service, however much is open
            await self._healthz()
            return
        with self.guard.opened(self.route.name, _host(self.scope)):
            if self.route.name == "upload":
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
                if not all(ADDRESS.fullmatch(part.strip()) for part in value.split(",")):
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
        parts, tail, took = 0, b"", 0
        ended: Exception | None = None

        async def counted() -> Message:
            nonlocal parts, tail, took
            message = await self._next()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body = message.get("body", b"")
            uploads.used += len(body)
            took += len(body)
            parts += (tail + body).count(boundary)
            tail = (tail + body)[1 - len(boundary) :]
            if parts > MAX_FILMS + 1:  # one more than there are parts ends the last
                raise RequestError(413, "too_many_films", f"More than {MAX_FILMS} files came. Send several requests.")
            if self.came > MAX_UPLOAD:
                raise _explain("upload", 413)
            if uploads.used > uploads.quota:
                raise RequestError(507, "no_space", uploads.trouble() or "The space for uploads is used up.")
            return message

        async def received() -> Message:
            nonlocal ended
            try:
                return await counted()
            except Exception as error:
                ended = error
                raise MultiPartException("") from None  # at which Gradio deletes what it has written of this upload

        uploads.receiving += 1
        try:
            await self._pass(received)
        except Exception as error:
            raise ended or error from None
        finally:
            uploads.receiving -= 1
            if not self.started:
                uploads.used = max(0, uploads.used - took)
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
            if name != "mcp" or error.status not in (410, 422, 429) or value.get("id") is None:
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
            raise invalid(f"data has {len(value['data'])} values; expected {len(function.inputs)}.")
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
                raise invalid(f"data has {len(data)} values; expected these, in their order: {names}.")
            data = value["data"] = data + [one["parameter_default"] for one in missing]
        check_files(value)
        check_values(function, data)
        return value

    def _check_call_v2(self, value: dict[str, Any]) -> dict[str, Any]:
        """For curl: the values by name."""
        function, parameters = self._endpoint()
        names = [one["parameter_name"] for one in parameters]
        expected = f"expected {', '.join(names) or 'none'}."
        for one in parameters:
            if one["parameter_name"] not in value and not one["parameter_has_default"]:
                raise invalid(f"{one['parameter_name']} is missing; {expected}")
        if unknown := len(value.keys() - set(names)):
            raise invalid(
                f"{unknown} of the names in the body {'is' if unknown == 1 else 'are'} unknown here; {expected}"
            )
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
            raise RequestError(400, "bad_request", NO_MCP)
        if not isinstance(value.get("method"), str) and not {"result", "error"} & value.keys():
            raise RequestError(400, "bad_request", "method is no text; expected one of MCP's, such as tools/call.")
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
            whole = self.route.name in ("upload", "config") or (self.route.name == "mcp" and self.status >= 400)
            if whole or headers.get("content-type", "").startswith("text/html"):
                self.page = message, []
                return
        elif self.page:
            await self._send_whole(message)
            return
        elif self.status >= 400 and not self.started:
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
        elif self.route.name == "mcp" and self.status >= 400:
            if b"pydantic" in body or b"input_value" in body:  # which quotes what came
                await self._refuse(RequestError(400, "bad_request", NO_MCP))
                return
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
NO_MCP = "The body is no message of MCP; expected JSON-RPC 2.0."
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
