"""The page's routes: static files, and the requests of web/engine.server.js."""

import asyncio
import functools
import gzip
import hashlib
import mimetypes
import os
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Annotated, Any
from urllib.parse import quote, unquote

from fastapi import APIRouter, FastAPI, Query, Request, Response
from starlette.responses import JSONResponse

from pneumocam.service import page
from pneumocam.service.api import SharedOptions, check
from pneumocam.service.endpoints import Endpoints
from pneumocam.service.errors import RequestError

Images = Callable[[Request, str, int], Awaitable[list[tuple[str, bytes]]]]
MODULE = re.compile(rb"""(?<=from ")\./[\w./-]+\.js(?=")|(?<=import ")\./[\w./-]+\.js(?=")""")
LINK = re.compile(rb"""((?:src|href|content)=")(?:\./)?(?:web/)?([\w./-]+\.(?:js|css|json|svg|png|webmanifest))(?=")""")
FOREVER = "public, max-age=31536000, immutable"  # of addresses with the hash of what they hold


class Static:
    """A file of the page, ready to be sent."""

    def __init__(self, data: bytes | memoryview, media_type: str, version: str = "") -> None:
        """Compress it.

        Args:
            data: what is sent.
            media_type: of the data.
            version: an address with `?v=` and this may be cached for ever; by default the hash of the data.
        """
        self.data, self.media_type = bytes(data), media_type
        self.hash = hashlib.sha256(data).hexdigest()[:16]
        self.version = version or self.hash
        self.packed = b"" if media_type in ("image/jpeg", "image/png") else gzip.compress(data, 9, mtime=0)

    def response(self, request: Request) -> Response:
        """The file, compressed if the client takes it so; 304 if the client has it already."""
        etag = f'"{self.hash}"'
        cache = FOREVER if request.query_params.get("v") == self.version else "no-cache"
        headers = {"ETag": etag, "Cache-Control": cache, "Vary": "Accept-Encoding"}
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if self.packed and "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.packed, headers=headers | {"Content-Encoding": "gzip"}, media_type=self.media_type)
        return Response(self.data, headers=headers, media_type=self.media_type)


def add_page(app: FastAPI, endpoints: Endpoints, images_of: Images) -> Callable[[], object]:
    """Add the page's routes.

    Args:
        app: gets them.
        endpoints: what answers.
        images_of: reads multipart bodies.

    Returns:
        Classifies the examples in a thread. Call it when all routes are there: FastAPI silences a warning while it adds
        a route, reading an image silences others, and Python's filters of warnings are not safe between threads.
    """
    app.state.spool_bytes = endpoints.limits.image_bytes + 1
    classifier, limits = endpoints.classifier, endpoints.limits
    static = _web_files()

    @functools.cache
    def prepared() -> Future[tuple[dict[str, Static], Static]]:
        return ThreadPoolExecutor(1).submit(_with_examples, endpoints)

    rows: dict[str, Static] = {}  # of the examples, each made when it is asked for the first time
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    @router.api_route("/web/{_:path}", methods=["GET", "HEAD"])
    @router.api_route("/examples/{_:path}", methods=["GET", "HEAD"])
    async def file(request: Request) -> Response:
        path = request.scope["path"]
        files = static
        if path.startswith("/examples/"):
            files, _ = await asyncio.wrap_future(prepared())
        if path not in files:
            raise RequestError("not_found", "The page has no such file.")
        return files[path].response(request)

    @router.get("/page/info")
    async def info(request: Request) -> Response:
        _, information = await asyncio.wrap_future(prepared())
        return information.response(request)

    @router.post("/page/predict")
    async def predict(request: Request, force: bool = False) -> dict[str, Any]:
        data, name = await _image(request)
        async with endpoints.engine.admitted():
            return await endpoints.engine.run(page.row, data, name, SharedOptions(force=force))

    @router.get("/page/example/{file}")
    async def example_row(request: Request, file: str) -> Response:
        if file not in rows:
            truth = page.truth(file)
            async with endpoints.engine.admitted():
                row = await endpoints.engine.run(page.row, page.example(file), file, SharedOptions())
            rows[file] = Static(JSONResponse(row | {"truth": truth}).body, "application/json")
        return rows[file].response(request)

    @router.post("/page/report")
    async def report(request: Request, options: Annotated[page.ReportOptions, Query()]) -> Response:
        check(options, classifier)
        data, name = await _image(request)
        async with endpoints.engine.admitted():
            document = await endpoints.engine.run(page.report_file, data, options)
        media_type = "application/pdf" if options.format == "pdf" else "image/png"
        return _download(document, f"{page.safe_name(name)}.{options.format}", media_type)

    @router.post("/page/archive")
    async def archive(request: Request, options: Annotated[page.Drawing, Query()]) -> Response:
        check(options, classifier)
        images = await images_of(request, "images", limits.images)
        async with endpoints.engine.admitted():
            work = (endpoints.engine.run(page.entry, data, name, options) for name, data in images)
            entries = await asyncio.gather(*work)
        return _download(await asyncio.to_thread(page.archive, entries), "pneumocam.zip", "application/zip")

    app.include_router(router)
    return prepared


def _with_examples(endpoints: Endpoints) -> tuple[dict[str, Static], Static]:
    """The example images and their thumbnails by address, and what the page needs to know."""
    facts = page.facts(endpoints.classifier, endpoints.notice, endpoints.limits.images, endpoints.limits.image_bytes)
    facts["examples"] = []
    files = {}
    for example, thumbnail in page.examples(endpoints.classifier):
        files[f"/examples/{example['file']}"] = Static(page.example(example["file"]), "image/jpeg")
        path = f"/examples/thumbs/{example['file']}"
        files[path] = Static(thumbnail, "image/jpeg")
        facts["examples"].append(example | {"thumbnail": f".{path}?v={files[path].version}"})
    return files, Static(JSONResponse(facts).body, "application/json")


async def _image(request: Request) -> tuple[bytes, str]:
    data = await request.body()
    if not data:
        raise RequestError("bad_request", "The body is empty; send the bytes of an image file.")
    return data, unquote(request.headers.get("x-file-name", ""))[-255:] or "image"


def _download(data: bytes, name: str, media_type: str) -> Response:
    plain = name.encode("ascii", "replace").decode().replace("?", "_")
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name)}"
    return Response(data, media_type=media_type, headers={"Content-Disposition": disposition})


def _web_files() -> dict[str, Static]:
    """The files of web/ by address; the document is at / and its links and those between modules name a version."""
    contents = {path.relative_to(page.WEB).as_posix(): path.read_bytes() for path in sorted(page.WEB.rglob("*.*"))}
    version = hashlib.sha256(b"".join(contents.values())).hexdigest()[:16]
    result = {}
    for name, data in contents.items():
        kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0] or "text/plain"
        if name.endswith(".js"):
            data = MODULE.sub(rb"\g<0>?v=" + version.encode(), data)
        if name == "index.html":
            data = LINK.sub(rb"\1web/\2?v=" + version.encode(), data)
            if host := os.environ.get("SPACE_HOST"):  # programs that show the card want its whole address
                data = data.replace(b'content="web/', f'content="https://{host}/web/'.encode())
        result["/" if name == "index.html" else f"/web/{name}"] = Static(data, kind, version)
    return result
