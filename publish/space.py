"""The page as a Hugging Face Space: write its folder, bring it there, wait until it runs, ask it about one film."""

import re
import shutil
import time
from pathlib import Path

from gradio_client import Client, handle_file
from huggingface_hub import HfApi, SpaceCard, SpaceHardware, SpaceStage

from pneumocam import Classifier, predict
from publish.hub import (
    FILMS,
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
from train.evaluate import GALLERY

COPIED = (
    *("app.py", "web/**/*", "LICENSE"),
    *("model/*", "examples/*"),
)
REPOSITORY = "https://github.com/pneumocam/pneumocam"
VARIABLE = "PNEUMOCAM_MODEL"
TIMEOUT = 1800.0  # seconds: installing PyTorch takes a Space minutes, and it may have to queue
GOES_ON = (
    SpaceStage.BUILDING,
    SpaceStage.RUNNING_BUILDING,
    SpaceStage.APP_STARTING,
    SpaceStage.RUNNING_APP_STARTING,
    SpaceStage.RUNNING,
)


def stage_space(model: str, folder: Path) -> None:
    """Write the very folder that goes to the Space: the page, the package, the bundled model and the examples.

    Args:
        model: `owner/name@revision`; its name comes into the front matter, which is README.md's otherwise.
        folder: a new or empty one.

    Raises:
        PublishError: there is something in the folder.
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
    """Bring a staged folder to a Space in one commit, let it serve a model, and see that it answers as that model does.

    Args:
        api: as from `sign_in`.
        folder: as `stage_space` writes it.
        space: the Space, owner/name; made if there is none.
        model: `owner/name@revision` of a published model.
        private: make the Space private; its visitors then need a token.
        hardware: what a Space that is made runs on; by default what the Hub gives.
        timeout: seconds to wait until it runs.
        pause: seconds from one look at it to the next.

    Returns:
        The Space's commit. It is the one that is there already if that holds the same.

    Raises:
        BundleError: the model cannot be had; nothing was changed.
        PublishError: what failed, and how things stand. The same call goes on from there.
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

    with attempt(f"Updating {space}", "Run the same command again; it goes on from there."):
        served = variable is not None and variable.value == source
        if not served:
            api.add_space_variable(space, VARIABLE, source)  # first, so that what is built next starts with it
        if changed:
            say(f"Uploading to {space} ...")
            commit = upload(api, space, commit, folder, there, "space")
        elif not served or api.get_space_runtime(space).stage not in GOES_ON:
            api.restart_space(space)
    _wait(api, space, commit, timeout, pause)
    _ask(api, space, classifier)
    say(f"{api.endpoint}/spaces/{space} serves {source}")
    return commit


def _wait(api: HfApi, space: str, commit: str, timeout: float, pause: float) -> None:
    """Until the Space runs that commit."""
    logs = f"Logs: {api.endpoint}/spaces/{space}?logs=build, or `hf spaces logs {space}`, with --build of the build."
    say(f"Waiting until {space} runs. {logs}")
    start, shown = time.monotonic(), ""
    while True:
        time.sleep(pause)
        with attempt(f"Asking how {space} is", "It is uploaded. Run the same command again."):
            runtime = api.get_space_runtime(space)
        seconds, stage = time.monotonic() - start, str(runtime.stage)
        if stage != shown:
            say(f"{seconds:4.0f} s  {stage}")
            shown = stage
        # What was there before runs on while the new commit is built.
        if stage == SpaceStage.RUNNING and runtime.raw.get("sha") in (None, commit):
            return
        if stage not in GOES_ON:
            reason = runtime.raw.get("errorMessage") or "It does not run and will not by itself."
            raise PublishError(f"{space} came to {stage}; expected RUNNING. {reason} {logs}")
        if seconds > timeout:
            raise PublishError(f"{space} is at {stage} after {timeout:g} s; expected RUNNING. {logs}")


def _ask(api: HfApi, space: str, classifier: Classifier) -> None:
    """Call the Space's endpoint about one film; it must answer as the model does here."""
    say(f"Asking {space} about {FILMS[0].name} ...")
    expected = predict(classifier, FILMS[0]).to_dict()
    with attempt(f"Calling {space}", "It runs all the same; look at it in a browser, or run the same command again."):
        info = api.space_info(space)
        token = api.token if info.private else False  # the app itself has no use for it
        client = Client(str(info.host), token=token, download_files=False, analytics_enabled=False, verbose=False)
        job = client.submit(image=handle_file(FILMS[0]), api_name="/predict")
        _, _, answer = job.result(timeout=300)
        client.close()
    if answer["model"] != expected["model"]:
        raise PublishError(
            f"{space} answers as {answer['model']}; expected {expected['model']}. The page says why it could not have "
            "it; a private model needs a secret HF_TOKEN in the Space's settings."
        )
    if any(abs(answer["probabilities"][name] - p) > TOLERANCE for name, p in expected["probabilities"].items()):
        raise PublishError(f"{space} answers {answer['probabilities']}; expected {expected['probabilities']}.")
