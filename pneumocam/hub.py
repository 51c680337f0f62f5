"""A model's source, such as "hf-hub:owner/name@revision" -> a verified folder, within a time limit."""

import hashlib
import logging
import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, yet not in __all__

from pneumocam.bundle import FILES, OPTIONAL_FILES, BundleError

HUB_TIMEOUT = 10.0  # seconds to wait for the Hub's first response
# A wheel carries the bundled model inside the package, a checkout in model/, a model repository beside the package.
_HERE = Path(__file__).parent
BUNDLED = next((p for p in (_HERE / "bundled", _HERE.parent / "model") if p.exists()), _HERE.parent)

T = TypeVar("T")


class Snapshot(NamedTuple):
    """A folder with a bundle.

    Attributes:
        folder: where the files are.
        id: `bundled`, `local-dir:NAME` or `owner/name`.
        commit: the Hub's commit; None for a local folder.
    """

    folder: Path
    id: str
    commit: str | None

    def without_path(self, message: str) -> str:
        """An error message with the cache's folder replaced by the repository's name."""
        if self.commit is None:
            return message
        return message.replace(f"{self.folder}{os.sep}", f"hf-hub:{self.id}@{self.commit}: ")


def locate(source: str | None) -> Snapshot:
    """The folder of a model, downloaded if need be.

    Args:
        source: `hf-hub:owner/name`, `hf-hub:owner/name@revision`, `local-dir:PATH`, or None for the bundled model.

    Raises:
        BundleError: the source has another form, cannot be reached, or is damaged.
    """
    if source is None:
        return Snapshot(BUNDLED, "bundled", None)
    if hub := _hub_source(source):
        try:
            return _download(*hub)
        except BundleError:
            if cached := _cached(*hub):
                return cached
            raise
    scheme, _, rest = source.partition(":")
    if scheme == "local-dir" and rest:
        return Snapshot(Path(rest), f"local-dir:{Path(rest).resolve().name}", None)
    raise BundleError(
        f"Model source {source!r} is not understood: expected hf-hub:owner/name, hf-hub:owner/name@revision or "
        "local-dir:PATH."
    )


def load_with_fallback(load: Callable[[Snapshot], T], source: str | None, timeout: float) -> tuple[T, str | None]:
    """Load a model for a service that has to start even if the Hub fails.

    A Hub model that is late or damaged is replaced by its copy in the cache, or else by the bundled model.

    Args:
        load: makes a model of a folder; raises BundleError if it cannot.
        source: as in `locate`.
        timeout: seconds to wait for the Hub. The download goes on afterwards, for the next start.

    Returns:
        The model, and a notice if another model than the requested one was loaded; it is also logged.

    Raises:
        BundleError: the source has another form, or is a folder without a usable bundle. A retry does not help.
    """
    hub = _hub_source(source) if source else None
    if not hub:
        return load(locate(source)), None
    cached = _cached(*hub)  # before the download, which may change the commit that the revision's name stands for
    try:
        return load(_download_within(timeout, *hub)), None
    except TimeoutError:
        reason = f"{source} did not come within {timeout:g} s."
    except BundleError as error:
        reason = str(error)
    model, notice = _fallback(load, cached, reason)
    logging.getLogger(__name__).warning(notice)
    return model, notice


def _fallback(load: Callable[[Snapshot], T], cached: Snapshot | None, reason: str) -> tuple[T, str]:
    with suppress(BundleError):
        if cached:
            return load(cached), f"{reason} An earlier download is used instead: commit {cached.commit}."
    return load(locate(None)), f"{reason} The bundled model is used instead."


def _hub_source(source: str) -> tuple[str, str | None] | None:
    """Repository and revision of an `hf-hub:` source; None for any other."""
    scheme, _, rest = source.partition(":")
    if scheme != "hf-hub" or not rest:
        return None
    repo, _, revision = rest.partition("@")
    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise BundleError(f"{repo!r} is no Hub repository id: expected hf-hub:owner/name.") from None
    return repo, revision or None


def _download_within(timeout: float, repo: str, revision: str | None) -> Snapshot:
    """As `_download`; raises TimeoutError when the time is over."""
    outcome = Future[Snapshot]()

    def run() -> None:
        try:
            outcome.set_result(_download(repo, revision))
        except Exception as error:
            outcome.set_exception(error)

    # The Hub's client retries for minutes and cannot be stopped; a daemon thread does not block the exit.
    threading.Thread(target=run, name="pneumocam-download", daemon=True).start()
    return outcome.result(timeout)


def _download(repo: str, revision: str | None) -> Snapshot:
    """Fetch a bundle into the Hub's cache, with the retries of the Hub's client. Errors name no paths."""
    if re.fullmatch(r"[0-9a-f]{40}", revision or "") and (cached := _cached(repo, revision)):
        return cached
    requested = f"hf-hub:{repo}@{revision or 'main'}"
    try:
        # This request has a timeout; a download from a Hub that hangs has none.
        info = HfApi().model_info(repo, revision=revision, timeout=HUB_TIMEOUT)
    except Exception as error:  # the Hub's client raises whatever its HTTP library raises
        raise BundleError(
            f"{requested} could not be downloaded from the Hub ({_status(error)}). "
            "Check the name, the revision and the network; a private model needs HF_TOKEN or `hf auth login`."
        ) from error
    present = {x.rfilename for x in info.siblings or ()}
    if missing := [name for name in FILES if name not in present]:
        raise BundleError(f"{requested} has no {missing[0]}: expected a PneumoCAM bundle ({', '.join(FILES)}).")
    for name in (*FILES, *(name for name in OPTIONAL_FILES if name in present)):
        try:
            path = Path(hf_hub_download(repo, name, revision=info.sha))
        except Exception as error:
            raise BundleError(
                f"{name} of {requested} could not be downloaded ({_status(error)}); try again later."
            ) from error
        if not _intact(path):
            raise BundleError(f"{name} of {requested} is damaged: its SHA-256 is not the Hub's. Try again later.")
    with suppress(Exception):
        # Records which commit the revision's name stands for, for a start without the Hub. It comes last, so that an
        # incomplete download leaves the name on the previous commit.
        hf_hub_download(repo, FILES[0], revision=revision)
    return Snapshot(path.parent, repo, path.parent.name)


def _cached(repo: str, revision: str | None) -> Snapshot | None:
    try:
        paths = [Path(hf_hub_download(repo, name, revision=revision, local_files_only=True)) for name in FILES]
    except LocalEntryNotFoundError:
        return None
    if not all(_intact(path) for path in paths):
        return None
    return Snapshot(paths[0].parent, repo, paths[0].parent.name)


def _status(error: Exception) -> str:
    response = getattr(error, "response", None)
    return f"HTTP {response.status_code}" if response is not None else type(error).__name__


def _intact(path: Path) -> bool:
    """Whether a file of the Hub's cache has the SHA-256 in its name; a damaged file is removed.

    The Hub's client compares only sizes. Only large files have such names.
    """
    blob = path.parent / path.readlink() if path.is_symlink() else path
    if not re.fullmatch(r"[0-9a-f]{64}", blob.name) or hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name:
        return True
    blob.unlink()
    return False
