"""Publish on the Hugging Face Hub: a bundle as a model repository, or the page with a published model as a Space.

    python -m train.publish model --repo owner/name --dry-run                 # only write the folder
    python -m train.publish model --repo owner/name --revision v1.0           # signed in by HF_TOKEN or `hf auth login`
    python -m train.publish --space owner/page --model owner/name@v1.0        # the same with --dry-run
    python -m train.publish --static-space owner/page --model owner/name@v1.0 # the page without a server

A model is checked, uploaded, downloaded again, compared, then tagged. A Space is uploaded; once it runs, its prediction
for one image is compared with the model's. A repeated command changes nothing, or continues where it failed.
"""

import filecmp
import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import jinja2
import numpy as np
import onnxruntime
import torch
import tyro
from huggingface_hub import HfApi

from pneumocam import BundleError, Classifier, load_radiograph, predict_many
from pneumocam.export import export_onnx
from publish.hub import (
    EXAMPLES,
    ROOT,
    TOLERANCE,
    PublishError,
    attempt,
    differing,
    files,
    make_empty,
    say,
    sign_in,
    upload,
    write_package,
)
from publish.space import publish_space, stage_space
from publish.static_space import publish_static_space, stage_static_space
from train.evaluate import render_card
from train.figures import GALLERY

COPIED = (".json", ".safetensors", ".png", ".csv")
WRITTEN = ("README.md", "model.onnx", "predictions.json", "handler.py", "pneumocam", "requirements.txt", "SHA256SUMS")


@dataclass(frozen=True)
class Config:
    """A model (BUNDLE and --repo) or a Space (--space and --model) to publish."""

    bundle: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="BUNDLE")] = None
    """Model: the bundle's folder, with the metrics.json that train.evaluate writes."""
    repo: str | None = None
    """Model: its repository, owner/name; created if missing."""
    revision: str | None = None
    """Model: the version to tag, such as v1.0; without it the upload stays untagged."""
    space: str | None = None
    """Space: owner/name; created if missing."""
    model: str | None = None
    """Space or static Space: the published model, owner/name@revision."""
    static_space: str | None = None
    """Static Space, whose visitors run --model in their browser: owner/name; created if missing."""
    hardware: Literal["cpu-basic", "zero-a10g"] | None = None
    """Space that is created: its hardware. zero-a10g is ZeroGPU, the only choice of a free account."""
    private: bool = False
    """Make the repository or the Space private."""
    dry_run: bool = False
    """Only write the folder that would be uploaded; needs no token and no network."""
    out: Path = Path("runs/publish")
    """Where --dry-run writes: a new or empty folder."""


def run(config: Config) -> None:
    """Write the folder and, unless it is a dry run, publish it.

    Raises:
        PublishError, BundleError: as in `stage`, `sign_in`, `publish` and `publish_space`; or the options name neither
            a model nor a Space.
    """
    match config:
        case Config(
            bundle=Path() as bundle, repo=str() as repo, space=None, static_space=None, model=None, hardware=None
        ):
            _run_model(config, bundle, repo)
        case Config(
            bundle=None, repo=None, revision=None, space=str() as space, static_space=None, model=str() as model
        ):
            _run_space(config, space, model)
        case Config(
            bundle=None,
            repo=None,
            revision=None,
            space=None,
            static_space=str() as space,
            model=str() as model,
            hardware=None,
        ):
            _run_static_space(config, space, model)
        case _:
            names = ("bundle", "repo", "revision", "space", "static_space", "model", "hardware")
            given = [
                "BUNDLE" if name == "bundle" else f"--{name.replace('_', '-')}"
                for name in names
                if getattr(config, name)
            ]
            raise PublishError(
                f"{' '.join(given) or 'Nothing'} came; expected BUNDLE --repo owner/name [--revision v1.0] for a "
                "model, or --space owner/name --model owner/name@v1.0 [--hardware zero-a10g] for a Space, or "
                "--static-space owner/name --model owner/name@v1.0 for a static Space."
            )


def _run_model(config: Config, bundle: Path, repo: str) -> None:
    _check("--repo", repo, r"[\w.-]+/[\w.-]+", "owner/name")
    if config.revision:
        _check("--revision", config.revision, r"v\d[\w.-]*", "a version such as v1.0")
    if config.dry_run:
        stage(bundle, config.out, repo=repo)
        say(f"{config.out} has the files that would be uploaded")
        return
    api = sign_in(repo)
    with TemporaryDirectory() as folder:
        stage(bundle, Path(folder), repo=repo)
        publish(api, Path(folder), repo, tag=config.revision, private=config.private)


def _run_space(config: Config, space: str, model: str) -> None:
    _check("--space", space, r"[\w.-]+/[\w.-]+", "owner/name")
    _check("--model", model, r"[\w.-]+/[\w.-]+@[\w.-]+", "owner/name@revision, such as owner/name@v1.0")
    if config.dry_run:
        stage_space(model, config.out)
        say(f"{config.out} has the files that would be uploaded")
        return
    api = sign_in(space)
    with TemporaryDirectory() as folder:
        stage_space(model, Path(folder))
        publish_space(api, Path(folder), space, model, private=config.private, hardware=config.hardware)


def _run_static_space(config: Config, space: str, model: str) -> None:
    _check("--static-space", space, r"[\w.-]+/[\w.-]+", "owner/name")
    _check("--model", model, r"[\w.-]+/[\w.-]+@[\w.-]+", "owner/name@revision, such as owner/name@v1.0")
    if config.dry_run:
        stage_static_space(model, config.out)
        say(f"{config.out} has the files that would be uploaded")
        return
    api = sign_in(space)
    with TemporaryDirectory() as folder:
        stage_static_space(model, Path(folder))
        publish_static_space(api, Path(folder), space, private=config.private)


def _check(option: str, value: str, pattern: str, expected: str) -> None:
    if not re.fullmatch(pattern, value):
        raise PublishError(f"{option} is {value!r}; expected {expected}.")


def stage(bundle: Path, folder: Path, *, repo: str | None = None) -> None:
    """Check a bundle and write the folder that is uploaded to the Hub.

    It has the bundle's files, the rendered card, `model.onnx`, `predictions.json` for the images of examples/, files
    of an Inference Endpoint (`handler.py`, `pneumocam/`, `requirements.txt`), and `SHA256SUMS` for `sha256sum --check`.
    A second run on the same machine writes the same bytes.

    Args:
        bundle: the bundle's folder.
        folder: a new or empty folder.
        repo: owner/name, for the card's lines on loading the model.

    Raises:
        BundleError: the bundle does not load.
        PublishError: it holds an unexpected file, was not measured, or its card lacks a number.
    """
    say(f"Checking {bundle} ...")
    classifier = Classifier.from_pretrained(f"local-dir:{bundle}")
    card = _card(classifier, bundle, repo)
    own = [path for path in sorted(bundle.iterdir()) if path.name not in (*WRITTEN, GALLERY)]
    if odd := [path.name for path in own if not path.is_file() or path.suffix not in COPIED]:
        raise PublishError(
            f"{bundle} holds {', '.join(odd)}; expected only files of {', '.join(COPIED)} and the card. Pickles are "
            "never published; remove the other files."
        )
    make_empty(folder)

    say(f"Writing {folder} ...")
    for path in own:
        shutil.copyfile(path, folder / path.name)
    (folder / "README.md").write_text(card)
    export_onnx(classifier, folder / "model.onnx")
    _check_onnx(classifier, folder / "model.onnx")
    (folder / "predictions.json").write_text(json.dumps(_predictions(classifier), indent=2) + "\n")
    shutil.copyfile(ROOT / "handler.py", folder / "handler.py")
    write_package(folder)
    sums = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files(folder).items()}
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))


def publish(api: HfApi, folder: Path, repo: str, *, tag: str | None = None, private: bool = False) -> str:
    """Upload a staged folder in one commit, download that into an empty cache, verify it, then tag it.

    Returns:
        The commit; an existing one if it holds the same files.

    Raises:
        PublishError: the message says what was changed, if anything. Only verified commits are tagged.
    """
    with attempt(f"Opening {repo}", "Nothing was uploaded; check that the token may write there."):
        api.create_repo(repo, private=private or None, exist_ok=True)
        info = api.model_info(repo)
        tags = {x.name: x.target_commit for x in api.list_repo_refs(repo).tags}
        commit = tags.get(tag or "", str(info.sha))
        changed = differing(api, repo, commit, folder, "model")
    there = {x.rfilename for x in info.siblings or ()} - {".gitattributes"}
    if private and not info.private:
        raise PublishError(f"{repo} is public already, so --private cannot hold. Make it private on the Hub first.")
    if there - {"README.md"} and "pneumocam.json" not in there:
        raise PublishError(
            f"{repo} holds {', '.join(sorted(there))}; expected a PneumoCAM bundle or nothing. Give another --repo."
        )
    if changed and tag in tags:
        raise PublishError(
            f"{tag} of {repo} is another model: commit {commit} differs in {', '.join(changed)}. A published version "
            "does not change; give this one another --revision."
        )

    if changed:
        say(f"Uploading to {repo} ...")
        with attempt("The upload", f"{repo} was not tagged. Run the same command again; it continues from there."):
            commit = upload(api, repo, commit, folder, there, "model")
    say(f"Downloading {repo} at {commit} and comparing ...")
    _verify(api, repo, commit, folder)
    if tag and tag not in tags:
        with attempt(f"Tagging {commit}", "It is uploaded and verified. Run the same command again to tag it."):
            api.create_tag(repo, tag=tag, revision=commit)
    say(f"Published: hf-hub:{repo}@{tag or commit}")
    return commit


def _card(classifier: Classifier, bundle: Path, repo: str | None) -> str:
    metrics, again = classifier.metrics, f"Run `python -m train.evaluate {bundle} --data DIR`."
    if metrics is None:
        raise PublishError(f"{bundle / 'metrics.json'} is missing: expected the figures of these weights. {again}")
    try:
        both = {
            "revision": (metrics["model"]["revision"], classifier.revision),
            "manifest": (metrics["manifest_sha256"], classifier.training["manifest_sha256"]),
            "threshold": (metrics["binary"]["threshold"], classifier.operating_point.threshold),
        }
        card = render_card(classifier, dict(metrics), repo=repo)
    except (KeyError, TypeError, jinja2.UndefinedError) as error:
        raise PublishError(
            f"The card of {bundle} cannot be filled in: {error} is missing or not a number. {again}"
        ) from error
    for name, (found, expected) in both.items():
        if found != expected:
            raise PublishError(
                f"{bundle / 'metrics.json'} does not belong to this model and its validation images: its {name} is "
                f"{found}; expected {expected}. {again}"
            )
    return card


def _check_onnx(classifier: Classifier, path: Path) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for image in EXAMPLES:
        batch = classifier.transform(load_radiograph(image))[None]  # (1, C, H, W)
        with torch.no_grad():
            expected = classifier.head(classifier.features(batch)).numpy()  # (1, K)
        found = session.run(["logits"], {"image": batch.numpy()})[0]  # (1, K)
        if not np.allclose(found, expected, rtol=1e-3, atol=1e-3):
            raise PublishError(f"ONNX Runtime computes {found} for {image.name}; expected PyTorch's {expected}.")


def _predictions(classifier: Classifier) -> dict[str, Any]:
    return {
        "images": "examples/ of the PneumoCAM repository; see its README.md for source and licence",
        "tolerance": TOLERANCE,
        "predictions": [
            {
                "image": image.name,
                "sha256": hashlib.sha256(image.read_bytes()).hexdigest(),
                "status": prediction.status,
                "label": prediction.label,
                "probabilities": {name: round(p, 6) for name, p in prediction.probabilities.items()},
            }
            for image, prediction in zip(EXAMPLES, predict_many(classifier, EXAMPLES), strict=True)
        ],
    }


def _verify(api: HfApi, repo: str, commit: str, folder: Path) -> None:
    """Download a commit into an empty cache and compare its files and predictions with the folder's."""
    after = "Nothing was tagged. Run the same command again; if it fails again, check the commit on the Hub."
    with TemporaryDirectory() as cache:
        with attempt(f"Downloading {repo} at {commit}", after):
            pulled = Path(api.snapshot_download(repo, revision=commit, cache_dir=cache))
        _, different, missing = filecmp.cmpfiles(folder, pulled, files(folder), shallow=False)
        if different or missing:
            raise PublishError(
                f"{', '.join(different + missing)} of {repo} at {commit} differ from the uploaded files. {after}"
            )
        predictions = _predictions(Classifier.from_pretrained(f"local-dir:{pulled}"))["predictions"]
    stored = json.loads((folder / "predictions.json").read_text())["predictions"]
    for found, expected in zip(predictions, stored, strict=True):
        for name, p in expected["probabilities"].items():
            if abs(found["probabilities"][name] - p) > TOLERANCE:
                raise PublishError(f"The downloaded model predicts {found}; expected {expected}. {after}")


def main() -> None:
    try:
        run(tyro.cli(Config, description=__doc__))
    except (PublishError, BundleError) as error:
        raise SystemExit(f"train.publish: {error}") from None


if __name__ == "__main__":
    main()
