"""The page without a server on one core: bytes of a first visit, time to load, time of a prediction.

    python benchmarks/static.py                     # writes the folder first; or --folder DIR

Chromium runs on one core and loads the page from this machine. Beside the seconds on the clock stand the seconds that
Chromium computed, which other programs on a busy machine do not lengthen much. Writes static.json.
"""

import base64
import json
import os
import platform
import shutil
import statistics
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tyro
from playwright.sync_api import Page, sync_playwright

from pneumocam import Classifier
from pneumocam.static import RUNTIME, write_static

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).with_suffix(".json")
LOAD = """async () => {
  const { BrowserEngine } = await import("./engine.browser.js");
  window.own = new BrowserEngine();
  await window.own.load();
}"""
CLASSIFY = """async (data) => {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const file = new File([bytes], "image");
  const start = performance.now();
  await window.own.predict(file);
  return (performance.now() - start) / 1000;
}"""


class Quiet(SimpleHTTPRequestHandler):
    """Does not log."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def computed() -> float:
    """Seconds of processor time of all processes below this one."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents[int(stat.parent.name)] = int(fields[1])
        seconds[int(stat.parent.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and ours(parents[pid]))

    return sum(used for pid, used in seconds.items() if pid != os.getpid() and ours(pid))


def timed(action: Any) -> dict[str, float]:
    """Seconds on the clock and of processor time."""
    start, before = time.perf_counter(), computed()
    action()
    return {"wall_s": round(time.perf_counter() - start, 2), "computed_s": round(computed() - before, 2)}


def predictions(page: Page, rounds: int) -> dict[str, float]:
    """Seconds of a prediction, decoding, maps and picture included, over all examples."""
    files = [base64.b64encode(path.read_bytes()).decode() for path in sorted((ROOT / "examples").glob("*.jpeg"))]
    before = computed()
    taken = [float(page.evaluate(CLASSIFY, data)) for _ in range(rounds) for data in files]
    return {
        "n": len(taken),
        "wall_median_s": round(statistics.median(taken), 3),
        "wall_p95_s": round(statistics.quantiles(taken, n=20)[-1], 3),
        "computed_mean_s": round((computed() - before) / len(taken), 3),
    }


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """All figures of a folder that `pneumocam static` has written."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # Chromium inherits it
    path = next(found for name in ("chromium", "google-chrome") if (found := shutil.which(name)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1366, "height": 768})
        requests: set[str] = set()
        page.on("request", lambda request: requests.add(request.url.partition("?")[0]))

        def first() -> None:
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            page.locator("#result .stage[data-zoom]").wait_for(timeout=120_000)

        usable = timed(first)
        loaded = timed(lambda: page.evaluate(LOAD))
        answer = predictions(page, rounds)
        version = browser.version
        browser.close()
    server.shutdown()
    asked = [folder / (url.split("/", 3)[3] or "index.html") for url in requests if url.startswith("http")]
    sizes = {path: path.stat().st_size for path in asked if path.is_file()}
    model = sum(size for path, size in sizes.items() if path.suffix == ".bin")
    return {
        "bytes": {"page": sum(sizes.values()) - model, "model_and_runtime": model},
        "page_with_its_first_example": usable,
        "model_loaded_and_warm": loaded,
        "prediction": answer,
        "chromium": version,
        "onnxruntime_web": RUNTIME,
        "machine": platform.machine(),
        "cores": 1,
    }


def main(folder: Path | None = None, rounds: int = 5) -> None:
    """Measure and write static.json.

    Args:
        folder: written by `pneumocam static`; by default that of the bundled model, which is written first.
        rounds: how often each of the examples is classified.
    """
    with TemporaryDirectory() as temporary:
        if folder is None:
            folder = Path(temporary) / "out"
            write_static(Classifier.from_pretrained(), folder)
        report = measure(folder, rounds)
    RESULT.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    tyro.cli(main)
