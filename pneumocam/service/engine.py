"""Where the work on images runs: on threads of this process, or in worker processes with a model each."""

import multiprocessing
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from pneumocam import Classifier
from pneumocam.batching import Batcher, traced
from pneumocam.onnx_runtime import on_onnx_runtime
from pneumocam.service.errors import RequestError
from pneumocam.service.limits import LIMITS, Limits

P = ParamSpec("P")
T = TypeVar("T")
Work = Callable[Concatenate[Batcher, P], T]  # a function of a module: other processes find it by its name


class Engine:
    """Runs functions of one model, a bounded number at the same time.

    Attributes:
        classifier: the model.
        limits: the bounds.
        requests: that are admitted and not answered yet.
    """

    def __init__(
        self, classifier: Classifier, *, workers: int = 1, limits: Limits = LIMITS, onnx: Path | None = None
    ) -> None:
        """Start the threads or processes.

        Args:
            classifier: the model.
            workers: 1 for threads of this process, which share batches; N > 1 for N processes, which need N times
                the memory and keep as many cores busy with decoding and drawing too.
            limits: the bounds.
            onnx: the network as `export_for_onnx_runtime` wrote it, to run in ONNX Runtime; by default in PyTorch.

        Raises:
            BundleError: as `on_onnx_runtime`.
        """
        self.classifier, self.limits, self.workers, self._onnx = classifier, limits, workers, onnx
        self.requests = 0
        self._limiter = CapacityLimiter(limits.at_work)
        self._batcher = _batcher(classifier, onnx, os.cpu_count() or 1) if workers == 1 else None
        self._pool = self._processes()
        if workers > 1:  # start them now, not when the first requests come
            wait([self._pool.submit(os.getpid) for _ in range(workers)])

    def _processes(self) -> ProcessPoolExecutor:
        context: Any = multiprocessing.get_context("spawn")  # a fork would copy the locks of this process's threads
        if sys.platform == "linux":  # a fork server has no threads, and imports PyTorch once for all workers
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__])
        return ProcessPoolExecutor(self.workers, context, _start_worker, (self.classifier, self._onnx))

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Count a request as waiting or at work while the block runs.

        Raises:
            RequestError: `busy`, if as many wait already as may.
        """
        if self.requests >= self.limits.at_work + self.limits.waiting:
            raise RequestError("busy", "Many requests are waiting already. Please come back in a minute.")
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    async def run(self, work: "Work[P, T]", *arguments: P.args, **options: P.kwargs) -> T:
        """`work(batcher, *arguments, **options)`, when its turn comes; raises what it raises."""

        def call() -> T:
            if self._batcher:
                return work(self._batcher, *arguments, **options)
            try:
                return self._pool.submit(_in_worker, work, arguments, options).result()
            except BrokenProcessPool:  # a worker was killed, e.g. for its memory; the others end with it
                self._pool = self._processes()
                raise

        return await run_sync(call, limiter=self._limiter)


def _batcher(classifier: Classifier, onnx: Path | None, cores: int) -> Batcher:
    fast = on_onnx_runtime(classifier, onnx) if onnx else traced(classifier)
    return Batcher(fast, passes=min(4, cores))  # more only wait for the interpreter


_worker: Batcher


def _start_worker(classifier: Classifier, onnx: Path | None) -> None:
    global _worker
    _worker = _batcher(classifier, onnx, 1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)  # the parent was killed, and nothing else would end this process


def _in_worker(work: Callable[..., T], arguments: Any, options: Any) -> T:
    return work(_worker, *arguments, **options)
