"""Publish the page without a server as a static Space: the model runs in the visitor's browser."""

import time
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
from huggingface_hub import HfApi, SpaceCard

from pneumocam import Classifier
from pneumocam.static import StaticError, write_static
from publish.hub import ROOT, PublishError, attempt, differing, files, say, upload

MARK = "files.js"  # written last, and different for every version of the page
TIMEOUT = 300.0  # seconds until the Hub serves what was uploaded


def stage_static_space(model: str, folder: Path, *, runtime: Path | None = None) -> None:
    """Write the folder that is uploaded: what `pneumocam static` writes, the front matter of a static Space, licence.

    Args:
        model: `owner/name@revision` of a published model.
        folder: a new or empty folder.
        runtime: as in `pneumocam.static.write_static`.

    Raises:
        BundleError: the model cannot be loaded, or cannot run in a browser.
        PublishError: the folder is not empty, or onnxruntime-web is not available.
    """
    classifier = Classifier.from_pretrained(f"hf-hub:{model}")
    say(f"Writing {folder} ...")
    try:
        write_static(classifier, folder, runtime=runtime)
    except StaticError as error:
        raise PublishError(str(error)) from None
    card = SpaceCard((ROOT / "README.md").read_text())
    for key in ("sdk_version", "python_version", "suggested_hardware"):
        card.data.pop(key, None)
    for key, value in {"sdk": "static", "app_file": "index.html", "models": [model.partition("@")[0]]}.items():
        card.data[key] = value
    card.text = f"# PneumoCAM\n\nThe model {model} in your browser. Research and teaching only, not a diagnosis.\n"
    (folder / "README.md").write_text(str(card))
    (folder / "LICENSE").write_bytes((ROOT / "LICENSE").read_bytes())


def publish_static_space(
    api: HfApi,
    folder: Path,
    space: str,
    *,
    private: bool = False,
    timeout: float = TIMEOUT,
    pause: float = 5.0,
) -> str:
    """Upload a folder to a static Space in one commit, and compare what the Hub serves with it.

    Args:
        api: from `publish.hub.sign_in`.
        folder: written by `stage_static_space`.
        space: owner/name; created if missing.
        private: make the Space private. A private Space is not compared, since its pages need a browser's login.
        timeout: seconds to wait until the Hub serves the upload.
        pause: seconds between two looks at it.

    Returns:
        The Space's commit; the existing one if it has the same files.

    Raises:
        PublishError: what failed, and what the state is. The same command continues from there.
    """
    with attempt(f"Opening the Space {space}", "Check that the token may write there."):
        api.create_repo(space, repo_type="space", space_sdk="static", private=private or None, exist_ok=True)
        info = api.space_info(space)
        commit = str(info.sha)
        changed = differing(api, space, commit, folder, "space")
    there = {x.rfilename for x in info.siblings or ()} - {".gitattributes"}
    if private and not info.private:
        raise PublishError(f"{space} is public already, so --private cannot hold. Make it private on the Hub first.")
    if MARK not in there and there - {"README.md", "index.html", "style.css"}:  # the Hub's own first files
        raise PublishError(
            f"{space} holds {', '.join(sorted(there))}; expected PneumoCAM's static page or nothing. Use another name."
        )
    if changed:
        say(f"Uploading to {space} ...")
        with attempt(f"Updating {space}", "Run the same command again; it continues from there."):
            commit = upload(api, space, commit, folder, there, "space")
    if not info.private:
        _compare(api, space, folder, timeout, pause)
    say(f"{api.endpoint}/spaces/{space} holds the page")
    return commit


def _compare(api: HfApi, space: str, folder: Path, timeout: float, pause: float) -> None:
    """Wait until the Space's own host serves this version, then fetch every file as a browser does."""
    with attempt(f"Asking for the host of {space}", "It is uploaded. Run the same command again."):
        host = str(api.space_info(space).host)
    say(f"Comparing {host} with what was uploaded ...")
    with (
        httpx.Client(follow_redirects=True, timeout=60) as client,
        attempt(f"Fetching {host}", "It is uploaded. Look at it in a browser, or run the same command again."),
    ):
        start = time.monotonic()
        while client.get(f"{host}/{MARK}").content != (folder / MARK).read_bytes():
            if time.monotonic() - start > timeout:
                raise PublishError(
                    f"{host} has not served the upload within {timeout:g} s. Run the same command again."
                )
            time.sleep(pause)
        for name, path in files(folder).items():
            answer = client.get(f"{host}/{quote(name)}")
            if answer.url.host != urlsplit(host).hostname:
                raise PublishError(
                    f"{host} redirects {name} to {answer.url.host}; the page's policy allows no other origin. Use "
                    "another static host for this folder."
                )
            if name != "README.md" and answer.content != path.read_bytes():
                raise PublishError(f"{host} serves another {name} than was uploaded. Run the same command again.")
