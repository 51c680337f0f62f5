"""How the running app bears 1 to 64 clients at once, beside the bare network on the same cores.

    python benchmarks/load.py                       # 1, 8, 32 and 64 clients, two minutes each, and 10,000 requests
    python benchmarks/load.py --seconds 10 --soak 0

Every client uploads a film, asks for the answer and waits for it, again and again. Client and server share the cores.
Writes load.json and load.md.
"""

import argparse
import asyncio
import json
import math
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from pneumocam import Classifier, load_radiograph, predict
from pneumocam.batching import without_python
from pneumocam.predict import MAX_BATCH

ROOT = Path(__file__).parents[1]
FILMS = [path.read_bytes() for path in sorted((ROOT / "examples").glob("*.jpeg"))]
MANY = 32
COLUMNS = ("clients", "films_a_second", "share", "p50_ms", "p95_ms", "p99_ms", "refused", "errors", "peak_mib")


@dataclass
class Tally:
    """What a crowd of clients saw."""

    seconds: list[float] = field(default_factory=list)  # of each answered request
    outcomes: Counter[str] = field(default_factory=Counter)


def throughput(work: Callable[[int], int], seconds: float = 3.0) -> float:
    """Films a second of a function that is called with 0, 1, 2 ... in one thread for each core, and tells how many."""

    def run(turn: int) -> int:
        torch.set_num_threads(1)  # the thread's own
        films = 0
        while time.perf_counter() < end:
            films += work(turn)
            turn += 1
        return films

    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        start = time.perf_counter()
        end = start + seconds
        films = sum(pool.map(run, range(cores)))
        return films / (time.perf_counter() - start)


def ceilings() -> tuple[float, float]:
    """Films a second through the bare network, in passes that suit it best; and with the reading of the files."""
    classifier = without_python(Classifier.from_pretrained())
    batch = torch.stack([classifier.transform(load_radiograph(film)) for film in FILMS])  # (16, C, H, W)

    def network(size: int) -> Callable[[int], int]:
        return lambda _: len(classifier.head(classifier.features(batch[:size])))

    def whole(turn: int) -> int:
        return len([predict(classifier, FILMS[turn % len(FILMS)]).to_dict()])

    throughput(whole)  # warm up
    bare = [max(throughput(network(size)) for size in (1, 4, MAX_BATCH)) for _ in range(3)]
    read = [throughput(whole) for _ in range(3)]
    return statistics.median(bare), statistics.median(read)


@contextmanager
def running_app() -> Iterator[tuple[str, int]]:
    """Address and process id of an app of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as uploads, tempfile.TemporaryFile("w+") as log:
        settings = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": uploads}
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=ROOT, env=os.environ | settings, stdout=log, stderr=log
        )
        url = f"http://127.0.0.1:{port}"
        while process.poll() is None:
            try:
                httpx.get(url, timeout=5).raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.2)
        else:
            log.seek(0)
            raise SystemExit(f"app.py ended before it served:\n{log.read()}")
        yield url, process.pid
        process.terminate()
        process.wait()


def memory(pid: int) -> float:
    """MiB that the process holds."""
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) / 1024


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def ask(client: httpx.AsyncClient, films: list[bytes], overlay: bool) -> tuple[str, float]:
    """Outcome of one request (`ok`, `refused` or what went wrong), and seconds to wait before the next."""
    files = [("files", (f"{i}.jpeg", film, "image/jpeg")) for i, film in enumerate(films)]
    uploaded = await client.post("/gradio_api/upload", files=files)
    if uploaded.status_code in (429, 503):
        return "refused", float(uploaded.headers.get("Retry-After", 1))
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in uploaded.raise_for_status().json()]
    name, body = (
        ("predict_many", {"images": data}) if len(films) > 1 else ("predict", {"image": data[0], "overlay": overlay})
    )
    call = await client.post(f"/gradio_api/call/v2/{name}", json=body)
    if call.status_code in (429, 503):
        return "refused", float(call.headers.get("Retry-After", 1))
    answer = await client.get(f"/gradio_api/call/{name}/{call.raise_for_status().json()['event_id']}")
    event, data_line = re.findall(r"event: (complete|error)\ndata: (.*)", answer.raise_for_status().text)[-1]
    if event == "error":
        return f"error: {data_line:.80}", 0.0
    answers = json.loads(data_line)[0 if len(films) > 1 else 2]
    whole = [a["status"] for a in (answers if len(films) > 1 else [answers])]
    return ("ok" if len(whole) == len(films) and "rejected" not in whole else "error: a film was rejected"), 0.0


async def crowd(
    url: str,
    clients: int,
    *,
    seconds: float = math.inf,
    requests: float = math.inf,
    films: int = 1,
    overlay: bool = False,
) -> Tally:
    """So many clients at once, until the time is over or so many requests are answered."""
    tally, end = Tally(), time.monotonic() + seconds

    async def one(number: int) -> None:
        headers = {"X-Forwarded-For": f"10.0.{number // 250}.{number % 250 + 1}"}  # clients of their own
        async with httpx.AsyncClient(base_url=url, timeout=120, headers=headers) as client:
            turn = number
            while time.monotonic() < end and len(tally.seconds) < requests:
                start = time.monotonic()
                batch = [FILMS[(turn + i) % len(FILMS)] for i in range(films)]
                try:
                    outcome, pause = await ask(client, batch, overlay)
                except (httpx.HTTPError, KeyError, IndexError, ValueError) as error:
                    outcome, pause = f"error: {type(error).__name__}", 0.0
                tally.outcomes[outcome] += 1
                if outcome == "ok":
                    tally.seconds.append(time.monotonic() - start)
                await asyncio.sleep(pause)
                turn += 1

    await asyncio.gather(*(one(number) for number in range(clients)))
    return tally


def measure(url: str, pid: int, bare: float, clients: int, films: int = 1, **options: Any) -> dict[str, Any]:
    """One row of the report."""
    start, worked, peak = time.monotonic(), processor_seconds(pid), [memory(pid)]

    async def watched() -> Tally:
        async def watch() -> None:
            while True:
                await asyncio.sleep(1)
                peak.append(memory(pid))

        watcher = asyncio.create_task(watch())
        try:
            return await crowd(url, clients, films=films, **options)
        finally:
            watcher.cancel()

    tally = asyncio.run(watched())
    took = time.monotonic() - start
    answered = len(tally.seconds) * films
    p50, p95, p99 = np.percentile(tally.seconds, [50, 95, 99]) * 1000 if tally.seconds else (float("nan"),) * 3
    row = {
        "clients": clients,
        "films_a_request": films,
        "overlay": bool(options.get("overlay")),
        "requests": len(tally.seconds),
        "films_a_second": round(answered / took, 2),
        "share": round(answered / took / bare, 3),
        "p50_ms": round(p50),
        "p95_ms": round(p95),
        "p99_ms": round(p99),
        "refused": tally.outcomes.pop("refused", 0),
        "errors": sum(count for outcome, count in tally.outcomes.items() if outcome != "ok"),
        "kinds_of_error": {outcome: count for outcome, count in tally.outcomes.items() if outcome != "ok"},
        "server_cpu_ms_a_film": round(1000 * (processor_seconds(pid) - worked) / max(1, answered), 1),
        "peak_mib": round(max(peak)),
    }
    print(json.dumps(row), flush=True)
    return row


def soak(url: str, pid: int, requests: int, clients: int = 8) -> dict[str, Any]:
    """Memory after each tenth of so many requests."""
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
    times = ("p50 ms", "p95 ms", "p99 ms")
    heads = ("a request", "clients", "films/s", "of the bare network", *times, "refused", "errors", "peak MiB")
    lines = [heads, ("---",) * len(heads)]
    for row in rows:
        films = "1 film" if row["films_a_request"] == 1 else f"{row['films_a_request']} films"
        cells = [f"{row[column]:.0%}" if column == "share" else str(row[column]) for column in COLUMNS]
        lines.append((f"{films}, overlay" if row["overlay"] else films, *cells))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--soak", type=int, default=10_000, metavar="REQUESTS")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    bare, read = ceilings()
    print(f"films a second: {bare:.1f} through the bare network, {read:.1f} with the files read", flush=True)
    with running_app() as (url, pid):
        asyncio.run(crowd(url, 4, requests=40))  # warm up
        rows = [measure(url, pid, bare, n, seconds=options.seconds) for n in options.clients]
        rows.append(measure(url, pid, bare, 8, seconds=options.seconds, overlay=True))
        rows.append(measure(url, pid, bare, 4, films=MANY, seconds=options.seconds))
        result = {
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "seconds_each": options.seconds,
            "bare_films_a_second": round(bare, 2),
            "read_films_a_second": round(read, 2),
            "rows": rows,
            "soak": soak(url, pid, options.soak) if options.soak else None,
        }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    options.out.with_suffix(".md").write_text(table(rows))


if __name__ == "__main__":
    main()
