"""Models from a Hub on loopback: revisions, the cache, failures, and a start that has to succeed."""

import pickle
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from starlette.responses import HTMLResponse

import pneumocam.hub
from pneumocam import BundleError, Classifier, load_or_fall_back
from tests.conftest import EXAMPLES
from tests.hub import Hub
from tests.unit.test_bundle import TINY, MakeBundle, Trap, edit, edit_weights, logits, timm_logits

pytestmark = pytest.mark.slow  # each test runs a Hub and loads a model from it


@pytest.fixture
def model_hub(hub: Hub, make_bundle: MakeBundle) -> Hub:
    """A model repository of two commits: the older one is tagged v1, the newer one is main and has metrics."""
    older = make_bundle(TINY, temperature=1.0, name="older")
    newer = make_bundle(TINY, temperature=2.0, name="newer")
    edit_weights(newer, lambda state: state["fc.bias"].add_(1))
    (newer / "metrics.json").write_text('{"n": 3}')
    hub.add("lung/xray", older, "v1", "refs/pr/1")
    hub.add("lung/xray", newer, "main")
    return hub


@pytest.mark.parametrize("revision", ["", "@", "@main", "@v1", "@refs/pr/1", "@sha"])
def test_a_revision_of_a_hub_repository(model_hub: Hub, revision: str) -> None:
    old, new = model_hub.repositories["lung/xray"].commits
    newest = revision in ("", "@", "@main")
    source = f"hf-hub:lung/xray{revision.replace('sha', old)}"
    classifier = Classifier.from_pretrained(source)
    assert classifier.id == "lung/xray"
    assert classifier.revision == (new if newest else old)
    assert classifier.temperature == (2 if newest else 1)
    assert classifier.metrics == ({"n": 3} if newest else None)

    model_hub.close()
    again = Classifier.from_pretrained(source)
    assert (again.id, again.revision, again.metrics) == (classifier.id, classifier.revision, classifier.metrics)
    torch.testing.assert_close(logits(again, EXAMPLES[0]), logits(classifier, EXAMPLES[0]), rtol=0, atol=0)


def test_a_commit_that_is_in_the_cache_takes_no_request(model_hub: Hub) -> None:
    first = Classifier.from_pretrained("hf-hub:lung/xray@v1")
    model_hub.requests.clear()
    Classifier.from_pretrained(f"hf-hub:lung/xray@{first.revision}")
    assert model_hub.requests == []


def test_weights_are_downloaded_once(model_hub: Hub) -> None:
    for _ in range(2):
        Classifier.from_pretrained("hf-hub:lung/xray@v1")
    downloads = [x for x in model_hub.requests if x.startswith("GET") and x.endswith("model.safetensors")]
    assert len(downloads) == 1


def test_a_branch_that_moves_is_followed_and_a_tag_stays(model_hub: Hub) -> None:
    old, new = model_hub.repositories["lung/xray"].commits
    assert Classifier.from_pretrained("hf-hub:lung/xray@main").revision == new
    model_hub.repositories["lung/xray"].main = old
    assert Classifier.from_pretrained("hf-hub:lung/xray@main").revision == old
    model_hub.close()
    assert Classifier.from_pretrained("hf-hub:lung/xray@main").revision == old
    assert Classifier.from_pretrained(f"hf-hub:lung/xray@{new}").revision == new


@pytest.mark.usefixtures("model_hub")
def test_timm_alone_reads_the_same_repository() -> None:
    classifier = Classifier.from_pretrained("hf-hub:lung/xray@v1")
    expected = timm_logits("hf-hub:lung/xray@v1", EXAMPLES[0])
    torch.testing.assert_close(logits(classifier, EXAMPLES[0]), expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(timm_logits("hf-hub:lung/xray", EXAMPLES[0]), expected)


REMEDY = "Check the name, the revision and the network; a private model needs HF_TOKEN"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nobody/xray", rf"hf-hub:nobody/xray@main could not be downloaded .*\(HTTP 404\).*{REMEDY}"),
        ("lung/xray@v9", rf"hf-hub:lung/xray@v9 could not be downloaded .*\(HTTP 404\).*{REMEDY}"),
        (f"lung/xray@{'0' * 40}", rf"lung/xray@0{{40}} could not be downloaded .*\(HTTP 404\).*{REMEDY}"),
        ("lung/xray/x", "'lung/xray/x' is no Hub repository id: expected hf-hub:owner/name"),
        ("../xray", "'../xray' is no Hub repository id: expected hf-hub:owner/name"),
    ],
)
@pytest.mark.usefixtures("model_hub")
def test_what_the_hub_does_not_have_is_reported(source: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Classifier.from_pretrained(f"hf-hub:{source}")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "pneumocam.json"])
def test_a_repository_that_is_no_bundle_is_reported(hub: Hub, make_bundle: MakeBundle, name: str) -> None:
    bundle = make_bundle(TINY)
    (bundle / name).unlink()
    hub.add("timm/resnet", bundle, "main")
    with pytest.raises(BundleError, match=rf"hf-hub:timm/resnet@.* has no {name}: expected a PneumoCAM bundle"):
        Classifier.from_pretrained("hf-hub:timm/resnet")


def test_a_hub_that_answers_something_else_is_reported(model_hub: Hub) -> None:
    model_hub.failures[""] = HTMLResponse("<html>Please log in to this network.</html>")
    with pytest.raises(BundleError, match=REMEDY):
        Classifier.from_pretrained("hf-hub:lung/xray")


@pytest.mark.parametrize("revision", ["v1", "0" * 40])
@pytest.mark.parametrize("failure", ["down", "hanging"])
def test_without_a_hub_or_a_cache_the_end_comes_soon(
    model_hub: Hub, monkeypatch: pytest.MonkeyPatch, failure: str, revision: str
) -> None:
    monkeypatch.setattr(pneumocam.hub, "HUB_TIMEOUT", 0.3)
    model_hub.close() if failure == "down" else model_hub.released.clear()
    start = time.monotonic()
    with pytest.raises(BundleError, match=rf"lung/xray@{revision} could not be downloaded .*{REMEDY}"):
        Classifier.from_pretrained(f"hf-hub:lung/xray@{revision}")
    assert time.monotonic() - start < 10  # the client's own retries take 23 s and more


def test_a_hub_that_hangs_leaves_the_cache_to_answer(model_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Classifier.from_pretrained("hf-hub:lung/xray@v1").revision
    monkeypatch.setattr(pneumocam.hub, "HUB_TIMEOUT", 0.3)
    model_hub.released.clear()
    assert Classifier.from_pretrained("hf-hub:lung/xray@v1").revision == known


def test_the_timeout_in_use_is_short() -> None:
    assert pneumocam.hub.HUB_TIMEOUT <= 15  # to connect and to read, one after the other: 30 s


# A start that has to succeed

FAILURES: dict[str, tuple[Callable[[Hub], object], str]] = {
    "down": (Hub.close, r"could not be downloaded .*\(ConnectError\)"),
    "API hangs": (lambda hub: hub.hang("/api/"), "did not come within 1 s"),
    "file hangs": (lambda hub: hub.hang("GET /lung/xray/resolve"), "did not come within 1 s"),
    "API at its rate limit": (lambda hub: hub.fail("/api/", 429), r"could not be downloaded .*\(HTTP 429\)"),
    "files at their rate limit": (lambda hub: hub.fail("/resolve/", 429), "did not come within 1 s"),
    "revision gone": (lambda hub: hub.fail("", 404), r"could not be downloaded .*\(HTTP 404\)"),
    "file cut short": (lambda hub: setattr(hub, "cut", 1000), "did not come within 1 s"),
    "file garbled": (lambda hub: setattr(hub, "garbled", "model.safetensors"), "model.safetensors of .* is damaged"),
}


@pytest.mark.parametrize("cached", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_start_takes_bounded_time_whichever_way_the_hub_fails(
    model_hub: Hub,
    bundled: Classifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: str,
    cached: bool,
) -> None:
    old, new = model_hub.repositories["lung/xray"].commits
    if cached:
        model_hub.repositories["lung/xray"].main = old
        Classifier.from_pretrained("hf-hub:lung/xray@main")
        model_hub.repositories["lung/xray"].main = new
    make_failure, reason = FAILURES[failure]
    make_failure(model_hub)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    start = time.monotonic()
    loaded = load_or_fall_back("hf-hub:lung/xray@main", timeout=1)
    assert time.monotonic() - start < 10  # the client's own retries take 23 s, or never end
    assert loaded.notice
    assert "hf-hub:lung/xray@main" in loaded.notice
    assert re.search(reason, loaded.notice)
    if cached:
        assert (loaded.classifier.id, loaded.classifier.revision) == ("lung/xray", old)
        assert f"An earlier download is used instead: commit {old}" in loaded.notice
    else:
        assert (loaded.classifier.id, loaded.classifier.revision) == ("bundled", bundled.revision)
        assert "The bundled model is used instead" in loaded.notice
    said = [record.getMessage() for record in caplog.records if record.name.startswith("pneumocam")]
    assert said == [loaded.notice]
    assert "hf_secret" not in caplog.text
    assert str(tmp_path) not in caplog.text


def test_a_start_takes_the_model_that_was_asked_for(model_hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    old, _ = model_hub.repositories["lung/xray"].commits
    loaded = load_or_fall_back("hf-hub:lung/xray@v1")
    assert (loaded.classifier.id, loaded.classifier.revision, loaded.notice) == ("lung/xray", old, None)
    assert load_or_fall_back().classifier.id == "bundled"
    assert caplog.records == []


def test_what_comes_too_late_serves_the_next_start(model_hub: Hub) -> None:
    model_hub.hang("GET /lung/xray/resolve")
    loaded = load_or_fall_back("hf-hub:lung/xray@v1", timeout=0.5)
    model_hub.heal()
    assert loaded.classifier.id == "bundled"
    model_hub.requests.clear()
    again = load_or_fall_back("hf-hub:lung/xray@v1")
    assert (again.classifier.id, again.notice) == ("lung/xray", None)
    assert not any(request.startswith("GET /lung/xray/resolve") for request in model_hub.requests)


def test_an_update_that_breaks_off_leaves_the_older_commit_in_place(model_hub: Hub) -> None:
    old, new = model_hub.repositories["lung/xray"].commits
    model_hub.repositories["lung/xray"].main = old
    Classifier.from_pretrained("hf-hub:lung/xray")
    model_hub.repositories["lung/xray"].main = new
    model_hub.garbled = "model.safetensors"
    for _ in range(2):
        assert load_or_fall_back("hf-hub:lung/xray").classifier.revision == old
    model_hub.heal()
    assert load_or_fall_back("hf-hub:lung/xray").classifier.revision == new


def test_weights_that_are_damaged_in_the_cache_are_fetched_anew(model_hub: Hub, tmp_path: Path) -> None:
    source = f"hf-hub:lung/xray@{Classifier.from_pretrained('hf-hub:lung/xray@v1').revision}"
    (weights,) = tmp_path.glob("hub-cache/**/snapshots/*/model.safetensors")

    def damage() -> None:
        content = weights.read_bytes()
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    damage()
    assert load_or_fall_back(source).notice is None
    damage()
    model_hub.close()
    assert load_or_fall_back(source).classifier.id == "bundled"


def test_a_start_opens_no_pickle(hub: Hub, make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle(TINY)
    (bundle / "model.safetensors").unlink()
    (bundle / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    hub.add("lung/xray", bundle, "main")
    loaded = load_or_fall_back("hf-hub:lung/xray")
    assert loaded.classifier.id == "bundled"
    assert "has no model.safetensors" in str(loaded.notice)
    assert not any("pytorch_model.bin" in request for request in hub.requests)


def test_a_bundle_of_the_hub_that_cannot_be_read_is_reported_without_paths(
    hub: Hub, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle = make_bundle(TINY)
    edit(bundle / "pneumocam.json", schema_version=99)
    commit = hub.add("lung/xray", bundle, "main")
    loaded = load_or_fall_back("hf-hub:lung/xray")
    assert loaded.classifier.id == "bundled"
    assert str(loaded.notice).startswith(f"hf-hub:lung/xray@{commit}: pneumocam.json: schema_version is 99")
    assert str(tmp_path) not in str(loaded.notice)


@pytest.mark.parametrize("source", ["image", "hf-hub:image/x/y", "local-dir:nowhere"])
def test_a_start_does_not_cover_up_a_source_that_is_wrong(source: str) -> None:
    with pytest.raises(BundleError):
        load_or_fall_back(source)
