"""PneumoCAM: a chest radiograph -> calibrated pneumonia probabilities and a labelled Grad-CAM overlay.

    >>> from pneumocam import Classifier, predict
    >>> prediction = predict(Classifier.from_pretrained(), "radiograph.jpeg")
    >>> prediction.label, prediction.p_pneumonia
    >>> prediction.overlay().save("overlay.png")

Research and teaching only: never a diagnosis.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pneumocam.batching import Batcher
    from pneumocam.bundle import BundleError
    from pneumocam.classifier import Classifier, OperatingPoint, load_or_fall_back
    from pneumocam.gradcam import Saliency, targets
    from pneumocam.guard import NotAChestRadiograph
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
    from pneumocam.predict import Prediction, Reason, predict, predict_many
    from pneumocam.report import report

__version__ = "0.1.0"
DISCLAIMER = "Research and teaching only: not a diagnosis."

__all__ = [
    "DISCLAIMER",
    "Batcher",
    "Blank",
    "BundleError",
    "Classifier",
    "DamagedImage",
    "InternalError",
    "MultiFrame",
    "NotAChestRadiograph",
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
    "report",
    "targets",
]

_MODULES = {
    "batching": ["Batcher"],
    "bundle": ["BundleError"],
    "classifier": ["Classifier", "OperatingPoint", "load_or_fall_back"],
    "guard": ["NotAChestRadiograph"],
    "gradcam": ["Saliency", "targets"],
    "predict": ["Prediction", "Reason", "predict", "predict_many"],
    "report": ["report"],
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


class _Lazy(ModuleType):
    """Imports a public name on its first use, so that `pneumocam --help` does not wait for PyTorch."""

    def __getattr__(self, name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"pneumocam.{_HOMES.get(name, 'image')}"), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # Python sets a submodule as an attribute of its package; `pneumocam.predict` has to stay the function.
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Lazy
