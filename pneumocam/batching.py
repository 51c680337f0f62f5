"""Dynamic batching: concurrent requests share a forward pass."""

import queue
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pneumocam.classifier import Classifier
from pneumocam.image import Radiograph, Source, load_radiograph
from pneumocam.network import one_thread
from pneumocam.predict import MAX_BATCH, Prediction, classify, features_of, inspect

_Request = tuple[Tensor, Future[Tensor]]  # (C, H, W) float32; its features


@dataclass(frozen=True)
class _Traced:
    """A timm model whose backbone is a TorchScript graph."""

    forward_features: Callable[[Tensor], Tensor]  # (B, C, H, W) -> (B, D, h, w)
    forward_head: Callable[[Tensor], Tensor]  # (B, D, h, w) -> (B, K)


class _Backbone(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Tensor) -> Tensor:
        features: Tensor = self.network.forward_features(batch)  # type: ignore[operator]
        return features


def traced(classifier: Classifier) -> Classifier:
    """The classifier with its backbone traced to TorchScript, which releases Python's interpreter lock.

    Without it, each operation of a pass waits for the lock, and the more threads run, the longer. The graph is compared
    with the network on batches of two sizes. A network that the graph does not reproduce bit for bit, for example
    one with data-dependent control flow, is returned unchanged.
    """
    channels, height, width = classifier.preprocessing["input_size"]
    batch = torch.randn(3, channels, height, width, generator=torch.Generator().manual_seed(0)).float()
    try:
        with warnings.catch_warnings(), torch.no_grad(), one_thread:
            # PyTorch advises torch.export, whose graphs Python runs, or AOTInductor, which needs a C++ compiler.
            warnings.simplefilter("ignore")
            graph = torch.jit.trace(_Backbone(classifier.network), batch[:2], check_trace=False)  # type: ignore[no-untyped-call]
    except RuntimeError:  # parts of the network cannot be traced
        return classifier
    result = replace(classifier, network=_Traced(graph, classifier.network.forward_head))
    for size in (1, 3):
        expected = features_of(classifier, batch[:size])
        for _ in range(2):  # PyTorch optimises a graph after its first run
            if not all(map(torch.equal, features_of(result, batch[:size]), expected)):
                return classifier
    return result


class Batcher:
    """`predict` for a server: many threads may call it at once.

    The calling thread reads, preprocesses and classifies its own image. Threads of the batcher run the network on all
    images that wait at that moment. A request never waits for a batch to fill, and an error reaches only its caller.

    Attributes:
        classifier: the model.
        max_batch: most images in a pass.
        passes: number of passes in parallel.
    """

    def __init__(self, classifier: Classifier, *, max_batch: int = MAX_BATCH, passes: int = 1) -> None:
        """Start the threads; they live as long as the process.

        Args:
            classifier: the model.
            max_batch: most images in a pass, at least 1; up to `MAX_BATCH`, predictions are bit for bit those of
                `predict`.
            passes: most passes in parallel, at least 1; each computes on one core.

        Raises:
            ValueError: max_batch or passes is less than 1.
        """
        if max_batch < 1 or passes < 1:
            raise ValueError(f"max_batch is {max_batch} and passes {passes}; expected at least 1 of each.")
        self.classifier = classifier
        self.max_batch = max_batch
        self.passes = passes
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        for _ in range(passes):
            threading.Thread(target=self._run, name="pneumocam-network", daemon=True).start()

    @property
    def waiting(self) -> int:
        """Number of images that wait for a pass."""
        return self._requests.qsize()

    def __call__(
        self,
        source: Source | Radiograph,
        *,
        operating_point: str | None = None,
        prevalence: float | None = None,
        force: bool = False,
    ) -> Prediction:
        """As `predict`, at any of the model's operating points and for any prevalence.

        Raises:
            RadiographError, InternalError, OSError: as in `predict`.
            ValueError: as in `Classifier.at`.
        """
        classifier = self.classifier.at(operating_point, prevalence=prevalence)
        radiograph = source if isinstance(source, Radiograph) else load_radiograph(source)
        found = inspect(classifier, radiograph, force=force)
        features = Future[Tensor]()
        self._requests.put((classifier.transform(found.radiograph), features))
        return classify(classifier, found.radiograph, features.result(), found)

    def _run(self) -> None:
        while True:
            batch = [self._requests.get()]
            with suppress(queue.Empty):  # another thread took the rest
                share = min(self.max_batch, -(-(self.waiting + 1) // self.passes))
                batch.extend(self._requests.get_nowait() for _ in range(share - 1))
            _resolve(self.classifier, batch)
            del batch  # free it while idle


def _resolve(classifier: Classifier, batch: list[_Request]) -> None:
    """Resolve every future, with features or an exception."""
    try:
        rows = features_of(classifier, torch.stack([image for image, _ in batch]))  # (D, h, w) each
    except BaseException as error:  # e.g. out of memory: hand it to the callers, keep the thread alive
        for _, features in batch:
            features.set_exception(error)
    else:
        for (_, features), row in zip(batch, rows, strict=True):
            features.set_result(row)
