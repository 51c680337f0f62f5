"""The API: endpoints for one film, many films, the model's facts and health, over HTTP and as MCP tools.

    endpoints   what they do, whoever asks; errors with codes
    openapi     their document
    tools       the same for MCP clients
    service     the same for Gradio, which serves it all

Errors reach clients as a code and a message that says what came, what was expected and what to do: as `title` and
`error` over HTTP, as `code: message` from a tool.
"""

from api.endpoints import ANSWERED, MAX_FILMS, Endpoints
from api.openapi import openapi
from api.service import Service, add_endpoints

__all__ = ["ANSWERED", "MAX_FILMS", "Endpoints", "Service", "add_endpoints", "openapi"]
