"""How the running app serves 1 to 64 clients at once, beside the bare network on the same cores.

    python -m benchmarks.load                       # every row two minutes, then 10,000 requests
    python -m benchmarks.load --seconds 20 --soak-requests 0 --servers "onnx 2"

Every client sends an image and waits for the answer, again and again, through plain HTTP or through Gradio's queue
(upload, call, event stream). Client and server share the cores. Writes load.json and load.md, with the load average of
the machine before the start: on a busy machine, compare the server's processor time, not images a second.
"""

import asyncio
import json
import math
import os
import re
import ssl
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
import tyro

from pneumocam import Classifier, load_radiograph, predict
from pneumocam.batching import traced
from pneumocam.predict import MAX_BATCH
from tests.conftest import running_app

ROOT = Path(__file__).parents[1]
IMAGES = [path.read_bytes() for path in sorted((ROOT / "examples").glob("*.jpeg"))]
MANY = 32
TLS = ssl.create_default_context()  # one for all clients: each of its own would cost as much time as an image
REFUSED = (429, 503)
RESULT = Path(__file__).with_suffix(".json")
COLUMNS = (
    *("clients", "images_a_second", "share", "share_read", "server_cpu_ms_an_image", "p50_ms", "p95_ms", "p99_ms"),
    *("refused", "errors", "peak_mib"),
)


@dataclass
class Tally:
    """What a crowd of clients saw."""

    seconds: list[float] = field(default_factory=list)  # of each answered request
    outcomes: Counter[str] = field(default_factory=Counter)


def throughput(work: Callable[[int], int], seconds: float = 3.0) -> float:
    """Images a second of a function that is called with 0, 1, 2 ... in one thread for each core, and tells how many."""

    def run(turn: int) -> int:
        torch.set_num_threads(1)  # the thread's own
        images = 0
        while time.perf_counter() < end:
            images += work(turn)
            turn += 1
        return images

    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        start = time.perf_counter()
        end = start + seconds
        images = sum(pool.map(run, range(cores)))
        return images / (time.perf_counter() - start)


def ceilings() -> tuple[float, float]:
    """Images a second through the bare network, in passes that suit it best; and with the reading of the files."""
    classifier = traced(Classifier.from_pretrained())
    batch = torch.stack([classifier.transform(load_radiograph(image)) for image in IMAGES])  # (16, C, H, W)

    def network(size: int) -> Callable[[int], int]:
        return lambda _: len(classifier.head(classifier.features(batch[:size])))

    def whole(turn: int) -> int:
        return len([predict(classifier, IMAGES[turn % len(IMAGES)]).to_dict()])

    throughput(whole)  # warm up
    bare = [max(throughput(network(size)) for size in (1, 4, MAX_BATCH)) for _ in range(3)]
    read = [throughput(whole) for _ in range(3)]
    return statistics.median(bare), statistics.median(read)


def median_ms(turns: int = 50) -> float:
    """Milliseconds of one image at a time in this process, without a server."""
    classifier, seconds = traced(Classifier.from_pretrained()), []
    for turn in range(turns):
        start = time.perf_counter()
        predict(classifier, IMAGES[turn % len(IMAGES)]).to_dict()
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)


def memory(pid: int) -> float:
    """MiB that the process holds."""
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) / 1024


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def ask(client: httpx.AsyncClient, interface: str, images: list[bytes], overlay: str) -> tuple[str, float]:
    """Outcome of one request (`ok`, `refused` or what went wrong), and seconds to wait before the next."""
    answer = await (_over_gradio if interface == "gradio" else _over_http)(client, images, overlay)
    if isinstance(answer, httpx.Response):
        return "refused", float(answer.headers.get("Retry-After", 1))
    whole = [one["status"] for one in answer]
    return ("ok" if len(whole) == len(images) and "rejected" not in whole else "error: an image was rejected"), 0.0


async def _over_http(client: httpx.AsyncClient, images: list[bytes], overlay: str) -> list[Any] | httpx.Response:
    if len(images) == 1:
        answer = await client.post("/api/predict", params={"overlay": overlay}, content=images[0])
    else:
        answer = await client.post("/api/predict_many", files=[("images", ("x", image)) for image in images])
    if answer.status_code in REFUSED:
        return answer
    value = answer.raise_for_status().json()
    return list(value["predictions"]) if len(images) > 1 else [value]


async def _over_gradio(client: httpx.AsyncClient, images: list[bytes], overlay: str) -> list[Any] | httpx.Response:
    files = [("files", (f"{i}.jpeg", image, "image/jpeg")) for i, image in enumerate(images)]
    uploaded = await client.post("/gradio_api/upload", files=files)
    if uploaded.status_code in REFUSED:
        return uploaded
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in uploaded.raise_for_status().json()]
    one = {"image": data[0], "overlay": overlay != "none"}
    name, body = ("predict_many", {"images": data}) if len(images) > 1 else ("predict", one)
    call = await client.post(f"/gradio_api/call/v2/{name}", json=body)
    if call.status_code in REFUSED:
        return call
    answer = await client.get(f"/gradio_api/call/{name}/{call.raise_for_status().json()['event_id']}")
    event, line = re.findall(r"event: (complete|error)\ndata: (.*)", answer.raise_for_status().text)[-1]
    if event == "error":
        raise ValueError(line)
    values = json.loads(line)
    return list(values[0]) if len(images) > 1 else [values[2]]


async def crowd(
    url: str,
    clients: int,
    *,
    seconds: float = math.inf,
    requests: float = math.inf,
    images: int = 1,
    overlay: str = "none",
    interface: str = "http",
) -> Tally:
    """`clients` at once, until the time is over or `requests` are answered."""
    tally, end = Tally(), time.monotonic() + seconds

    async def one(number: int) -> None:
        headers = {"X-Forwarded-For": f"10.0.{number // 250}.{number % 250 + 1}"}  # clients of their own
        async with httpx.AsyncClient(base_url=url, timeout=120, headers=headers, verify=TLS) as client:
            turn = number
            while time.monotonic() < end and len(tally.seconds) < requests:
                start = time.monotonic()
                batch = [IMAGES[(turn + i) % len(IMAGES)] for i in range(images)]
                try:
                    outcome, pause = await ask(client, interface, batch, overlay)
                except (httpx.HTTPError, KeyError, IndexError, ValueError) as error:
                    outcome, pause = f"error: {type(error).__name__}", 0.0
                tally.outcomes[outcome] += 1
                if outcome == "ok":
                    tally.seconds.append(time.monotonic() - start)
                await asyncio.sleep(pause)
                turn += 1

    await asyncio.gather(*(one(number) for number in range(clients)))
    return tally


def measure(
    url: str, pid: int, bare: float, read: float, clients: int, images: int = 1, **options: Any
) -> dict[str, Any]:
    """One row of the report."""
    start, worked, peak = time.monotonic(), processor_seconds(pid), [memory(pid)]

    async def watched() -> Tally:
        async def watch() -> None:
            while True:
                await asyncio.sleep(1)
                peak.append(memory(pid))

        watcher = asyncio.create_task(watch())
        try:
            return await crowd(url, clients, images=images, **options)
        finally:
            watcher.cancel()

    tally = asyncio.run(watched())
    took = time.monotonic() - start
    answered = len(tally.seconds) * images
    p50, p95, p99 = np.percentile(tally.seconds, [50, 95, 99]) * 1000 if tally.seconds else (float("nan"),) * 3
    row = {
        "clients": clients,
        "images_a_request": images,
        "interface": options.get("interface", "http"),
        "overlay": options.get("overlay", "none"),
        "requests": len(tally.seconds),
        "images_a_second": round(answered / took, 2),
        "share": round(answered / took / bare, 3),
        "share_read": round(answered / took / read, 3),
        "p50_ms": round(p50),
        "p95_ms": round(p95),
        "p99_ms": round(p99),
        "refused": tally.outcomes.pop("refused", 0),
        "errors": sum(count for outcome, count in tally.outcomes.items() if outcome != "ok"),
        "kinds_of_error": {outcome: count for outcome, count in tally.outcomes.items() if outcome != "ok"},
        "server_cpu_ms_an_image": round(1000 * (processor_seconds(pid) - worked) / max(1, answered), 1),
        "peak_mib": round(max(peak)),
    }
    print(json.dumps(row), flush=True)
    return row


def soak(url: str, pid: int, requests: int, clients: int = 8) -> dict[str, Any]:
    """Memory after each tenth of the requests."""
    held, done = [], 0
    outcomes: Counter[str] = Counter()
    for _ in range(10):
        tally = asyncio.run(crowd(url, clients, requests=requests / 10))
        outcomes += tally.outcomes
        done += len(tally.seconds)
        held.append(round(memory(pid)))
        print(f"{done} requests, {held[-1]} MiB", flush=True)
    return {"requests": done, "clients": clients, "mib_after_each_tenth": held, "outcomes": dict(outcomes)}


def table(rows: list[dict[str, Any]]) -> str:
    """The report as Markdown."""
    heads: tuple[str, ...] = (
        "runtime, processes",
        "interface",
        "a request",
        "clients",
        "images/s",
        "of the bare network",
        "of the network and reading",
        "server CPU ms an image",
        "p50 ms",
        "p95 ms",
        "p99 ms",
    )
    heads += ("refused", "errors", "peak MiB")
    lines = [heads, ("---",) * len(heads)]
    for row in rows:
        images = "1 image" if row["images_a_request"] == 1 else f"{row['images_a_request']} images"
        cells = [f"{row[column]:.0%}" if "share" in column else str(row[column]) for column in COLUMNS]
        drawn = "" if row["overlay"] == "none" else f", {row['overlay']} overlay"
        lines.append((row["server"].replace(" ", ", "), row["interface"], images + drawn, *cells))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(
    clients: tuple[int, ...] = (1, 8, 32, 64),
    interfaces: tuple[str, ...] = ("http", "gradio"),
    servers: tuple[str, ...] = ("torch 1", "onnx 1", "torch 2"),
    seconds: float = 120,
    soak_requests: int = 10_000,
    out: Path = RESULT,
) -> None:
    """Write the report.

    Args:
        clients: at the same time, a row each.
        interfaces: http, gradio.
        servers: runtime and processes of each app that is measured; overlays, Gradio and memory of the first alone.
        seconds: of each row.
        soak_requests: after which memory is compared; 0 for none.
        out: a JSON file; the table is beside it as Markdown.
    """
    busy = os.getloadavg()[0]
    bare, read = ceilings()
    print(f"images a second: {bare:.1f} through the bare network, {read:.1f} with the files read", flush=True)
    result: dict[str, Any] = {
        "cores": os.cpu_count(),
        "load_average_of_other_programs": round(busy, 1),
        "seconds_each": seconds,
        "bare_images_a_second": round(bare, 2),
        "read_images_a_second": round(read, 2),
        "in_process_p50_ms": round(median_ms(), 1),
        "soak": None,
    }
    rows: list[dict[str, Any]] = []
    for server in servers:
        runtime, workers = server.split()
        first = server == servers[0]
        settings = {"PNEUMOCAM_RUNTIME": runtime, "PNEUMOCAM_WORKERS": workers}
        with tempfile.TemporaryDirectory() as folder, running_app(Path(folder), **settings) as app:
            asyncio.run(crowd(app.url, 4, requests=40))  # warm up
            for interface in interfaces if first else interfaces[:1]:
                cases: list[dict[str, Any]] = [{"clients": number} for number in clients]
                cases += [{"clients": 8, "overlay": kind} for kind in ("jpeg", "png")] if first else []
                cases += [{"clients": 4, "images": MANY}]
                common: dict[str, Any] = {"bare": bare, "read": read, "seconds": seconds, "interface": interface}
                rows += [{"server": server, **measure(app.url, app.pid, **common, **case)} for case in cases]
            if first and soak_requests:
                result["soak"] = soak(app.url, app.pid, soak_requests)
    result["rows"] = rows
    out.write_text(json.dumps(result, indent=2) + "\n")
    out.with_suffix(".md").write_text(table(rows))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
