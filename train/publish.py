"""Publish a bundle on the Hugging Face Hub: check it, write what goes there, upload, verify by pulling it back, tag.

    python -m train.publish model --repo owner/name --dry-run                 # only write the folder, to look at it
    python -m train.publish model --repo owner/name --revision v1.0           # signed in by HF_TOKEN or `hf auth login`

The same command again changes nothing, and goes on where an earlier one failed: the tag comes last, after the pull.
"""

import filecmp
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jinja2
import numpy as np
import onnxruntime
import torch
import tyro
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

from pneumocam import BundleError, Classifier, load_radiograph, predict_many
from train.evaluate import render_card
from train.export import export_onnx

EXAMPLES = Path(__file__).parents[1] / "examples"
COPIED = (".json", ".safetensors", ".png", ".csv")
WRITTEN = ("README.md", "model.onnx", "predictions.json", "SHA256SUMS")
TOLERANCE = 1e-4  # of a probability: what the rounding of other processors may do, and no other weights
TOKENS = "https://huggingface.co/settings/tokens"


class PublishError(RuntimeError):
    """A bundle cannot be published; the message says what came, what was expected and what to do."""


@dataclass(frozen=True)
class Config:
    """What to publish, and where."""

    model: tyro.conf.Positional[Path]
    """A bundle's folder with its metrics.json, as train.evaluate leaves it."""
    repo: str
    """The model repository, owner/name; made if there is none."""
    revision: str | None = None
    """The version to tag, such as v1.0; without it the upload stays untagged."""
    private: bool = False
    """Make the repository private."""
    dry_run: bool = False
    """Only write the folder that would be uploaded; needs no token and no network."""
    out: Path = Path("runs/publish")
    """Where --dry-run writes it: a new or empty folder."""


def run(config: Config) -> None:
    """Write the folder and, unless it is a dry run, publish it.

    Raises:
        PublishError, BundleError: as in `stage`, `sign_in` and `publish`.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", config.repo):
        raise PublishError(f"--repo is {config.repo!r}; expected owner/name.")
    if config.revision and not re.fullmatch(r"v\d[\w.-]*", config.revision):
        raise PublishError(f"--revision is {config.revision!r}; expected a version such as v1.0.")
    if config.dry_run:
        stage(config.model, config.out)
        _say(f"{config.out} is what would be uploaded")
        return
    api = sign_in(config.repo)
    with TemporaryDirectory() as folder:
        stage(config.model, Path(folder))
        publish(api, Path(folder), config.repo, tag=config.revision, private=config.private)


def stage(bundle: Path, folder: Path) -> None:
    """Check a bundle and write the very folder that goes to the Hub.

    It holds the bundle's own files, the card filled in anew, `model.onnx`, `predictions.json` on the films of examples/
    and `SHA256SUMS` for `sha256sum --check`. Written again on the same machine, every byte is the same.

    Raises:
        BundleError: the bundle does not load.
        PublishError: a file in it has no business there, it was not measured, or its card lacks a number.
    """
    _say(f"Checking {bundle} ...")
    classifier = Classifier.from_pretrained(f"local-dir:{bundle}")
    card = _card(classifier, bundle)
    files = sorted(bundle.iterdir())
    if odd := [x.name for x in files if not x.is_file() or (x.suffix not in COPIED and x.name not in WRITTEN)]:
        raise PublishError(
            f"{bundle} holds {', '.join(odd)}; expected only files of {', '.join(COPIED)} and the card. Pickles are "
            "never published; take away what does not belong there."
        )
    if folder.exists() and any(folder.iterdir()):
        raise PublishError(f"{folder} is not empty; expected a new or empty folder. Give another --out.")

    _say(f"Writing {folder} ...")
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        if path.name not in WRITTEN:
            shutil.copyfile(path, folder / path.name)
    (folder / "README.md").write_text(card)
    export_onnx(classifier, folder / "model.onnx")
    _check_onnx(classifier, folder / "model.onnx")
    (folder / "predictions.json").write_text(json.dumps(_predictions(classifier), indent=2) + "\n")
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))


def sign_in(repo: str) -> HfApi:
    """The Hub with the token of HF_TOKEN or of `hf auth login`.

    Raises:
        PublishError: there is none, the Hub does not know it, or it cannot write to this owner's repositories.
    """
    token = get_token()
    if token is None:
        raise PublishError(
            f"There is no Hub token. Make one that can write at {TOKENS}, then set HF_TOKEN or run `hf auth login`."
        )
    api = HfApi(token=token)
    with _hub("Asking the Hub whose token this is", f"Check HF_TOKEN or run `hf auth login`; tokens: {TOKENS}."):
        me = api.whoami()
    # Of a fine-grained token only the Hub knows what it may do: it refuses when the repository is asked for.
    if me.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise PublishError(f"The token of {me['name']} can only read. Make one that can write at {TOKENS}.")
    owners = [me["name"], *(organisation["name"] for organisation in me.get("orgs", ()))]
    if repo.split("/")[0] not in owners:
        raise PublishError(f"--repo is {repo}, but the token's owner can publish as {' or '.join(owners)} only.")
    return api


def publish(api: HfApi, folder: Path, repo: str, *, tag: str | None = None, private: bool = False) -> str:
    """Bring a staged folder to the Hub in one commit, pull that into an empty cache, verify it, tag it.

    Returns:
        The commit. It is the one that is there already if that holds the same.

    Raises:
        PublishError: nothing was changed, or it is said what was. A tag is only ever on a commit that was verified.
    """
    with _hub(f"Opening {repo}", "Nothing was uploaded; check that the token may write there."):
        api.create_repo(repo, private=private or None, exist_ok=True)
        info = api.model_info(repo)
        tags = {x.name: x.target_commit for x in api.list_repo_refs(repo).tags}
        commit = tags.get(tag or "", str(info.sha))
        differing = _differing(api, repo, commit, folder)
    there = {x.rfilename for x in info.siblings or ()} - {".gitattributes"}
    if private and not info.private:
        raise PublishError(f"{repo} is public already, so --private cannot hold. Make it private on the Hub first.")
    if there - {"README.md"} and "pneumocam.json" not in there:
        raise PublishError(
            f"{repo} holds {', '.join(sorted(there))}; expected a PneumoCAM bundle or nothing. Give another --repo."
        )
    if differing and tag in tags:
        raise PublishError(
            f"{tag} of {repo} is another model: commit {commit} differs in {', '.join(differing)}. A version that is "
            "out does not change; give this one another --revision."
        )

    if differing:
        _say(f"Uploading to {repo} ...")
        with _hub("The upload", f"{repo} was not tagged. Run the same command again; it goes on from there."):
            commit = _upload(api, repo, commit, folder, there)
    _say(f"Pulling {repo} at {commit} and comparing ...")
    _verify(api, repo, commit, folder)
    if tag and tag not in tags:
        with _hub(f"Tagging {commit}", "It is uploaded and verified. Run the same command again to tag it."):
            api.create_tag(repo, tag=tag, revision=commit)
    _say(f"{repo} holds this model: hf-hub:{repo}@{tag or commit}")
    return commit


def _card(classifier: Classifier, bundle: Path) -> str:
    metrics, again = classifier.metrics, f"Run `python -m train.evaluate {bundle} --data DIR`."
    if metrics is None:
        raise PublishError(f"{bundle / 'metrics.json'} is missing: expected the figures of these weights. {again}")
    try:
        both = {
            "revision": (metrics["model"]["revision"], classifier.revision),
            "manifest": (metrics["manifest_sha256"], classifier.training["manifest_sha256"]),
            "threshold": (metrics["binary"]["threshold"], classifier.operating_point.threshold),
        }
        card = render_card(classifier, dict(metrics))
    except (KeyError, TypeError, jinja2.UndefinedError) as error:
        raise PublishError(
            f"The card of {bundle} cannot be filled in: {error} is missing or no number. {again}"
        ) from error
    for name, (found, expected) in both.items():
        if found != expected:
            raise PublishError(
                f"{bundle / 'metrics.json'} is not of this model and its validation films: its {name} is {found}; "
                f"expected {expected}. {again}"
            )
    return card


def _check_onnx(classifier: Classifier, path: Path) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for film in _films():
        batch = classifier.transform(load_radiograph(film))[None]  # (1, C, H, W)
        with torch.no_grad():
            expected = classifier.head(classifier.features(batch)).numpy()  # (1, K)
        found = session.run(["logits"], {"image": batch.numpy()})[0]  # (1, K)
        if not np.allclose(found, expected, rtol=1e-3, atol=1e-3):
            raise PublishError(f"ONNX Runtime gives {found} for {film.name}; expected PyTorch's {expected}.")


def _films() -> list[Path]:
    return sorted(EXAMPLES.glob("*.jpeg"))


def _predictions(classifier: Classifier) -> dict[str, Any]:
    films = _films()
    return {
        "films": "examples/ of the PneumoCAM repository; see its README.md for source and licence",
        "tolerance": TOLERANCE,
        "predictions": [
            {
                "film": film.name,
                "sha256": hashlib.sha256(film.read_bytes()).hexdigest(),
                "status": answer.status,
                "label": answer.label,
                "probabilities": {name: round(p, 6) for name, p in answer.probabilities.items()},
            }
            for film, answer in zip(films, predict_many(classifier, films), strict=True)
        ],
    }


def _differing(api: HfApi, repo: str, commit: str, folder: Path) -> list[str]:
    """Names of the files in which a commit is not what the folder is."""
    found = api.verify_repo_checksums(repo, revision=commit, local_dir=folder)
    changed = [x["path"] for x in found.mismatches]
    return sorted({*changed, *found.extra_paths, *found.missing_paths} - {".gitattributes"})


def _upload(api: HfApi, repo: str, parent: str, folder: Path, there: set[str]) -> str:
    # Not upload_folder, which may make several commits of it.
    files = {path.name: path for path in sorted(folder.iterdir())}
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(CommitOperationAdd(name, path) for name, path in files.items()),
        *(CommitOperationDelete(name) for name in sorted(there - files.keys())),
    ]
    message = "Publish a PneumoCAM bundle"
    return str(api.create_commit(repo, operations, commit_message=message, parent_commit=parent).oid)


def _verify(api: HfApi, repo: str, commit: str, folder: Path) -> None:
    """Pull a commit as anybody would, with nothing cached, and see that files and answers are those of the folder."""
    after = "Nothing was tagged. Run the same command again; if that fails too, look at the commit on the Hub."
    with TemporaryDirectory() as cache:
        with _hub(f"Pulling {repo} at {commit}", after):
            pulled = Path(api.snapshot_download(repo, revision=commit, cache_dir=cache))
        names = [path.name for path in folder.iterdir()]
        _, different, missing = filecmp.cmpfiles(folder, pulled, names, shallow=False)
        if different or missing:
            raise PublishError(
                f"{repo} at {commit} gives back another {', '.join(different + missing)} than was uploaded. {after}"
            )
        answers = _predictions(Classifier.from_pretrained(f"local-dir:{pulled}"))["predictions"]
    stored = json.loads((folder / "predictions.json").read_text())["predictions"]
    for answer, expected in zip(answers, stored, strict=True):
        for name, p in expected["probabilities"].items():
            if abs(answer["probabilities"][name] - p) > TOLERANCE:
                raise PublishError(f"The model pulled answers {answer}; expected {expected}. {after}")


@contextmanager
def _hub(step: str, after: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the Hub's client lets out whatever its HTTP library raises
        raise PublishError(f"{step} failed: {error} {after}") from error


def _say(step: str) -> None:
    print(step, flush=True)


def main() -> None:
    try:
        run(tyro.cli(Config, description=__doc__))
    except (PublishError, BundleError) as error:
        raise SystemExit(f"train.publish: {error}") from None


if __name__ == "__main__":
    main()
