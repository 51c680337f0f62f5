"""Gradio without the type stubs that it writes for its components at every import, nearly half of the import's time.

Gradio writes no stub for a component whose file is unknown. During the import, the files of its components are unknown.
Where Gradio is imported already, or finds files in another way, nothing changes.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def _files_of_gradio_unknown() -> Iterator[None]:
    getfile = inspect.getfile

    def known(thing: Any) -> str:
        if isinstance(thing, type) and thing.__module__.startswith("gradio."):
            raise OSError("not wanted")
        return getfile(thing)

    inspect.getfile = known  # type: ignore[assignment]
    try:
        yield
    finally:
        inspect.getfile = getfile


with _files_of_gradio_unknown():
    import gradio
    from gradio.processing_utils import save_bytes_to_cache

__all__ = ["gradio", "save_bytes_to_cache"]
