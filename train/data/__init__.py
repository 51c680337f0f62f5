"""From folders of chest radiographs to a grouped, hashed manifest and the datasets made from it.

    python -m train.data DIR [DIR ...] --out manifest.csv
    python -m train.data children=DIR adults=DIR --labels adults:Infiltration=- --out manifest.csv

`folders` says which files are images of which class, `manifest` groups and splits the images of several sources,
`surroundings` knows what is not lung, `augment` and `dataset` make what a network is trained on, `download` fetches.
"""

from train.data.augment import Augmentation, train_transform
from train.data.dataset import TrainingImages, ValidationImages, balanced_weights, class_index, read_mask, text_found
from train.data.download import fetch
from train.data.folders import BINARY, LABELS, SPLITS, SUBTYPES, DataError
from train.data.manifest import (
    LabelledImage,
    Manifest,
    Source,
    build_manifest,
    labelled_folder,
    largest_copies,
    masks_of,
    roots_of,
    sources_from,
)

__all__ = [
    "BINARY",
    "LABELS",
    "SPLITS",
    "SUBTYPES",
    "Augmentation",
    "DataError",
    "LabelledImage",
    "Manifest",
    "Source",
    "TrainingImages",
    "ValidationImages",
    "balanced_weights",
    "build_manifest",
    "class_index",
    "fetch",
    "labelled_folder",
    "largest_copies",
    "masks_of",
    "read_mask",
    "roots_of",
    "sources_from",
    "text_found",
    "train_transform",
]
