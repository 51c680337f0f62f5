"""The service: the page, and one API with three interfaces (plain HTTP, Gradio's clients, MCP tools).

limits       the one table of limits
errors, log  errors in one shape; one line for each request
api, page    what is answered, as typed functions
engine       where that runs: threads, or worker processes
endpoints    the functions that all interfaces call
http, web, gradio_app, tools   the interfaces: plain HTTP, the page's requests, Gradio's clients, MCP tools
guard        middleware around them
uploads      the folder that Gradio's clients need
server       starts it all
"""

from pneumocam.service.server import serve

__all__ = ["serve"]
