"""The endpoints as an OpenAPI document: Gradio's own names types that there are not, and tells nothing of answers."""

from typing import Any

from gradio.utils import get_function_description

from api.endpoints import ERRORS, Endpoints, schema_at
from pneumocam import DISCLAIMER
from pneumocam.predict import SCHEMA_VERSION

JSON = dict[str, Any]


def openapi(endpoints: Endpoints, root: str = "/") -> JSON:
    """The document, OpenAPI 3.1.

    Args:
        endpoints: what is served.
        root: the path at which it is.
    """
    paths: JSON = {"/gradio_api/upload": {"post": _UPLOAD}}
    for name, method in endpoints.named().items():
        description, _, returns = get_function_description(method)
        arguments = endpoints.inputs(method, {"$ref": "#/components/schemas/Upload"}, "Upload it first.")
        paths[f"/gradio_api/call/v2/{name}"] = {
            "post": {
                "operationId": name,
                "summary": description.partition(". ")[0].rstrip("."),
                "description": f"{description} The answer is at /gradio_api/call/{name}/{{event_id}}.",
                "requestBody": {"required": True, **_json(arguments)},
                "responses": {"200": {"description": "Taken into the queue.", **_json(_EVENT)}},
            }
        }
        paths[f"/gradio_api/call/{name}/{{event_id}}"] = {
            "get": {
                "operationId": f"{name}_answer",
                "summary": f"The answer of {name}",
                "description": " ".join(returns),
                "parameters": [{"name": "event_id", "in": "path", "required": True, "schema": {"type": "string"}}],
                "responses": {"200": _events(name)},
            }
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "PneumoCAM", "description": DISCLAIMER, "version": str(SCHEMA_VERSION)},
        "servers": [{"url": root}],
        "paths": paths,
        "components": {
            "schemas": {"Prediction": schema_at(_PREDICTION["$ref"]), "Upload": _FILE, "Error": _ERROR, **_ANSWERS}
        },
    }


def _json(schema: JSON) -> JSON:
    return {"content": {"application/json": {"schema": schema}}}


def _events(name: str) -> JSON:
    return {
        "description": (
            "Server-sent events. The last one is `event: complete` with, as its `data:`, the JSON of "
            f"#/components/schemas/{name}; or it is `event: error` with that of #/components/schemas/Error."
        ),
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }


def _list(*items: JSON) -> JSON:
    return {"type": "array", "prefixItems": [*items], "minItems": len(items), "maxItems": len(items)}


_EVENT = {"type": "object", "required": ["event_id"], "properties": {"event_id": {"type": "string"}}}
_FILE = {
    "type": "object",
    "required": ["path", "meta"],
    "properties": {
        "path": {"type": "string", "description": "As /gradio_api/upload answered it; no web address is fetched."},
        "meta": {"const": {"_type": "gradio.FileData"}},
    },
}
_FILES = {"type": "array", "items": {"type": "string", "contentMediaType": "application/octet-stream"}}
_UPLOAD = {
    "operationId": "upload",
    "summary": "Upload films",
    "description": "They are kept for an hour.",
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["files"], "properties": {"files": _FILES}},
            }
        },
    },
    "responses": {
        "200": {"description": "A path for each film.", **_json({"type": "array", "items": {"type": "string"}})}
    },
}
_ERROR = {
    "type": "object",
    "required": ["title", "error"],
    "properties": {
        "title": {"enum": [*ERRORS], "description": "The cause, for programs."},
        "error": {"type": "string", "description": "What came, what was expected, what to do."},
    },
}
_PICTURE = {
    "type": ["object", "null"],
    "description": "The film with its labelled map: a PNG at `url`.",
    "required": ["url"],
    "properties": {"url": {"type": "string"}},
}
_SHARE = {"type": "object", "properties": {"label": {"type": "string"}, "confidence": {"type": "number"}}}
_SHARES = {
    "type": "object",
    "description": "The probabilities, the largest first.",
    "required": ["confidences"],
    "properties": {"confidences": {"type": "array", "items": _SHARE}},
}
_PREDICTION = {"$ref": "#/components/schemas/Prediction"}
_ANSWERS = {
    "predict": _list(_PICTURE, _SHARES, _PREDICTION),
    "predict_many": _list({"type": "array", "items": _PREDICTION}),
    "info": _list({"type": "object"}),
    "health": _list({"type": "object"}),
}
