"""Processor time until a command has ended, and until the app serves.

    python -m benchmarks.start --repeats 5

The commands take turns. Processor time, unlike time on the clock, hardly depends on what else the machine does. Writes
start.json.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from benchmarks.load import processor_seconds
from tests.conftest import EXAMPLES, ROOT, running_app

RESULT = Path(__file__).with_suffix(".json")
COMMANDS: dict[str, tuple[str, ...]] = {
    "python -c 'import torch'": ("-c", "import torch"),
    "pneumocam --help": ("-m", "pneumocam", "--help"),
    "pneumocam predict, one image": ("-m", "pneumocam", "predict", str(EXAMPLES[0])),
}


def command(name: str) -> dict[str, float]:
    before = os.times()
    subprocess.run([sys.executable, *COMMANDS[name]], cwd=ROOT, capture_output=True, check=True)
    after = os.times()
    return {name: after.children_user + after.children_system - before.children_user - before.children_system}


def app() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder, running_app(Path(folder)) as started:
        served = processor_seconds(started.pid)
        time.sleep(5)  # until what goes on after the start has ended
        before = processor_seconds(started.pid)
        time.sleep(10)
        idle = processor_seconds(started.pid) - before
    return {"python app.py, until it serves": served, "python app.py, ten seconds without a request": idle}


def main(repeats: int = 5, out: Path = RESULT) -> None:
    """Measure and write the result.

    Args:
        repeats: of each command.
        out: the JSON file to write.
    """
    runs: list[Callable[[], dict[str, float]]] = [*(partial(command, name) for name in COMMANDS), app]
    seconds: dict[str, list[float]] = {}
    for _ in range(repeats):
        for run in runs:
            for name, value in run().items():
                seconds.setdefault(name, []).append(value)
    rows: dict[str, Any] = {
        name: {"cpu_s": round(statistics.median(x), 2), "cpu_s_range": [round(min(x), 2), round(max(x), 2)]}
        for name, x in seconds.items()
    }
    out.write_text(json.dumps({"repeats": repeats, "commands": rows}, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
