"""Read any upload as a checked 8-bit grayscale radiograph.

`load` is the entry; `headers` bounds what a file's header may claim, `sandbox` runs the decoders within limits, `dicom`
and `grayscale` turn stored values into grey levels, `border` cuts off a frame, `errors` has the exceptions.
"""

from pneumocam.image.border import without_border
from pneumocam.image.errors import (
    MIN_SIDE,
    Blank,
    DamagedImage,
    InternalError,
    MultiFrame,
    NotAnImage,
    NotARadiograph,
    RadiographError,
    TooLarge,
    TooSmall,
    UnsupportedDicom,
)
from pneumocam.image.load import Radiograph, Source, load_radiograph

__all__ = [
    "MIN_SIDE",
    "Blank",
    "DamagedImage",
    "InternalError",
    "MultiFrame",
    "NotARadiograph",
    "NotAnImage",
    "Radiograph",
    "RadiographError",
    "Source",
    "TooLarge",
    "TooSmall",
    "UnsupportedDicom",
    "load_radiograph",
    "without_border",
]
