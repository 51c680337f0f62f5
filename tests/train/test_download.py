"""Where data comes from: folders, Kaggle and the Hub, with and without a network."""

from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest

from tests.conftest import write_kaggle_folder
from tests.train.made import sources
from train.data import DataError, fetch, labelled_folder


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, no credentials and empty caches, for Kaggle's and the Hub's clients alike."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kagglehub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_a_folder_is_itself() -> None:
    assert fetch("some/folder") == Path("some/folder")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["paultimothymooney/chest-xray-pneumonia", "nonsense"])
def test_kaggle_without_a_network_is_refused_with_what_to_do(name: str) -> None:
    with pytest.raises(DataError, match=rf"^Kaggle's '{name}' could not be downloaded .*KAGGLE_USERNAME"):
        fetch(f"kaggle:{name}")


@pytest.mark.usefixtures("offline")
def test_an_unknown_hub_dataset_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^The Hub dataset 'nobody/nothing' could not be loaded .*HF_TOKEN"):
        fetch("hf-dataset:nobody/nothing", cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("offline")
def test_a_folder_of_images_from_the_hub_is_laid_out_as_kaggles(tmp_path: Path) -> None:
    source = write_kaggle_folder(tmp_path / "source", 3, folders=("train", "test"))
    folder = fetch(f"hf-dataset:{source}", cache=tmp_path / "cache")
    files = {p.relative_to(source): p.read_bytes() for p in source.rglob("*.jpeg")}
    assert len(files) == 18
    assert {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == files
    assert [i.sha256 for i in labelled_folder(sources(folder)).images] == [
        i.sha256 for i in labelled_folder(sources(source)).images
    ]
    (folder / "marker").touch()
    assert fetch(f"hf-dataset:{source}", cache=tmp_path / "cache") == folder
    assert (folder / "marker").exists()
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [folder.name]


def write_parquet(folder: Path, rows: list[dict[str, Any]], split: str = "train") -> Path:
    features = datasets.Features(
        {"picture": datasets.Image(), "label": datasets.ClassLabel(names=["NORMAL", "PNEUMONIA"])}
    )
    folder.mkdir(parents=True, exist_ok=True)
    columns = {name: [row[name] for row in rows] for name in ("picture", "label")}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.mark.usefixtures("offline")
def test_a_parquet_dataset_is_laid_out_under_any_name_of_its_image_column(tmp_path: Path) -> None:
    def row(content: bytes, path: str | None, label: int) -> dict[str, Any]:
        return {"picture": {"bytes": content, "path": path}, "label": label}

    write_parquet(tmp_path / "set", [row(b"a", "x/person1_virus_1.png", 1), row(b"b", "y/person1_virus_1.png", 1)])
    write_parquet(tmp_path / "set", [row(b"c", None, 0), row(b"d", None, 0)], "validation")
    folder = fetch(f"hf-dataset:{tmp_path / 'set'}", cache=tmp_path)
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == {
        "train/PNEUMONIA/person1_virus_1.png": b"a",
        "train/PNEUMONIA/person1_virus_1-train-000001.png": b"b",
        "val/NORMAL/validation-000000.jpeg": b"c",
        "val/NORMAL/validation-000001.jpeg": b"d",
    }
    assert {i.label for i in labelled_folder(sources(folder)).images} == {"NORMAL", "VIRAL"}


@pytest.mark.usefixtures("offline")
def test_a_hub_dataset_without_labels_is_refused(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"picture": {"bytes": b"a", "path": None}, "label": label} for label in (0, -1, None)]
    with pytest.raises(DataError, match=r"2 rows of .* \(train\) have no label"):
        fetch(f"hf-dataset:{write_parquet(tmp_path / 'set', rows)}", cache=tmp_path)
    (tmp_path / "texts").mkdir()
    datasets.Dataset.from_dict({"text": ["no picture"]}).to_parquet(tmp_path / "texts/train.parquet")
    with pytest.raises(DataError, match=r"has the columns .*text.*; expected an Image and a ClassLabel"):
        fetch(f"hf-dataset:{tmp_path / 'texts'}", cache=tmp_path)


@pytest.mark.usefixtures("offline")
def test_an_interrupted_layout_leaves_no_folder_and_is_made_good(tmp_path: Path) -> None:
    good, bad = ({"picture": {"bytes": b"a", "path": None}, "label": label} for label in (1, -1))
    write_parquet(tmp_path / "set", [good])
    source, cache = f"hf-dataset:{write_parquet(tmp_path / 'set', [bad], 'test')}", tmp_path / "cache"
    with pytest.raises(DataError, match="1 rows"):
        fetch(source, cache=cache)
    (partial,) = cache.iterdir()
    assert partial.suffix == ".partial"
    assert len(list(partial.rglob("*.jpeg"))) == 1
    write_parquet(tmp_path / "set", [good], "test")
    folder = fetch(source, cache=cache)
    assert list(cache.iterdir()) == [folder]
    assert Counter(i.folder for i in labelled_folder(sources(folder)).images) == {"train": 1, "test": 1}
