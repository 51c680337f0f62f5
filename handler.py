"""The model as an HTTP service on Hugging Face Inference Endpoints; a CPU instance is enough.

The model repository holds, beside the bundle itself (config.json, model.safetensors, pneumocam.json):

    handler.py          this file
    pneumocam/          the package, copied: it is on no package index
    requirements.txt    what pyproject.toml has under `dependencies`, one a line

The endpoint installs the requirements, puts the repository on Python's path and makes one EndpointHandler. It takes

    an image/* body     one image; parameters in the query, as in ?overlay=true&target=VIRAL
    a JSON body         {"inputs": BASE64, "parameters": {"target": "VIRAL", "overlay": true}}
                        {"inputs": [BASE64, ...], "parameters": {...}} for several images

Send DICOM and 16-bit images as JSON: the endpoint accepts no DICOM body, and makes 8-bit RGB of every image body,
which saturates 16-bit grey. An endpoint whose task is `image-classification`, not `custom`, does so with JSON too.
"""

import base64
import binascii
from pathlib import Path
from typing import Any

from pneumocam import Classifier, NotAnImage, Prediction, Radiograph, load_radiograph, predict_many
from pneumocam.service.api import Options, encode, parse
from pneumocam.service.errors import RequestError, body, explain
from pneumocam.service.limits import LIMITS

Answer = dict[str, Any]


class EndpointHandler:
    """What the endpoint calls."""

    def __init__(self, path: str = "") -> None:
        """Load the bundle.

        Args:
            path: the model repository on disk; by default the folder of this file.

        Raises:
            BundleError: there is no bundle that can be used.
        """
        self.classifier = Classifier.from_pretrained(f"local-dir:{path or Path(__file__).parent}")

    def __call__(self, data: dict[str, Any]) -> Answer | list[Answer]:
        """Classify one image or several. No URL is ever fetched and no path opened.

        Args:
            data: `inputs`, an image (base64 string, bytes or Pillow image) or a list of images; and `parameters`, an
                object with any of the fields of `pneumocam.service.api.Options`.

        Returns:
            `Prediction.to_dict()`, with `overlay` (base64) where asked for; a list of these for a list. In place of a
            prediction that cannot be made `{"error": {"code", "message"}, "status"}`, for the whole request or for one
            image. The endpoint's own status is 200 whatever a handler returns, so look at this one.
        """
        inputs = data.get("inputs")
        images = inputs if isinstance(inputs, list) else [inputs]
        try:
            options = self._options(data.get("parameters") or {}, len(images))
        except Exception as error:
            return _failed(error)
        radiographs = [_radiograph(image) for image in images]
        readable = (image for image in radiographs if isinstance(image, Radiograph))
        predictions = predict_many(options.of(self.classifier), readable, force=options.force)
        answers = [
            _answer(next(predictions), options) if isinstance(image, Radiograph) else image for image in radiographs
        ]
        return answers if isinstance(inputs, list) else answers[0]

    def _options(self, parameters: Any, images: int) -> Options:
        if not 1 <= images <= LIMITS.images:
            raise RequestError("bad_request", f"{images} images came; expected 1 to {LIMITS.images} in one request.")
        if not isinstance(parameters, dict):
            raise RequestError("bad_request", "parameters is not an object; expected one with options by name.")
        options: Options = parse(Options, parameters, self.classifier)
        return options


def _radiograph(image: Any) -> Radiograph | Answer:
    try:
        return load_radiograph(_decoded(image) if isinstance(image, str) else image)
    except Exception as error:
        return _failed(error)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()).encode(), validate=True)
    except binascii.Error:
        raise NotAnImage(
            "A text came that is not base64. Send the file's own bytes as base64, not its address."
        ) from None


def _answer(prediction: Prediction, options: Options) -> Answer:
    drawn = options.kind and prediction.label
    answer = prediction.to_dict(prediction.explain(options.target) if drawn else None)
    if options.kind and drawn:
        answer["overlay"] = base64.b64encode(encode(prediction.overlay(options.target), options.kind)).decode()
    return answer


def _failed(error: Exception) -> Answer:
    status, code, message = explain(error)
    return {"error": body(code, message)["error"], "status": status}
