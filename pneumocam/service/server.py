"""`pneumocam serve`: load the model, start the server, wait. What takes seconds to be imported is imported in here."""

import os
import signal
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pneumocam.service import uploads
from pneumocam.service.limits import Limits, setting
from pneumocam.service.log import logger, private_log

RUNTIMES = ("torch", "onnx")
EVERYWHERE = "0.0.0.0"  # noqa: S104 - only where it is asked for, and on a Space, whose proxy needs it


def serve(
    model: str | None = None,
    host: str | None = None,
    port: int | None = None,
    *,
    workers: int | None = None,
    runtime: str | None = None,
    timeout: float = 30,
    limits: Limits | None = None,
) -> None:
    """Serve the page and the API until the process is told to end.

    Args:
        model: as in `Classifier.from_pretrained`; by default PNEUMOCAM_MODEL, or else the bundled model.
        host: address to listen at; by default GRADIO_SERVER_NAME, or else 0.0.0.0 on a Space and 127.0.0.1 elsewhere.
        port: by default GRADIO_SERVER_PORT, or else 7860.
        workers: processes for the work on images, as in `pneumocam.service.engine.Engine`; by default
            PNEUMOCAM_WORKERS, or else 1.
        runtime: `torch`, or `onnx` for ONNX Runtime; by default PNEUMOCAM_RUNTIME, or else `torch`.
        timeout: seconds that a download of the model may take; after them an earlier download or the bundled model
            answers, and the page says so. PNEUMOCAM_START_TIMEOUT overrides it.
        limits: by default those of `pneumocam.service.limits`, with the values of environment variables.

    Raises:
        BundleError: the model cannot be used.
        OSError: the port is taken, or nothing can be written anywhere.
        SystemExit: an environment variable has another value than it may have; says what was expected.
    """
    limits = limits or Limits.from_environment()
    host = host or os.environ.get("GRADIO_SERVER_NAME") or (EVERYWHERE if "SPACE_ID" in os.environ else "127.0.0.1")
    port = port or setting("GRADIO_SERVER_PORT", 7860)
    workers = workers or setting("PNEUMOCAM_WORKERS", 1)
    runtime = runtime or setting("PNEUMOCAM_RUNTIME", "torch")
    if runtime not in RUNTIMES:
        sys.exit(f"PNEUMOCAM_RUNTIME is {runtime!r}; expected {' or '.join(RUNTIMES)}.")
    timeout = setting("PNEUMOCAM_START_TIMEOUT", float(timeout))
    # Shorter turns of the interpreter's threads: the one that answers clients waits for those that decode images.
    sys.setswitchinterval(0.0005)
    with ExitStack() as stack:
        folder = stack.enter_context(uploads.private_folder())
        from pneumocam import load_or_fall_back  # PyTorch, which needs a temporary folder as well

        loaded = load_or_fall_back(model or os.environ.get("PNEUMOCAM_MODEL") or None, timeout=timeout)
        os.environ["GRADIO_TEMP_DIR"] = str(folder)  # Gradio reads it once, when it is imported
        os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"  # Gradio would keep statistics of 10,000 calls
        own = uploads.Uploads(folder, limits)
        onnx = None
        if runtime == "onnx":
            from pneumocam.onnx_runtime import export_for_onnx_runtime

            exports = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            onnx = export_for_onnx_runtime(loaded.classifier, exports / "network.onnx")
        demo = _launch(loaded, own, host, port, workers, limits, onnx)
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        shown = "127.0.0.1" if host == EVERYWHERE else f"[{host}]" if ":" in host else host
        print(f"PneumoCAM: http://{shown}:{port} (Ctrl-C stops)", flush=True)
        with private_log():
            if loaded.notice:
                logger.warning(loaded.notice)
            while not stop.wait(min(60, limits.kept_seconds)):
                own.sweep()
            demo.close(verbose=False)


def _launch(
    loaded: Any, folder: uploads.Uploads, host: str, port: int, workers: int, limits: Limits, onnx: Path | None
) -> Any:
    """Start Gradio's server with the other interfaces in front of it; returns the Blocks."""
    from starlette.middleware import Middleware

    from pneumocam.service.endpoints import Endpoints
    from pneumocam.service.engine import Engine
    from pneumocam.service.gradio_app import blocks
    from pneumocam.service.guard import Guard
    from pneumocam.service.http import application

    engine = Engine(loaded.classifier, workers=workers, limits=limits, onnx=onnx)
    endpoints = Endpoints(engine, uploads=folder, notice=loaded.notice)
    own = application(endpoints)
    demo = blocks(endpoints)
    demo.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        max_file_size=limits.image_bytes,
        state_session_capacity=100,
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        app_kwargs={
            "middleware": [Middleware(Guard, own=own, limits=limits, uploads=folder)],
            "lifespan": own.router.lifespan_context,
            "openapi_url": None,
        },
    )
    return demo
