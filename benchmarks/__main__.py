"""Measure starts, backbones and maps, and write all measurements of this folder as one report.

    python -m benchmarks                  # report.md; --only-report writes it from the JSON files as they are

`python -m benchmarks.load` (a minute or two for each row) and `python benchmarks/static.py` (it needs npm and Chromium)
have commands of their own; the report shows what they last wrote.
"""

import json
import os
import platform
from pathlib import Path
from typing import Any

import tyro

FOLDER = Path(__file__).parent


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load_average_of_other_programs": round(os.getloadavg()[0], 1),
    }


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """Markdown."""
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in (head, ("---",) * len(head), *rows))


def times(rows: dict[str, dict[str, Any]]) -> str:
    cells = [
        (name, x["cpu_ms"], x["cpu_ratio"], x["ms"], "{} to {}".format(*x["ms_quartiles"])) for name, x in rows.items()
    ]
    return table(("", "CPU ms", "CPU, ratio", "clock ms", "quartiles"), cells)


def report() -> str:
    """All JSON files as Markdown."""
    where, start, saliency, static, load = (
        json.loads((FOLDER / f"{name}.json").read_text()) for name in ("machine", "start", "saliency", "static", "load")
    )
    starts = [(name, x["cpu_s"], "{} to {}".format(*x["cpu_s_range"])) for name, x in start["commands"].items()]
    difference = saliency["onnx_runtime_differs_by"]
    parts = [
        "# Measured times\n",
        f"Starts, maps and backbones: {where['processor']}, {where['cores']} cores, Python {where['python']}, PyTorch "
        f"{saliency['torch']}. Other programs ran beside (load average {where['load_average_of_other_programs']}), so "
        "compare processor time and ratios, not the clock. Figures are medians.\n",
        f"## Starts\n\nSeconds of processor time, {start['repeats']} runs.\n",
        table(("", "CPU s", "range"), starts),
        "## A prediction with its map\n\nOne image, one thread.\n",
        times(saliency["map"]),
        f"ONNX Runtime's features change a probability by up to {difference['probability']:.1e} and a map by up to "
        f"{difference['map']:.1e} of its peak, over the examples.\n",
        "## Backbones\n",
    ]
    for row in saliency["backbone"]:
        size = f"{row['batch']} image{'s' if row['batch'] > 1 else ''}"
        parts += [f"{size}, {row['threads']} thread{'s' if row['threads'] > 1 else ''}:\n", times(row["contenders"])]
    prediction = static["prediction"]
    parts += [
        "## In the browser\n\nOne core, `pneumocam static`.\n",
        table(
            ("", "value"),
            [
                ("a prediction with its map, CPU s, mean", prediction["computed_mean_s"]),
                ("a prediction with its map, clock s, median", prediction["wall_median_s"]),
                ("the model loaded and warm, CPU s", static["model_loaded_and_warm"]["computed_s"]),
                ("first visit, bytes of the page", static["bytes"]["page"]),
                ("bytes of model and runtime", static["bytes"]["model_and_runtime"]),
            ],
        ),
        f"## The running app\n\n{load['cores']} cores, shared with the clients.\n",
        (FOLDER / "load.md").read_text(),
    ]
    return "\n".join(parts)


def main(repeats: int = 50, only_report: bool = False) -> None:
    """Measure and write report.md.

    Args:
        repeats: runs of each contender; a tenth as many of each start.
        only_report: measure nothing.
    """
    if not only_report:
        from benchmarks import saliency, start

        (FOLDER / "machine.json").write_text(json.dumps(machine(), indent=2) + "\n")
        start.main(max(3, repeats // 10))
        saliency.main(repeats)
    (FOLDER / "report.md").write_text(report())


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
