"""The HTTP guard and the housekeeping around the page.

What may be asked and how much, what is kept and for how long, what is logged. `app.py` claims `uploads` before it
imports Gradio, calls `start` before it serves, and hands `app_kwargs` to `launch`.
"""

import asyncio
import contextlib
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware

from server import folder
from server.folder import uploads
from server.guard import Guard, SecurityHeaders
from server.log import log_failure, log_outcome, logger, quieten

__all__ = ["app_kwargs", "forget", "log_outcome", "seconds", "start", "uploads"]


def seconds(name: str, default: float) -> float:
    """An environment variable that holds a number of seconds.

    Raises:
        SystemExit: it holds none; says what was expected.
    """
    text = os.environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        sys.exit(f"{name} is {text!r}; expected a number of seconds above 0, such as {default:g}.")
    return value


def start(notice: str | None = None) -> str | None:
    """Prepare the process to serve: its log, and the end of its uploads when it is told to end.

    Args:
        notice: what the page is to say on top, if anything.

    Returns:
        The notice, with what does not work here; that is logged, too.
    """
    quieten()

    def end(number: int, _frame: object) -> None:
        uploads.remove()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
    # Ten times as often as by default: the thread that answers clients waits so long for each that reads a film.
    sys.setswitchinterval(0.0005)
    # Gradio would keep the last 10,000 calls for statistics that are not shown here, and reckon them anew all the time.
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
    if trouble := uploads.trouble():
        logger.warning(trouble)
        from gradio import routes  # not sooner: GRADIO_TEMP_DIR has to be set by then

        # Gradio makes a folder there that is of no use here, and would not start without it.
        routes.DEFAULT_TEMP_DIR = tempfile.gettempdir()  # type: ignore[attr-defined]
    return " ".join(filter(None, (notice, trouble))) or None


def app_kwargs(demo: Any, model: dict[str, str]) -> dict[str, Any]:
    """What `launch` is to hand to FastAPI, so that the guard stands before the page.

    Args:
        demo: the Blocks that are launched.
        model: id and revision of what answers.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        # Gradio adds layers of its own around those that it is given; these headers belong around all.
        app.middleware_stack = SecurityHeaders(app.middleware_stack)
        uploads.own = frozenset(path for path in uploads.path.rglob("*") if path.is_file())
        task = asyncio.create_task(_keep_house(demo))
        try:
            yield
        finally:
            task.cancel()

    guard = Middleware(Guard, demo=demo, model=model)
    return {"middleware": [guard], "lifespan": lifespan, "openapi_url": None}


async def _keep_house(demo: Any) -> None:
    seen: dict[str, float] = {}
    while True:
        try:
            await asyncio.to_thread(uploads.sweep)
            forget(demo, seen)
        except Exception as error:
            log_failure(error)
        await asyncio.sleep(folder.SWEEP)


def forget(demo: Any, seen: dict[str, float]) -> None:
    """Drop what Gradio remembers of clients that went: names of their files, and answers that nobody fetched.

    Args:
        demo: the Blocks.
        seen: of each thing remembered, when it was first seen; kept from call to call.
    """
    from gradio.routes import file_upload_statuses as progress

    queue = demo._queue
    waiting = {event.session_hash for event in queue.event_ids_to_events.values()}
    idle = [session for session in queue.pending_messages_per_session if session not in waiting]
    kept = {*(f"events {session}" for session in idle), *(f"upload {name}" for name in progress._signals)}
    for gone in seen.keys() - kept:
        del seen[gone]
    for key in kept:
        if time.monotonic() - seen.setdefault(key, time.monotonic()) > folder.MAX_AGE:
            kind, name = key.split(" ", 1)
            if kind == "events":
                queue.pending_messages_per_session.pop(name, None)
                queue.pending_event_ids_session.pop(name, None)
            else:
                progress._statuses.pop(name, None)
                progress._signals.pop(name, None)
    holder = demo.state_holder
    for session, used in list(holder.time_last_used.items()):
        if session not in waiting and (datetime.now() - used).total_seconds() > folder.MAX_AGE:
            holder.session_data.pop(session, None)
            holder.time_last_used.pop(session, None)
    for names in demo.temp_file_sets:
        names -= {name for name in names if not Path(name).exists()}
