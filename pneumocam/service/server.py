"""`pneumocam serve`: load the model, open the doors, wait."""

import os
import signal
import sys
import threading
from contextlib import ExitStack
from typing import Any

from starlette.middleware import Middleware

from pneumocam import load_or_fall_back
from pneumocam.service import uploads
from pneumocam.service.engine import Engine
from pneumocam.service.limits import LIMITS, Limits
from pneumocam.service.log import logger, private_log


def serve(
    model: str | None = None,
    host: str | None = None,
    port: int | None = None,
    *,
    workers: int = 1,
    timeout: float = 30,
    limits: Limits = LIMITS,
) -> None:
    """Serve the page and the API until the process is told to end.

    Args:
        model: as in `Classifier.from_pretrained`; by default PNEUMOCAM_MODEL, or else the bundled model.
        host: address to listen at; by default GRADIO_SERVER_NAME, or else 0.0.0.0 on a Space and 127.0.0.1 elsewhere.
        port: by default GRADIO_SERVER_PORT, or else 7860.
        workers: as in `Engine`.
        timeout: seconds that a download of the model may take; after them an earlier download or the bundled model
            answers, and the page says so.
        limits: the bounds.

    Raises:
        BundleError: the model cannot be used.
        OSError: the port is taken.
    """
    on_space = "SPACE_ID" in os.environ
    host = host or os.environ.get("GRADIO_SERVER_NAME") or ("0.0.0.0" if on_space else "127.0.0.1")  # noqa: S104
    port = port or int(os.environ.get("GRADIO_SERVER_PORT") or 7860)
    loaded = load_or_fall_back(model or os.environ.get("PNEUMOCAM_MODEL") or None, timeout=timeout)
    # Shorter turns of the interpreter's threads: the one that answers clients waits for those that decode images.
    sys.setswitchinterval(0.0005)
    with ExitStack() as stack:
        folder = stack.enter_context(uploads.private_folder())
        os.environ["GRADIO_TEMP_DIR"] = str(folder)  # Gradio reads it once, when it is imported
        os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"  # it would keep statistics of 10,000 calls
        engine = Engine(loaded.classifier, workers=workers, limits=limits)
        demo = _launch(engine, uploads.Uploads(folder, limits.upload_bytes), loaded.notice, host, port)
        stack.callback(demo.close, verbose=False)
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        shown = f"[{host}]" if ":" in host else "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104
        print(f"PneumoCAM: http://{shown}:{port} (Ctrl-C stops)", flush=True)
        stack.enter_context(private_log())
        if loaded.notice:
            logger.warning(loaded.notice)
        stop.wait()


def _launch(engine: Engine, folder: uploads.Uploads, notice: str | None, host: str, port: int) -> Any:
    """Start Gradio's server with the other doors in front of it."""
    # Not sooner: Gradio takes seconds to be imported, and reads GRADIO_TEMP_DIR then.
    from pneumocam.service.doors import Doors
    from pneumocam.service.endpoints import blocks
    from pneumocam.service.guard import Guard
    from pneumocam.service.http import application

    doors = Doors(engine, uploads=folder, notice=notice)
    own = application(doors)
    demo = blocks(doors)
    demo.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        max_file_size=engine.limits.image_bytes,
        state_session_capacity=100,
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        app_kwargs={
            "middleware": [Middleware(Guard, own=own, limits=engine.limits, uploads=folder)],
            "lifespan": own.router.lifespan_context,
            "openapi_url": None,
        },
    )
    return demo
