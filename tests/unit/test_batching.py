"""Images of many callers share passes, and no answer shows it."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pneumocam import Classifier, NotAnImage, Prediction, Radiograph, load_radiograph, predict, predict_many
from pneumocam.batching import Batcher, traced
from pneumocam.predict import MAX_BATCH
from tests.conftest import EXAMPLES

pytestmark = pytest.mark.slow  # each test runs the network many times


class Gated(torch.nn.Module):
    """The network itself, which notes how many images each pass has and can be held up before one."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.passes: list[int] = []
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.open.set()
        self.failures: list[BaseException] = []

    def forward_features(self, batch: Tensor) -> Tensor:
        self.passes.append(len(batch))
        self.entered.release()
        assert self.open.wait(60)
        if self.failures:
            raise self.failures.pop()
        features: Tensor = self.network.forward_features(batch)  # (B, D, h, w)
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.network.forward_head(features)  # (B, K)
        return logits


@pytest.fixture
def gated(bundled: Classifier) -> Classifier:
    return replace(bundled, network=Gated(bundled.network))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


@pytest.fixture(scope="module")
def images() -> list[Radiograph]:
    return [load_radiograph(image) for image in EXAMPLES[:10]]


def held_up(
    batcher: Batcher, first: Radiograph, waiting: list[Radiograph], pool: ThreadPoolExecutor
) -> tuple[Future[Prediction], list[Future[Prediction]]]:
    """One image whose pass is held up, and others that wait behind it."""
    network = batcher.classifier.network
    network.open.clear()
    one = pool.submit(batcher, first)
    assert network.entered.acquire(timeout=60)
    others = [pool.submit(batcher, image) for image in waiting]
    while batcher.waiting < len(waiting):
        done, _ = wait(others, 0.002)
        assert not done
    return one, others


@pytest.fixture(scope="module")
def alone(bundled: Classifier, images: list[Radiograph]) -> list[Any]:
    """What `predict` gives for each image."""
    answers = [numbers(predict(bundled, image)) for image in images]
    assert len({answer[0]["p_pneumonia"] for answer in answers}) == len(images)
    return answers


def numbers(prediction: Prediction) -> list[Any]:
    maps = [prediction.explain(target).cam.tolist() for target in ("NORMAL", "VIRAL")]
    return [prediction.to_dict(), *maps]


@pytest.mark.parametrize("max_batch", [1, 3, MAX_BATCH])
def test_a_prediction_does_not_depend_on_the_batch(
    bundled: Classifier, images: list[Radiograph], alone: list[Any], pool: ThreadPoolExecutor, max_batch: int
) -> None:
    assert [numbers(answer) for answer in pool.map(Batcher(bundled, max_batch=max_batch), images)] == alone


@pytest.mark.parametrize("max_batch", [1, 3, MAX_BATCH])
def test_a_traced_network_gives_the_same_predictions(
    gated: Classifier, images: list[Radiograph], alone: list[Any], pool: ThreadPoolExecutor, max_batch: int
) -> None:
    recorded = traced(gated)
    gated.network.passes.clear()
    batcher = Batcher(recorded, max_batch=max_batch, passes=2)
    assert [numbers(answer) for answer in pool.map(batcher, images)] == alone
    assert gated.network.passes == []


@pytest.mark.parametrize("kind", ["decides", "refuses"])
def test_a_network_that_cannot_be_recorded_stays_as_it_is(
    gated: Classifier, images: list[Radiograph], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    right = gated.network.forward_features

    def decides(batch: Tensor) -> Tensor:
        features: Tensor = right(batch)
        return features if len(batch) > 1 else features + 1

    def refuses(batch: Tensor) -> Tensor:
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            raise RuntimeError("a part that cannot be recorded")
        return decides(batch)

    monkeypatch.setattr(gated.network, "forward_features", {"decides": decides, "refuses": refuses}[kind])
    assert traced(gated) is gated
    answer = Batcher(traced(gated))(images[0])
    assert answer.to_dict() == predict(gated, images[0]).to_dict()


@pytest.mark.parametrize("batch_size", [1, 5, 16])
def test_streams_give_the_very_same_answers(
    bundled: Classifier, images: list[Radiograph], alone: list[Any], batch_size: int
) -> None:
    assert [numbers(answer) for answer in predict_many(bundled, images, batch_size=batch_size)] == alone


def test_the_number_of_threads_changes_nothing(
    bundled: Classifier, images: list[Radiograph], alone: list[Any], pool: ThreadPoolExecutor
) -> None:
    torch.set_num_threads(2)
    try:
        assert predict(bundled, images[0]).to_dict() == alone[0][0]
        assert [answer.to_dict() for answer in predict_many(bundled, images[:5])] == [x for x, *_ in alone[:5]]
        assert [answer.to_dict() for answer in pool.map(Batcher(bundled), images[:5])] == [x for x, *_ in alone[:5]]
        assert torch.get_num_threads() == 2  # it is the process's own
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("max_batch", "waiting", "passes"), [(8, 8, [1, 8]), (8, 9, [1, 8, 1]), (3, 8, [1, 3, 3, 2]), (1, 3, [1, 1, 1, 1])]
)
def test_images_that_wait_share_a_pass(
    gated: Classifier,
    images: list[Radiograph],
    pool: ThreadPoolExecutor,
    max_batch: int,
    waiting: int,
    passes: list[int],
) -> None:
    batcher = Batcher(gated, max_batch=max_batch)
    one, others = held_up(batcher, images[0], images[1 : waiting + 1], pool)
    assert gated.network.passes == [1]
    gated.network.open.set()
    answers = [one.result(60), *(other.result(60) for other in others)]
    assert gated.network.passes == passes
    expected = [predict(gated, image) for image in images[: waiting + 1]]
    assert [answer.probabilities for answer in answers] == [answer.probabilities for answer in expected]


def test_a_kept_answer_keeps_its_own_features_alone(
    gated: Classifier, images: list[Radiograph], pool: ThreadPoolExecutor
) -> None:
    one, others = held_up(Batcher(gated), images[0], images[1:9], pool)
    gated.network.open.set()
    single = one.result(60)._features
    assert single is not None
    for other in others:
        features = other.result(60)._features
        assert features is not None
        assert features.untyped_storage().nbytes() == single.untyped_storage().nbytes()


class Died(BaseException):
    """As little an Exception as what ends a thread."""


@pytest.mark.parametrize("failure", [RuntimeError("no memory"), Died()], ids=["exception", "worse"])
def test_a_failed_pass_fails_its_own_callers_and_the_next_image_is_answered(
    gated: Classifier, images: list[Radiograph], pool: ThreadPoolExecutor, failure: BaseException
) -> None:
    batcher = Batcher(gated, max_batch=4)
    one, others = held_up(batcher, images[0], images[1:7], pool)  # passes of 1, 4 and 2
    gated.network.failures = [failure, KeyError("first")]
    gated.network.open.set()
    assert isinstance(one.exception(60), KeyError)
    failed = [other for other in others if other.exception(60)]
    assert [other.exception() for other in failed] == [failure] * 4
    assert gated.network.passes == [1, 4, 2]
    expected = [predict(gated, image).probabilities for image in images[1:7]]
    for other, probabilities in zip(others, expected, strict=True):
        assert other in failed or other.result().probabilities == probabilities
    assert batcher(images[7]).probabilities == predict(gated, images[7]).probabilities


def test_a_bad_image_fails_alone_and_never_reaches_the_network(
    gated: Classifier, images: list[Radiograph], pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    batcher = Batcher(gated)
    one, others = held_up(batcher, images[0], images[1:3], pool)
    with pytest.raises(NotAnImage):
        batcher(b"words")
    with pytest.raises(FileNotFoundError):
        batcher(tmp_path / "missing.png")
    gated.network.open.set()
    for answer, image in zip([one, *others], images, strict=False):
        assert answer.result(60).probabilities == predict(gated, image).probabilities
    assert gated.network.passes[:2] == [1, 2]


def test_each_call_has_its_operating_point(
    bundled: Classifier, images: list[Radiograph], pool: ThreadPoolExecutor
) -> None:
    batcher = Batcher(bundled)
    calls = [(image, point) for image in images[:4] for point in (None, *bundled.operating_points)]
    answers = list(pool.map(lambda call: batcher(call[0], operating_point=call[1]).to_dict(), calls))
    for (image, point), answer in zip(calls, answers, strict=True):
        expected = bundled if point is None else bundled.at(point)
        assert answer == predict(expected, image).to_dict()
    assert {answer["operating_point"]["name"] for answer in answers} == set(bundled.operating_points)
    with pytest.raises(ValueError, match="operating_point is 'strict'; this model has balanced"):
        batcher(images[0], operating_point="strict")


def test_a_prepared_image_is_answered_as_its_file(bundled: Classifier) -> None:
    batcher = Batcher(bundled)
    expected = predict(bundled, EXAMPLES[0])
    for source in (EXAMPLES[0], str(EXAMPLES[0]), EXAMPLES[0].read_bytes(), load_radiograph(EXAMPLES[0])):
        answer = batcher(source)
        assert answer.to_dict() == expected.to_dict()
        np.testing.assert_array_equal(np.asarray(answer.overlay()), np.asarray(expected.overlay()))


def test_passes_run_side_by_side_and_share_what_waits(
    gated: Classifier, images: list[Radiograph], pool: ThreadPoolExecutor
) -> None:
    batcher = Batcher(gated, passes=2)
    gated.network.open.clear()
    first = [pool.submit(batcher, image) for image in images[:2]]
    for _ in first:
        assert gated.network.entered.acquire(timeout=60)  # both are in the network, each in a pass of its own
    others = [pool.submit(batcher, image) for image in images[2:10]]
    while batcher.waiting < len(others):
        done, _ = wait(others, 0.002)
        assert not done
    gated.network.open.set()
    answers = [answer.result(60).to_dict() for answer in (*first, *others)]
    assert answers == [predict(gated, image).to_dict() for image in images[:10]]
    assert gated.network.passes[:3] == [1, 1, 4]
    assert sum(gated.network.passes[:-10]) == 10  # the last ten are those of `predict`


@pytest.mark.parametrize("max_batch", [0, -8])
def test_a_batch_of_nothing_is_refused(gated: Classifier, max_batch: int) -> None:
    with pytest.raises(ValueError, match=rf"max_batch is {max_batch} and passes 1; expected at least 1 of each"):
        Batcher(gated, max_batch=max_batch)
    with pytest.raises(ValueError, match="max_batch is 8 and passes 0; expected at least 1 of each"):
        Batcher(gated, passes=0)
