"""A service behind the same guard as the page that starts sooner, for `python -m tests.small` in tests/test_server.py.

SMALL holds its port, the path of a file without which the endpoints wait, and other values for constants of server/.
"""

import importlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import server

SETTINGS = json.loads(os.environ["SMALL"])
GATE = Path(SETTINGS["gate"])
SECRET = "Mrs Marker's film in /srv/private/marker.dcm"
asked: list[str] = []  # hosts whose address somebody here looked up; none gets it
look_up = socket.getaddrinfo


def guarded(host: Any, *args: Any, **options: Any) -> Any:
    name = host.decode() if isinstance(host, bytes) else host
    if name in ("127.0.0.1", "localhost", None):
        return look_up(host, *args, **options)
    asked.append(name)
    raise socket.gaierror("tests stay on this machine")


def size(film: dict[str, Any] | None, factor: float = 1) -> dict[str, float]:
    """Tell how large a file is."""
    while not GATE.exists():
        time.sleep(0.01)
    return {"bytes": Path(film["path"]).stat().st_size * factor if film else 0}


def fail(text: str) -> str:
    """Fail with something private in the message."""
    raise ValueError(SECRET + text)


def flat(routes: list[Any]) -> list[Any]:
    """Routes, with those of routers in the routers' place."""
    return [one for route in routes for one in getattr(getattr(route, "original_router", None), "routes", [route])]


def main() -> None:
    """Serve on loopback, as `app.py` does."""
    for name, value in SETTINGS.get("constants", {}).items():
        module, constant = name.split(".")
        setattr(importlib.import_module(f"server.{module}"), constant, value)
    os.environ["GRADIO_TEMP_DIR"] = server.uploads.claim()
    import gradio as gr
    from gradio.routes import file_upload_statuses

    socket.getaddrinfo = guarded

    def inside() -> dict[str, Any]:
        """What this process knows: its routes, and what it remembers of clients."""
        return {
            "asked": asked,
            "routes": [(route.path, sorted(getattr(route, "methods", None) or ())) for route in flat(demo.app.routes)],
            "sessions": list(demo.state_holder.session_data),
            "messages": list(demo._queue.pending_messages_per_session),
            "progress": list(file_upload_statuses._statuses),
            "names": sorted(Path(name).name for names in demo.temp_file_sets for name in names),
        }

    notice = server.start()
    with gr.Blocks(analytics_enabled=False) as demo:
        gr.Markdown(notice or "All is well.")
        film, factor, answer = gr.File(label="film"), gr.Number(1, label="factor"), gr.JSON()
        text, button = gr.Textbox(label="text"), gr.Button()
        button.click(size, [film, factor], answer, api_name="size", preprocess=False, concurrency_limit=1)
        button.click(size, [film, factor], answer, api_name="private", api_visibility="private", preprocess=False)
        button.click(fail, text, text, api_name="fail")
        button.click(inside, None, answer, api_name="inside")
    demo.queue(max_size=8, api_open=False).launch(
        server_name="127.0.0.1",
        server_port=SETTINGS["port"],
        max_file_size="20mb",
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        app_kwargs=server.app_kwargs(demo, {"id": "small", "revision": "1"}),
    )


if __name__ == "__main__":
    main()
