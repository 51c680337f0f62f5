"""Threads and worker processes give the same answers, in bounds, and survive a killed worker."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pneumocam import BundleError, Classifier, NotAnImage, predict
from pneumocam.onnx_runtime import export_for_onnx_runtime, on_onnx_runtime
from pneumocam.service.api import Options, classify_one
from pneumocam.service.engine import Engine
from pneumocam.service.errors import RequestError
from pneumocam.service.limits import LIMITS
from tests.conftest import EXAMPLES

GATE, INSIDE = threading.Event(), threading.Semaphore(0)


def wait_at_gate(_: Any) -> str:
    INSIDE.release()
    GATE.wait(60)
    return "done"


def process_id(_: Any) -> int:
    return os.getpid()


def refuse(_: Any) -> None:
    raise RequestError("no_url", "A sentence.")


@pytest.fixture(scope="module")
def processes(bundled: Classifier) -> Engine:
    """An engine with two worker processes, whose start takes long."""
    return Engine(bundled, workers=2)


@pytest.mark.parametrize("workers", [1, 2])
def test_threads_and_processes_answer_as_python_does(bundled: Classifier, processes: Engine, workers: int) -> None:
    engine = processes if workers == 2 else Engine(bundled)
    options = Options.model_validate({"overlay": "png", "operating_point": "screening"})

    async def ask() -> list[Any]:
        images = [path.read_bytes() for path in EXAMPLES[:4]]
        answers = list(await asyncio.gather(*(engine.run(classify_one, data, options) for data in images)))
        for work, error in ((refuse, RequestError), (classify_one, NotAnImage)):
            with pytest.raises(error):
                await (engine.run(work) if work is refuse else engine.run(classify_one, b"Dear radiologist", options))
        return answers

    answers = asyncio.run(ask())
    predictions = [predict(bundled.at("screening"), path) for path in EXAMPLES[:4]]
    assert [answer.prediction for answer in answers] == [one.to_dict(one.explain()) for one in predictions]
    assert all(answer.overlay.startswith(b"\x89PNG") for answer in answers)


@pytest.fixture(scope="module")
def onnx(bundled: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_for_onnx_runtime(bundled, tmp_path_factory.mktemp("onnx") / "network.onnx")


def test_onnx_runtime_gives_the_answers_of_pytorch(bundled: Classifier, onnx: Path) -> None:
    fast = on_onnx_runtime(bundled, onnx)
    for path in EXAMPLES:
        one, other = predict(fast, path), predict(bundled, path)
        assert (one.label, one.status) == (other.label, other.status)
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)
        for target, expected in other.maps.items():
            np.testing.assert_allclose(one.maps[target].cam, expected.cam, rtol=0, atol=1e-3 * expected.cam.max())


def test_the_engine_runs_onnx_runtime(bundled: Classifier, onnx: Path) -> None:
    engine = Engine(bundled, onnx=onnx)
    answer = asyncio.run(engine.run(classify_one, EXAMPLES[0].read_bytes(), Options.model_validate({})))
    expected = predict(on_onnx_runtime(bundled, onnx), EXAMPLES[0])
    assert answer.prediction == expected.to_dict()
    assert answer.prediction != predict(bundled, EXAMPLES[0]).to_dict()  # PyTorch rounds otherwise


def test_an_onnx_file_of_another_network_is_refused(make_bundle: Callable[..., Path], onnx: Path) -> None:
    other = Classifier.from_pretrained(f"local-dir:{make_bundle(size=(192, 192))}")
    with pytest.raises(BundleError, match="other features than PyTorch"):
        on_onnx_runtime(other, onnx)


def test_a_missing_package_for_onnx_is_named(
    bundled: Classifier, onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BundleError, match=r"onnxruntime: pip install 'pneumocam\[onnx\]'"):
        on_onnx_runtime(bundled, onnx)
    monkeypatch.setitem(sys.modules, "onnx_ir.passes.common", None)
    monkeypatch.delitem(sys.modules, "pneumocam.export")
    with pytest.raises(BundleError, match=r"pip install 'pneumocam\[onnx\]'"):
        export_for_onnx_runtime(bundled, tmp_path / "network.onnx")


def test_a_killed_worker_fails_its_request_alone(processes: Engine) -> None:
    engine = processes

    async def ask() -> None:
        worker = await engine.run(process_id)
        assert worker != os.getpid()
        os.kill(worker, signal.SIGKILL)
        answers: list[Any] = []
        while not any(isinstance(answer, BrokenProcessPool) for answer in answers):  # until the pool notices
            answers += await asyncio.gather(engine.run(process_id), return_exceptions=True)
        assert await engine.run(process_id) != worker

    asyncio.run(ask())


def test_more_requests_than_may_wait_are_refused(bundled: Classifier) -> None:
    engine = Engine(bundled, limits=replace(LIMITS, at_work=1, waiting=2))

    async def request() -> str:
        async with engine.admitted():
            return await engine.run(wait_at_gate)

    async def ask() -> None:
        admitted = [asyncio.create_task(request()) for _ in range(3)]
        while engine.requests < 3:
            await asyncio.sleep(0)
        assert await asyncio.to_thread(INSIDE.acquire, timeout=60)
        assert not INSIDE.acquire(blocking=False)  # the others wait for their turn
        with pytest.raises(RequestError) as refused:
            await request()
        assert (refused.value.code, refused.value.status) == ("busy", 503)
        GATE.set()
        assert await asyncio.gather(*admitted) == ["done"] * 3
        assert await request() == "done"

    asyncio.run(ask())
