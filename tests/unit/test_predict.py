"""Answers: their numbers by hand, streams of any length, rejections, threads, and one pass through the backbone."""

import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pneumocam import (
    Classifier,
    NotAnImage,
    OperatingPoint,
    Prediction,
    Radiograph,
    Reason,
    load_radiograph,
    predict,
    predict_many,
    targets,
)
from pneumocam.image import Source
from tests.conftest import EXAMPLES, SUBTYPES

BINARY = ("NORMAL", "PNEUMONIA")
MakeClassifier = Callable[..., Classifier]


@pytest.fixture
def make_classifier(make_bundle: Callable[..., Path]) -> MakeClassifier:
    def make(arch: str = "test_resnet", **options: Any) -> Classifier:
        return Classifier.from_pretrained(f"local-dir:{make_bundle(arch, **options)}")

    return make


def picture(seed: int = 0, height: int = 70, width: int = 90) -> Radiograph:
    """A image of large soft blotches."""
    blotches = torch.from_numpy(np.random.default_rng(seed).uniform(0, 255, (1, 1, 5, 5)))
    pixels = torch.nn.functional.interpolate(blotches, size=(height, width), mode="bilinear")[0, 0]
    return Radiograph(pixels.numpy().astype(np.uint8), "array", ())


def with_point(classifier: Classifier, threshold: float, uncertain_log_odds: float = 0.0) -> Classifier:
    return replace(classifier, operating_point=OperatingPoint("test", threshold, uncertain_log_odds))


def log_odds(p: float) -> float:
    return math.log(p / (1 - p))


class Counting(torch.nn.Module):
    """The network itself, and how many images went through its backbone in how many passes."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.passes: list[int] = []

    def forward_features(self, batch: Tensor) -> Tensor:
        self.passes.append(len(batch))
        features: Tensor = self.network.forward_features(batch)  # (B, D, h, w)
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.network.forward_head(features)  # (B, K)
        return logits


# The numbers


@pytest.mark.parametrize("labels", [SUBTYPES, BINARY])
@pytest.mark.parametrize("temperature", [0.05, 1.0, 3.0])
def test_probabilities_are_the_softmax_of_the_cooled_logits(
    make_classifier: MakeClassifier, labels: tuple[str, ...], temperature: float
) -> None:
    classifier = make_classifier(labels=labels, temperature=temperature)
    radiograph = picture()
    answer = predict(classifier, radiograph)
    with torch.no_grad():
        logits = classifier.network(classifier.transform(radiograph)[None])[0].double().numpy()
    powers = np.exp(logits / temperature)
    assert list(answer.probabilities) == list(labels)
    np.testing.assert_allclose(list(answer.probabilities.values()), powers / powers.sum(), rtol=1e-5)
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-12)
    assert answer.p_pneumonia == pytest.approx(1 - answer.probabilities["NORMAL"])
    assert answer.probability("NORMAL") == answer.probabilities["NORMAL"]
    assert answer.probability("PNEUMONIA") == answer.p_pneumonia
    with pytest.raises(KeyError):
        answer.probability("LUNG")


@pytest.mark.parametrize("labels", [SUBTYPES, BINARY])
def test_the_threshold_decides_and_is_itself_pneumonia(
    make_classifier: MakeClassifier, labels: tuple[str, ...]
) -> None:
    classifier = make_classifier(labels=labels)
    p = predict(classifier, picture()).p_pneumonia
    assert p is not None
    for threshold, positive in ((p - 1e-9, True), (p, True), (p + 1e-9, False), (0.01, True), (0.99, False)):
        answer = predict(with_point(classifier, threshold), picture())
        kinds = {name: x for name, x in answer.probabilities.items() if name != "NORMAL"}
        assert answer.label == (max(kinds, key=lambda name: kinds[name]) if positive else "NORMAL")
        assert answer.status == "ok"
        assert answer.reason is None
        assert answer.operating_point.threshold == threshold


def test_subtypes_that_are_each_less_probable_than_normal_can_still_be_pneumonia(
    make_classifier: MakeClassifier,
) -> None:
    classifier = make_classifier(temperature=1.0)
    with torch.no_grad():
        classifier.network.fc.weight.zero_()
        classifier.network.fc.bias.copy_(torch.tensor([0.4, 0.3, 0.3]).log())
    answer = predict(classifier, picture())
    assert answer.probabilities == pytest.approx({"NORMAL": 0.4, "BACTERIAL": 0.3, "VIRAL": 0.3}, abs=1e-6)
    assert answer.p_pneumonia == pytest.approx(0.6, abs=1e-6)
    assert answer.label in ("BACTERIAL", "VIRAL")


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_nearer_to_the_threshold_than_the_band_is_uncertain(make_classifier: MakeClassifier, threshold: float) -> None:
    classifier = make_classifier()
    p = predict(classifier, picture()).p_pneumonia
    assert p is not None
    distance = abs(log_odds(p) - log_odds(threshold))
    inside = predict(with_point(classifier, threshold, distance * 1.001), picture())
    outside = predict(with_point(classifier, threshold, distance * 0.999), picture())
    assert inside.status == "uncertain"
    leaning = f"pneumonia ({p:.0%})" if p >= threshold else f"normal ({1 - p:.0%})"
    assert inside.reason == Reason("near_threshold", f"Uncertain, leaning {leaning}.")
    assert (outside.status, outside.reason) == ("ok", None)
    assert inside.label == outside.label
    assert inside.probabilities == outside.probabilities


def test_a_probability_of_one_is_an_answer(make_classifier: MakeClassifier) -> None:
    classifier = with_point(make_classifier(temperature=1.0), 0.5, 2.0)
    with torch.no_grad():
        classifier.network.fc.bias.copy_(torch.tensor([-1e4, 1e4, 0.0]))
    answer = predict(classifier, picture())
    assert (answer.status, answer.label, answer.p_pneumonia) == ("ok", "BACTERIAL", 1)


def test_every_way_to_hand_over_an_image_gives_one_answer(make_classifier: MakeClassifier) -> None:
    classifier = make_classifier()
    path = EXAMPLES[0]
    ways: list[Source | Radiograph] = [
        path,
        str(path),
        path.read_bytes(),
        load_radiograph(path),
        load_radiograph(path).pixels,
    ]
    answers = [predict(classifier, way).to_dict() for way in ways]
    formats = [answer["image"].pop("format") for answer in answers]
    assert all(answer == answers[0] for answer in answers)
    assert formats == ["JPEG", "JPEG", "JPEG", "JPEG", "array"]


# One JSON


def test_to_dict_is_plain_json(make_classifier: MakeClassifier) -> None:
    classifier = with_point(make_classifier(), 0.25)
    answer = predict(classifier, picture())
    assert json.loads(json.dumps(answer.to_dict(), allow_nan=False)) == answer.to_dict()
    assert answer.to_dict() == {
        "schema_version": 1,
        "status": "ok",
        "label": answer.label,
        "probabilities": dict(answer.probabilities),
        "p_pneumonia": answer.p_pneumonia,
        "prevalence": 0.5,
        "reason": None,
        "warnings": [],
        "image": {"format": "array", "width": 90, "height": 70, "steps": []},
        "map": None,
        "operating_point": {"name": "test", "threshold": 0.25},
        "model": {"id": "local-dir:bundle", "revision": classifier.revision},
        "disclaimer": "Research and teaching only: not a diagnosis.",
    }


def test_to_dict_tells_of_a_map_that_it_is_given(bundled: Classifier) -> None:
    prediction = predict(bundled, EXAMPLES[0])
    saliency = prediction.explain("PNEUMONIA")
    told = prediction.to_dict(saliency)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told == prediction.to_dict() | {"map": saliency.to_dict()}
    assert told["map"]["target"] == "PNEUMONIA"


def test_to_dict_of_a_rejection_is_plain_json(make_classifier: MakeClassifier) -> None:
    (answer,) = predict_many(make_classifier(), [b"words"])
    facts = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    assert facts == answer.to_dict()
    assert (facts["status"], facts["label"], facts["probabilities"]) == ("rejected", None, {})
    assert facts["p_pneumonia"] is None
    assert facts["reason"]["code"] == "not_an_image"
    assert facts["model"] == {"id": "local-dir:bundle", "revision": answer.classifier.revision}


# Streams


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("architecture", ["test_resnet", "tf_efficientnet_lite0", "convnext_atto"])
def test_batches_answer_as_single_images_do(
    make_classifier: MakeClassifier, architecture: str, batch_size: int
) -> None:
    classifier = make_classifier(architecture)
    images = [picture(seed, 64 + 9 * seed, 100 - 3 * seed) for seed in range(7)]
    with torch.no_grad():
        logits = classifier.network(torch.stack([classifier.transform(one) for one in images]))
    classifier = replace(classifier, temperature=float(logits.std(0).max()))  # so that images do differ
    many = list(predict_many(classifier, images, batch_size=batch_size))
    singles = [predict(classifier, one) for one in images]
    assert len(many) == len(singles)
    assert len({answer.p_pneumonia for answer in singles}) == len(images)
    for a, b in zip(many, singles, strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)
        assert (a.label, a.status) == (b.label, b.status)
        np.testing.assert_allclose(a.explain("NORMAL").cam, b.explain("NORMAL").cam, atol=1e-5)


def test_a_stream_without_end_is_read_a_batch_at_a_time(make_classifier: MakeClassifier) -> None:
    taken = 0

    def endless() -> Iterator[Radiograph]:
        nonlocal taken
        while True:
            taken += 1
            yield picture(taken)

    classifier = make_classifier()
    answers = predict_many(classifier, endless(), batch_size=4)
    assert taken == 0
    first = list(islice(answers, 6))
    assert taken == 8
    for seed, answer in enumerate(first, 1):
        assert answer.probabilities == pytest.approx(predict(classifier, picture(seed)).probabilities, abs=1e-5)


def test_bad_ones_are_rejected_in_their_place(make_classifier: MakeClassifier, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "cut.jpeg").write_bytes(EXAMPLES[0].read_bytes()[:2000])
    classifier = make_classifier()
    sources: list[Source | Radiograph] = [
        *(EXAMPLES[0], tmp_path / "notes.txt", tmp_path / "missing.png", EXAMPLES[1], tmp_path / "cut.jpeg"),
        *(tmp_path, np.zeros((10, 10), np.uint8), picture()),
    ]
    answers = list(predict_many(classifier, sources, batch_size=3))
    assert [answer.reason.code if answer.reason else None for answer in answers] == [
        *(None, "not_an_image", "unreadable_file", None, "damaged_image", "unreadable_file", "too_small", None)
    ]
    for answer in answers:
        assert (answer.status == "rejected") == (answer.label is None) == (not answer.probabilities)
        assert answer.reason is None or len(answer.reason.message) > 20
    with pytest.raises(NotAnImage) as refusal:
        load_radiograph(tmp_path / "notes.txt")
    assert answers[1].reason == Reason("not_an_image", str(refusal.value))
    assert answers[2].reason == Reason("unreadable_file", "The file cannot be read: No such file or directory.")
    assert answers[0].probabilities == pytest.approx(predict(classifier, EXAMPLES[0]).probabilities, abs=1e-5)


def test_an_answer_knows_its_image_and_its_model(make_classifier: MakeClassifier) -> None:
    classifier, radiograph = make_classifier(), picture()
    answer, rejected = predict_many(classifier, [radiograph, np.zeros((10, 10), np.uint8)])
    assert answer.radiograph is radiograph
    assert rejected.radiograph is None
    assert answer.classifier is rejected.classifier is classifier


def test_a_rejected_image_has_nothing_to_explain(make_classifier: MakeClassifier) -> None:
    (answer,) = predict_many(make_classifier(), [b"words"])
    for ask in (answer.explain, answer.overlay):
        with pytest.raises(ValueError, match="A rejected image has no prediction to explain"):
            ask("NORMAL")


def test_one_bad_image_alone_is_an_exception(make_classifier: MakeClassifier, tmp_path: Path) -> None:
    classifier = make_classifier()
    with pytest.raises(NotAnImage):
        predict(classifier, b"words")
    with pytest.raises(FileNotFoundError):
        predict(classifier, tmp_path / "missing.png")


def test_no_images_give_no_answers(make_classifier: MakeClassifier) -> None:
    assert list(predict_many(make_classifier(), [])) == []


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_nothing_is_refused(make_classifier: MakeClassifier, batch_size: int) -> None:
    with pytest.raises(ValueError, match=rf"batch_size is {batch_size}; expected at least 1"):
        list(predict_many(make_classifier(), [picture()], batch_size=batch_size))


# One pass, any number of threads


def test_answer_maps_and_overlays_take_one_pass(make_classifier: MakeClassifier) -> None:
    classifier = make_classifier()
    counting = Counting(classifier.network)
    counted = replace(classifier, network=counting)
    answer = predict(counted, picture())
    for target in (None, *targets(counted)):
        answer.explain(target)
        answer.overlay(target)
    assert counting.passes == [1]
    list(predict_many(counted, [picture(seed) for seed in range(5)], batch_size=4))
    assert counting.passes == [1, 4, 1]
    expected = predict(classifier, picture())
    assert answer.probabilities == expected.probabilities
    np.testing.assert_array_equal(answer.explain().cam, expected.explain().cam)


def test_another_operating_point_is_answered_without_another_pass(bundled: Classifier) -> None:
    counting = Counting(bundled.network)
    prediction = predict(replace(bundled, network=counting), EXAMPLES[0])
    for name in bundled.operating_points:
        assert prediction.at(name).to_dict() == predict(bundled.at(name), EXAMPLES[0]).to_dict()
    assert counting.passes == [1]
    with pytest.raises(ValueError, match="operating_point is 'lenient'; this model has balanced"):
        prediction.at("lenient")


def test_a_rejection_is_one_at_every_operating_point(bundled: Classifier) -> None:
    (prediction,) = predict_many(bundled, [b"no image"])
    assert prediction.at("screening").to_dict() == next(predict_many(bundled.at("screening"), [b"no image"])).to_dict()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["tf_efficientnet_lite0", "convnext_atto", "densenet121"])
def test_threads_answer_and_explain_as_one_does(make_classifier: MakeClassifier, architecture: str) -> None:
    classifier = make_classifier(architecture, size=(32, 32))
    images = [picture(seed) for seed in range(4)]

    def numbers(answer: Prediction) -> list[np.ndarray]:
        maps = [answer.explain(target).cam for target in targets(classifier)]
        return [np.array(list(answer.probabilities.values())), *maps]

    expected = [numbers(predict(classifier, one)) for one in images]

    def work(i: int) -> bool:
        got = numbers(predict(classifier, images[i % 4]))
        return all(np.array_equal(a, b) for a, b in zip(got, expected[i % 4], strict=True))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(96))) == [True] * 96
