"""Many callers, one network: films that wait at the same time go through the backbone together."""

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
from pneumocam.predict import MAX_BATCH, Prediction, features_of, judge

_Waiting = tuple[Tensor, Future[Tensor]]  # (C, H, W) float32; its features


@dataclass(frozen=True)
class _Traced:
    """A timm model whose backbone runs as a recorded graph."""

    forward_features: Callable[[Tensor], Tensor]  # (B, C, H, W) -> (B, D, h, w)
    forward_head: Callable[[Tensor], Tensor]  # (B, D, h, w) -> (B, K)


class _Backbone(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Tensor) -> Tensor:
        features: Tensor = self.network.forward_features(batch)  # type: ignore[operator]
        return features


def without_python(classifier: Classifier) -> Classifier:
    """The same classifier, whose backbone runs without Python: other threads work on while it computes.

    Run by Python, a pass waits for the interpreter once for every operation, and the more threads it has beside it
    the longer. The graph is tried on batches of several sizes first; a network that it does not reproduce to the last
    bit (such as one that decides by its input what to compute) stays as it is.
    """
    channels, height, width = classifier.preprocessing["input_size"]
    batch = torch.randn(MAX_BATCH, channels, height, width, generator=torch.Generator().manual_seed(0))
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # PyTorch advises torch.export, whose graphs Python runs, or AOTInductor, which needs a C++ compiler.
            warnings.simplefilter("ignore")
            graph = torch.jit.trace(_Backbone(classifier.network), batch, check_trace=False)  # type: ignore[no-untyped-call]
    except RuntimeError:  # it has parts that cannot be recorded
        return classifier
    traced = replace(classifier, network=_Traced(graph, classifier.network.forward_head))
    for size in (1, 3, MAX_BATCH) * 2:  # twice: PyTorch optimises a graph after its first run
        expected = features_of(classifier, batch[:size])
        if not all(map(torch.equal, features_of(traced, batch[:size]), expected)):
            return classifier
    return traced


class Batcher:
    """`predict` for a server: to be called from many threads at once.

    Each caller's thread reads, prepares and judges its own film; threads of the batcher's run the network, on what has
    come in the meantime. Nobody waits for a batch to fill, and a bad film fails for its caller alone.

    Attributes:
        classifier: what answers.
        max_batch: most films in a pass.
        passes: how many run side by side.
    """

    def __init__(self, classifier: Classifier, *, max_batch: int = MAX_BATCH, passes: int = 1) -> None:
        """Start the threads; they live as long as the process.

        Args:
            classifier: what answers.
            max_batch: most films in a pass, at least 1; up to `MAX_BATCH`, answers are the very ones of `predict`.
            passes: how many may run side by side, at least 1; each computes on one core.

        Raises:
            ValueError: max_batch or passes is less than 1.
        """
        if max_batch < 1 or passes < 1:
            raise ValueError(f"max_batch is {max_batch} and passes {passes}; expected at least 1 of each.")
        self.classifier = classifier
        self.max_batch = max_batch
        self.passes = passes
        self._waiting: queue.SimpleQueue[_Waiting] = queue.SimpleQueue()
        for _ in range(passes):
            threading.Thread(target=self._run, name="pneumocam-network", daemon=True).start()

    def __call__(self, source: Source | Radiograph, *, operating_point: str | None = None) -> Prediction:
        """As `predict`, at any of the model's operating points.

        Args:
            source: whatever `load_radiograph` takes, or what it gave.
            operating_point: the name of one; by default the classifier's.

        Raises:
            RadiographError: the source is no usable radiograph.
            ValueError: the model has no operating point of that name.
            OSError: the file cannot be read.
        """
        classifier = self.classifier if operating_point is None else self.classifier.at(operating_point)
        radiograph = source if isinstance(source, Radiograph) else load_radiograph(source)
        features = Future[Tensor]()
        self._waiting.put((classifier.transform(radiograph), features))
        return judge(classifier, radiograph, features.result())

    def _run(self) -> None:
        while True:
            films = [self._waiting.get()]
            with suppress(queue.Empty):  # another pass was quicker
                share = min(self.max_batch, -(-(self._waiting.qsize() + 1) // self.passes))
                films.extend(self._waiting.get_nowait() for _ in range(share - 1))
            _pass(self.classifier, films)
            del films  # or the last batch would stay in memory until the next film comes


def _pass(classifier: Classifier, films: list[_Waiting]) -> None:
    """Give every film its features, or what went wrong: nobody may wait for ever."""
    try:
        rows = features_of(classifier, torch.stack([film for film, _ in films]))  # (D, h, w) each
    except BaseException as error:  # such as no memory: it is the callers' to tell, and the thread's to live on
        for _, features in films:
            features.set_exception(error)
    else:
        for (_, features), row in zip(films, rows, strict=True):
            features.set_result(row)
