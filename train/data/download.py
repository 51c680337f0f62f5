"""Turn what was given as data into a folder, by a download if it names one."""

import shutil
from pathlib import Path

from tqdm import tqdm

from train.data.folders import SPLITS, DataError


def fetch(source: str, *, cache: Path = Path("data")) -> Path:
    """Turn what was given as data into a folder, by a download if it names one.

    Args:
        source: a folder; `kaggle:owner/name` (kagglehub; the original is
            `kaggle:paultimothymooney/chest-xray-pneumonia`); or `hf-dataset:owner/name`, a Hub dataset with an image
            and a class-label column.
        cache: where a Hub dataset is laid out as a folder.

    Raises:
        DataError: the download failed; the message says what to set up.
    """
    scheme, _, name = source.partition(":")
    if scheme == "kaggle":
        return _from_kaggle(name)
    if scheme == "hf-dataset":
        return _from_hub(name, cache / name.replace("/", "--"))
    return Path(source)


def _from_kaggle(name: str) -> Path:
    try:
        import kagglehub
    except ImportError:
        raise DataError("kaggle: needs the train extra: pip install 'pneumocam[train]'.") from None
    try:
        root = Path(kagglehub.dataset_download(name))
    except Exception as error:
        raise DataError(
            f"Kaggle's {name!r} could not be downloaded ({type(error).__name__}). Check the name and the network, put "
            "an API token in ~/.kaggle/kaggle.json or KAGGLE_USERNAME and KAGGLE_KEY, or unpack the dataset yourself "
            "and give its folder."
        ) from error
    # The archive holds chest_xray/ and, inside it, a second copy of the whole: the outermost is taken.
    return next((p for p in (root, root / "chest_xray") if any((p / f).is_dir() for f in SPLITS)), root)


def _from_hub(name: str, folder: Path) -> Path:
    if folder.is_dir():
        return folder
    try:
        import datasets
    except ImportError:
        raise DataError("hf-dataset: needs the train extra: pip install 'pneumocam[train]'.") from None
    try:
        loaded = datasets.load_dataset(name)
    except Exception as error:
        raise DataError(
            f"The Hub dataset {name!r} could not be loaded ({type(error).__name__}). Check the id and the network; a "
            "gated or private one needs HF_TOKEN or `hf auth login`. A folder in Kaggle's layout works without it."
        ) from error
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for split, rows in loaded.items():
        columns = {type(feature).__name__: column for column, feature in rows.features.items()}
        if not {"Image", "ClassLabel"} <= columns.keys():
            raise DataError(f"{name!r} has the columns {rows.features}; expected an Image and a ClassLabel.")
        names = rows.features[columns["ClassLabel"]].names
        if unlabelled := sum(label is None or label < 0 for label in rows[columns["ClassLabel"]]):
            raise DataError(f"{unlabelled} rows of {name!r} ({split}) have no label; every image needs one.")
        for i, row in enumerate(
            tqdm(rows.cast_column(columns["Image"], datasets.Image(decode=False)), f"Laying out {split}")
        ):
            image = row[columns["Image"]]
            target = partial / {"validation": "val"}.get(split, split) / names[row[columns["ClassLabel"]]]
            target.mkdir(parents=True, exist_ok=True)
            file = target / (Path(image["path"]).name if image["path"] else f"{split}-{i:06d}.jpeg")
            if file.exists():
                file = file.with_stem(f"{file.stem}-{split}-{i:06d}")
            file.write_bytes(image["bytes"] or Path(image["path"]).read_bytes())
    partial.rename(folder)
    return folder
