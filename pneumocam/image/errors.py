"""The errors of image reading, and the checks of size and contrast.

RadiographError (ValueError)     code
  NotAnImage                     not_an_image         nothing that is read here
  DamagedImage                   damaged_image        truncated or corrupt
  TooLarge                       too_large            bytes or pixels
  TooSmall                       too_small            a side under 64 pixels
  MultiFrame                     multi_frame          animated, multi-page or multi-frame
  NotARadiograph                 not_a_radiograph     DICOM without pixels, or of another modality
  UnsupportedDicom               unsupported_dicom    DICOM in an encoding that is not read here
  Blank                          blank                nearly one grey level everywhere

InternalError (RuntimeError)       internal_error       the service failed, whatever the image

Their messages say what came, what is accepted, and the remedy. They hold no file name and no value out of the file.
"""

# ruff: noqa: N818 - an exception here is named by what is wrong, and its base says Error.

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MIN_SIDE = 64
LEAST_CONTRAST = 16  # grey levels of 256 between the darkest and the brightest percent of the pixels
FEW_LEVELS = 32  # of 256
EXPENSIVE = 4  # the limit on pixels is divided by this where a pixel takes several times the usual memory


class RadiographError(ValueError):
    """An upload that cannot be used as a radiograph.

    Attributes:
        code: snake_case name of the cause, the same in Python, CLI and API.
        message: what came, what is accepted, and the remedy; free of file names and DICOM values.
    """

    code: ClassVar[str] = "radiograph_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class NotAnImage(RadiographError):
    code = "not_an_image"


class DamagedImage(RadiographError):
    code = "damaged_image"


class TooLarge(RadiographError):
    code = "too_large"


class TooSmall(RadiographError):
    code = "too_small"


class MultiFrame(RadiographError):
    code = "multi_frame"


class NotARadiograph(RadiographError):
    code = "not_a_radiograph"


class UnsupportedDicom(RadiographError):
    code = "unsupported_dicom"


class Blank(RadiographError):
    code = "blank"


class InternalError(RuntimeError):
    """The service could not read an image, and the image is not the cause: try the same image again later.

    Raised when there is no memory or no process for a decoder, no Python interpreter to run it, or no result in time.

    Attributes:
        code: "internal_error".
        message: what failed and the remedy.
    """

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise TooLarge(
            f"The picture claims {width} x {height} pixels; at most {max_pixels:,} pixels in all are accepted. "
            "Export it at a lower resolution."
        )
    if min(width, height) < MIN_SIDE:
        raise TooSmall(
            f"The picture is {width} x {height} pixels; each side needs at least {MIN_SIDE}. Upload the original "
            "image, not a thumbnail."
        )


def check_contrast(pixels: NDArray[np.uint8]) -> list[str]:
    """Refuse an image of nearly one grey level, and report as a step one of few."""
    counts = np.array(Image.fromarray(pixels).histogram())
    low, high = np.searchsorted(np.cumsum(counts), (0.01 * pixels.size, 0.99 * pixels.size))
    if high - low < LEAST_CONTRAST:
        raise Blank(
            f"The picture is blank: nearly every pixel is at grey level {low} to {high} of 255, and a radiograph needs "
            "contrast. Check the export, or the display window of the file."
        )
    levels = np.count_nonzero(counts)
    return [f"only {levels} of 256 grey levels in use"] if levels < FEW_LEVELS else []
