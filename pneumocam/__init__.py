"""PneumoCAM: a chest radiograph in, calibrated pneumonia probabilities and a labelled Grad-CAM overlay out.

    >>> from pneumocam import Classifier, predict
    >>> prediction = predict(Classifier.from_pretrained(), "film.jpeg")
    >>> prediction.label, prediction.p_pneumonia
    >>> prediction.overlay().save("overlay.png")

Research and teaching only: never a diagnosis.
"""

from pneumocam.image import (
    Blank,
    DamagedImage,
    InternalError,
    MultiFrame,
    NotAnImage,
    NotARadiograph,
    Radiograph,
    RadiographError,
    TooLarge,
    TooSmall,
    UnsupportedDicom,
    load_radiograph,
)
from pneumocam.model import BundleError, Classifier, Loaded, OperatingPoint, load_or_fall_back
from pneumocam.predict import Prediction, Reason, predict, predict_many
from pneumocam.saliency import Saliency, targets

__version__ = "0.1.0"

__all__ = [
    "Blank",
    "BundleError",
    "Classifier",
    "DamagedImage",
    "InternalError",
    "Loaded",
    "MultiFrame",
    "NotARadiograph",
    "NotAnImage",
    "OperatingPoint",
    "Prediction",
    "Radiograph",
    "RadiographError",
    "Reason",
    "Saliency",
    "TooLarge",
    "TooSmall",
    "UnsupportedDicom",
    "load_or_fall_back",
    "load_radiograph",
    "predict",
    "predict_many",
    "targets",
]
