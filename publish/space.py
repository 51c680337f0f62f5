"""Publish the page as a Hugging Face Space: write its folder, upload it, wait until it runs, compare one prediction."""

import re
import shutil
import time
from pathlib import Path

from gradio_client import Client, handle_file
from huggingface_hub import HfApi, SpaceCard, SpaceHardware, SpaceStage

from pneumocam import Classifier, predict
from publish.hub import (
    EXAMPLES,
    ROOT,
    TOLERANCE,
    PublishError,
    attempt,
    differing,
    make_empty,
    say,
    upload,
    write_package,
)
from train.figures import GALLERY

COPIED = (
    *("app.py", "web/**/*", "LICENSE"),
    *("model/*", "examples/*"),
)
REPOSITORY = "https://github.com/pneumocam/pneumocam"
VARIABLE = "PNEUMOCAM_MODEL"
TIMEOUT = 1800.0  # seconds: a Space needs minutes to install PyTorch, and may wait for a machine
STARTING_OR_RUNNING = (
    SpaceStage.BUILDING,
    SpaceStage.RUNNING_BUILDING,
    SpaceStage.APP_STARTING,
    SpaceStage.RUNNING_APP_STARTING,
    SpaceStage.RUNNING,
)


def stage_space(model: str, folder: Path) -> None:
    """Write the folder that is uploaded to the Space: the page, the package, the bundled model and the examples.

    Args:
        model: `owner/name@revision`; its name is added to the front matter of README.md.
        folder: a new or empty folder.

    Raises:
        PublishError: the folder is not empty.
    """
    make_empty(folder)
    say(f"Writing {folder} ...")
    card = SpaceCard((ROOT / "README.md").read_text())
    card.data["models"] = [model.partition("@")[0]]
    pictures = re.findall(r"!\[[^\]]*\]\(([\w./-]+)\)", card.text)
    card.text = re.sub(r"((?<!!)\[[^\]]*\]\()(?!https?:|#)", rf"\g<1>{REPOSITORY}/blob/main/", card.text)
    (folder / "README.md").write_text(str(card))
    copied = (path for pattern in COPIED for path in ROOT.glob(pattern) if path.is_file() and path.name != GALLERY)
    for path in [*copied, *(ROOT / name for name in pictures)]:
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    write_package(folder)


def publish_space(
    api: HfApi,
    folder: Path,
    space: str,
    model: str,
    *,
    private: bool = False,
    hardware: str | None = None,
    timeout: float = TIMEOUT,
    pause: float = 5.0,
) -> str:
    """Upload a staged folder to a Space in one commit, wait until it serves the model, and compare one prediction.

    Args:
        api: from `sign_in`.
        folder: from `stage_space`.
        space: the Space, owner/name; created if missing.
        model: `owner/name@revision` of a published model.
        private: make the Space private; its visitors then need a token.
        hardware: of a Space that is created; by default the Hub decides.
        timeout: seconds to wait until the Space runs.
        pause: seconds between two checks of its stage.

    Returns:
        The Space's commit; an existing one if it holds the same files.

    Raises:
        BundleError: the model cannot be loaded; nothing was changed.
        PublishError: the message says what failed and what was changed. The same call continues from there.
    """
    say(f"Fetching {model} ...")
    source = f"hf-hub:{model}"
    classifier = Classifier.from_pretrained(source)
    with attempt(
        f"Opening the Space {space}",
        "Check that the token may write there. Error 402: free accounts need --hardware zero-a10g.",
    ):
        asked = SpaceHardware(hardware) if hardware else None
        api.create_repo(
            space, repo_type="space", space_sdk="gradio", space_hardware=asked, private=private or None, exist_ok=True
        )
        info = api.space_info(space)
        commit = str(info.sha)
        variable = api.get_space_variables(space).get(VARIABLE)
        changed = differing(api, space, commit, folder, "space")
    there = {x.rfilename for x in info.siblings or ()} - {".gitattributes"}
    if private and not info.private:
        raise PublishError(f"{space} is public already, so --private cannot hold. Make it private on the Hub first.")
    if there - {"README.md"} and "pneumocam/__init__.py" not in there:
        raise PublishError(
            f"{space} holds {', '.join(sorted(there))}; expected PneumoCAM's page or nothing. Give another --space."
        )

    with attempt(f"Updating {space}", "Run the same command again; it continues from there."):
        served = variable is not None and variable.value == source
        if not served:
            api.add_space_variable(space, VARIABLE, source)  # before the upload, so that the next build starts with it
        if changed:
            say(f"Uploading to {space} ...")
            commit = upload(api, space, commit, folder, there, "space")
        elif not served or api.get_space_runtime(space).stage not in STARTING_OR_RUNNING:
            api.restart_space(space)
    _wait(api, space, commit, timeout, pause)
    _compare(api, space, classifier)
    say(f"{api.endpoint}/spaces/{space} serves {source}")
    return commit


def _wait(api: HfApi, space: str, commit: str, timeout: float, pause: float) -> None:
    """Wait until the Space runs that commit."""
    logs = f"Logs: {api.endpoint}/spaces/{space}?logs=build, or `hf spaces logs {space}`, with --build of the build."
    say(f"Waiting until {space} runs. {logs}")
    start, shown = time.monotonic(), ""
    while True:
        time.sleep(pause)
        with attempt(f"Asking for the stage of {space}", "It is uploaded. Run the same command again."):
            runtime = api.get_space_runtime(space)
        seconds, stage = time.monotonic() - start, str(runtime.stage)
        if stage != shown:
            say(f"{seconds:4.0f} s  {stage}")
            shown = stage
        # The old commit keeps running while the new one is built.
        if stage == SpaceStage.RUNNING and runtime.raw.get("sha") in (None, commit):
            return
        if stage not in STARTING_OR_RUNNING:
            reason = runtime.raw.get("errorMessage") or "It does not run and will not start by itself."
            raise PublishError(f"{space} is {stage}; expected RUNNING. {reason} {logs}")
        if seconds > timeout:
            raise PublishError(f"{space} is {stage} after {timeout:g} s; expected RUNNING. {logs}")


def _compare(api: HfApi, space: str, classifier: Classifier) -> None:
    """Check that the Space's prediction for one image is the model's."""
    say(f"Sending {EXAMPLES[0].name} to {space} ...")
    expected = predict(classifier, EXAMPLES[0]).to_dict()
    with attempt(f"Calling {space}", "It runs nevertheless; open it in a browser, or run the same command again."):
        info = api.space_info(space)
        token = api.token if info.private else False  # the app itself needs no token
        client = Client(str(info.host), token=token, download_files=False, analytics_enabled=False, verbose=False)
        job = client.submit(image=handle_file(EXAMPLES[0]), api_name="/predict")
        _, _, found = job.result(timeout=300)
        client.close()
    if found["model"] != expected["model"]:
        raise PublishError(
            f"{space} serves {found['model']}; expected {expected['model']}. The page says why; a private model "
            "needs a secret HF_TOKEN in the Space's settings."
        )
    if any(abs(found["probabilities"][name] - p) > TOLERANCE for name, p in expected["probabilities"].items()):
        raise PublishError(f"{space} predicts {found['probabilities']}; expected {expected['probabilities']}.")
