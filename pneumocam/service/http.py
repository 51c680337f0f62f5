"""Plain HTTP: image files in, JSON or overlays out, without a session and without touching the disk.

curl --data-binary @image.jpeg http://127.0.0.1:7860/api/predict
"""

import base64
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import JSONResponse
from starlette.routing import Mount

from pneumocam import DISCLAIMER, RadiographError
from pneumocam.service import web
from pneumocam.service.api import WRITING, ManyAnswer, Options, PredictAnswer, SharedOptions, list_choices
from pneumocam.service.endpoints import Endpoints
from pneumocam.service.errors import RequestError, of_status, sentence
from pneumocam.service.guard import refusal
from pneumocam.service.tools import Tools

BINARY = {"type": "string", "format": "binary"}


def application(endpoints: Endpoints) -> FastAPI:
    """The routes that need no Gradio: the API, the page, and the MCP tools."""
    tools = Tools(endpoints)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        prepare_page()
        async with tools.manager.run():
            yield

    app = FastAPI(
        title="PneumoCAM", description=DISCLAIMER, version="1", docs_url=None, redoc_url=None, lifespan=lifespan
    )
    _add_errors(app, endpoints)
    _add_api(app, endpoints)
    prepare_page = web.add_page(app, endpoints, images_of)

    @app.get("/gradio_api/mcp/schema", include_in_schema=False)
    async def tools_schema() -> JSONResponse:
        return JSONResponse(tools.schema())

    app.router.routes.append(Mount("/gradio_api/mcp", tools.manager.handle_request))
    schema = app.openapi()
    for path in schema["paths"].values():
        for operation in path.values():
            schemas = {one["name"]: one["schema"] for one in operation.get("parameters", ())}
            list_choices(schemas, endpoints.classifier)
    return app


def _add_errors(app: FastAPI, endpoints: Endpoints) -> None:
    async def refuse(_: Request, error: Exception) -> Response:
        if isinstance(error, RequestValidationError):
            error = RequestError("bad_request", sentence(error.errors()))
        if isinstance(error, HTTPException):
            error = of_status(error.status_code)
        return refusal(error, endpoints.limits)

    for kind in (RadiographError, RequestError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, refuse)


def _add_api(app: FastAPI, endpoints: Endpoints) -> None:
    @app.post(
        "/api/predict",
        summary="Classify one image",
        description=endpoints.classify_radiograph.__doc__,
        responses={200: {"model": PredictAnswer, "content": {f"image/{kind}": {"schema": BINARY} for kind in WRITING}}},
        openapi_extra=_request("image", BINARY, raw=True),
    )
    async def predict(request: Request, options: Annotated[Options, Query()]) -> Response:
        kind = _accepted(request)
        if kind:
            options = options.model_copy(update={"overlay": kind})
        answer, overlay = await endpoints.classify_radiograph((await one_image(request))[1], options)
        if kind:
            return Response(overlay, media_type=f"image/{kind}")
        text = {"overlay": base64.b64encode(overlay).decode()} if overlay else {}
        return JSONResponse(answer | text)

    @app.post(
        "/api/predict_many",
        summary=f"Classify up to {endpoints.limits.images} images",
        description=endpoints.classify_radiographs.__doc__,
        responses={200: {"model": ManyAnswer}},
        openapi_extra=_request("images", {"type": "array", "items": BINARY}),
    )
    async def predict_many(request: Request, options: Annotated[SharedOptions, Query()]) -> Response:
        images = [data for _, data in await images_of(request, "images", endpoints.limits.images)]
        return JSONResponse({"predictions": await endpoints.classify_radiographs(images, options)})

    @app.get("/api/info", summary="Facts of the model", description=endpoints.describe_model.__doc__)
    async def info() -> dict[str, Any]:
        return await endpoints.describe_model()

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", summary="Health", description=endpoints.check_health.__doc__)
    async def health() -> dict[str, Any]:
        return await endpoints.check_health()

    async def one_image(request: Request) -> tuple[str, bytes]:
        if request.headers.get("content-type", "").startswith("multipart/"):
            images = await images_of(request, "image", 1)
            return images[0]
        data = await request.body()
        if not data:
            raise RequestError("bad_request", "The body is empty; send the bytes of an image file.")
        return "", data


async def images_of(request: Request, field: str, most: int) -> list[tuple[str, bytes]]:
    """Names and bytes of the files in a multipart body, all in memory.

    Args:
        request: not read yet.
        field: the name of the files' parts.
        most: number of files.

    Raises:
        RequestError: there is none, there are too many, or the body is not multipart/form-data.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise RequestError("bad_request", f"Expected multipart/form-data with each image as `{field}`.")
    parser = MultiPartParser(request.headers, request.stream(), max_files=most, max_fields=16)
    parser.spool_max_size = request.app.state.spool_bytes
    try:
        form = await parser.parse()
    except MultiPartException as error:
        code = "too_large" if error.message.startswith("Too many files") else "bad_request"
        raise RequestError(code, f"{error.message} Expected 1 to {most} files as `{field}`.") from None
    files = [file for file in form.getlist(field) if not isinstance(file, str)]
    images = [(file.filename or "", await file.read()) for file in files]
    await form.close()
    if not images:
        raise RequestError("bad_request", f"No file came as `{field}`; expected 1 to {most}.")
    return images


def _accepted(request: Request) -> Any:
    """The kind of overlay that the Accept header asks for in place of JSON."""
    accepted = request.headers.get("accept", "")
    return next((kind for kind in WRITING if f"image/{kind}" in accepted), None)


def _request(field: str, schema: dict[str, Any], *, raw: bool = False) -> dict[str, Any]:
    """OpenAPI of a body."""
    form = {"type": "object", "required": [field], "properties": {field: schema}}
    content = {"multipart/form-data": {"schema": form}}
    if raw:
        content["application/octet-stream"] = {"schema": schema}
    return {"requestBody": {"required": True, "content": content}}
