"""Shared by publish.model and publish.space: sign in, upload a folder in one commit, turn failures into sentences."""

import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.jpeg"))
TOLERANCE = 1e-4  # of a probability: more than another processor's rounding, less than other weights cause
TOKENS = "https://huggingface.co/settings/tokens"

Kind = Literal["model", "space"]


class PublishError(RuntimeError):
    """A bundle or Space cannot be published; the message says what came, what was expected and what to do."""


def say(step: str) -> None:
    """Print progress without delay, also where the output goes into a file."""
    print(step, flush=True)


@contextmanager
def attempt(step: str, after: str) -> Iterator[None]:
    """Turn a failure of the Hub into a PublishError that names the step, the error and the state `after` it."""
    try:
        yield
    except Exception as error:  # the Hub's client also raises the errors of its HTTP library
        raise PublishError(f"{step} failed: {error} {after}") from error


def sign_in(repo: str) -> HfApi:
    """The Hub's client, with the token of HF_TOKEN or of `hf auth login`.

    Raises:
        PublishError: there is no token, the Hub does not know it, or it cannot write to this owner's repositories.
    """
    token = get_token()
    if token is None:
        raise PublishError(
            f"There is no Hub token. Create one that can write at {TOKENS}, then set HF_TOKEN or run `hf auth login`."
        )
    api = HfApi(token=token)
    with attempt("Asking for the owner of the token", f"Check HF_TOKEN or run `hf auth login`; tokens: {TOKENS}."):
        me = api.whoami()
    # The rights of a fine-grained token are not listed; with too few, opening the repository fails.
    if me.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise PublishError(f"The token of {me['name']} can only read. Create one that can write at {TOKENS}.")
    owners = [me["name"], *(organisation["name"] for organisation in me.get("orgs", ()))]
    if repo.split("/")[0] not in owners:
        raise PublishError(f"The owner of {repo} is not the token's; this token publishes as {' or '.join(owners)}.")
    return api


def make_empty(folder: Path) -> None:
    """Create a folder, or accept one that is empty.

    Raises:
        PublishError: the folder is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise PublishError(f"{folder} is not empty; expected a new or empty folder. Give another --out.")
    folder.mkdir(parents=True, exist_ok=True)


def write_package(folder: Path) -> None:
    """Copy `pneumocam/` and write `requirements.txt`: the package is on no index, so a published folder carries it."""
    for module in (ROOT / "pneumocam").rglob("*.py"):
        target = folder / module.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(module, target)
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    # Without Gradio, which a Space gets from its SDK and an Inference Endpoint does not use. Without this repository's
    # pins: a Space installs gradio[oauth,mcp], which needs an older pydantic, and ZeroGPU an older PyTorch.
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in needed if not line.startswith("gradio")))


def files(folder: Path) -> dict[str, Path]:
    """Every file below a folder, by its name on the Hub."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def differing(api: HfApi, repo: str, commit: str, folder: Path, kind: Kind) -> list[str]:
    """Names of the files that differ between a commit and the folder."""
    found = api.verify_repo_checksums(repo, repo_type=kind, revision=commit, local_dir=folder)
    changed = [x["path"] for x in found.mismatches]
    return sorted({*changed, *found.extra_paths, *found.missing_paths} - {".gitattributes"})


def upload(api: HfApi, repo: str, parent: str, folder: Path, there: set[str], kind: Kind) -> str:
    """Make a repository equal to a folder in one commit, and return the commit.

    The Hub refuses if there is a later commit than `parent`. `there` are the files of the repository.
    """
    here = files(folder)
    # upload_folder may split the upload into several commits.
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(CommitOperationAdd(name, path) for name, path in here.items()),
        *(CommitOperationDelete(name) for name in sorted(there - here.keys())),
    ]
    message = f"Publish a PneumoCAM {kind}"
    made = api.create_commit(repo, operations, repo_type=kind, commit_message=message, parent_commit=parent)
    return str(made.oid)
