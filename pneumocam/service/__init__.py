"""The service: the page, and one API behind three doors (plain HTTP, Gradio's clients, MCP tools).

limits       the one table of limits
errors, log  errors in one shape; one line for each request
api, page    what is answered, as typed functions
engine       where that runs: threads, or worker processes
doors        the functions behind every door
http, web, endpoints, tools   the doors: plain HTTP, the page's requests, Gradio's endpoints, MCP tools
guard        middleware around them
uploads      the folder that Gradio's door needs
server       starts it all
"""

from pneumocam.service.server import serve

__all__ = ["serve"]
