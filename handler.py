"""The model as an HTTP service on Hugging Face Inference Endpoints; a CPU instance will do.

The model repository holds, beside the bundle itself (config.json, model.safetensors, pneumocam.json):

    handler.py          this file
    pneumocam/*.py      the package, copied: it is on no package index
    requirements.txt    what pyproject.toml has under `dependencies`, one a line

The endpoint installs the requirements, puts the repository on Python's path and makes one EndpointHandler. It takes

    an image/* body     one film; parameters in the query, as in ?overlay=true&target=VIRAL
    a JSON body         {"inputs": BASE64, "parameters": {"target": "VIRAL", "overlay": true}}
                        {"inputs": [BASE64, ...], "parameters": {...}} for up to 32 films

DICOM and 16-bit films belong in JSON: the endpoint accepts no DICOM body, and makes 8-bit RGB of every image body,
which saturates 16-bit grey. An endpoint whose task is `image-classification`, not `custom`, does so with JSON too.
"""

import base64
import binascii
import io
from pathlib import Path
from typing import Any

from PIL import Image

from pneumocam import (
    Classifier,
    NotAnImage,
    Prediction,
    Radiograph,
    RadiographError,
    load_radiograph,
    predict_many,
    targets,
)

MAX_BATCH = 32
Answer = dict[str, Any]


class EndpointHandler:
    """What the endpoint calls."""

    def __init__(self, path: str = "") -> None:
        """Load the bundle.

        Args:
            path: the model repository on disk; by default where this file lies.

        Raises:
            BundleError: there is no bundle that can be used.
        """
        self.classifier = Classifier.from_pretrained(f"local-dir:{path or Path(__file__).parent}")

    def __call__(self, data: dict[str, Any]) -> Answer | list[Answer]:
        """Answer for one film or a batch. No URL is ever fetched and no path opened.

        Args:
            data: `inputs`, a film (base64 string, bytes or Pillow image) or a list of films; and `parameters`, an
                object that may have `overlay` (whether to draw one; by default not) and `target` (the class that it
                explains; by default the one answered).

        Returns:
            `Prediction.to_dict()`, with `overlay` (base64 PNG) where asked for; a list of these for a list. In place of
            an answer that cannot be given `{"error": {"code", "message"}, "status"}`: 400 for the whole request, 422
            for a film. The endpoint's own status is 200 whatever a handler returns, so look at this one.
        """
        inputs, parameters = data.get("inputs"), data.get("parameters") or {}
        if problem := self._problem(inputs, parameters):
            return _error("bad_request", problem, 400)
        films = [_film(item) for item in (inputs if isinstance(inputs, list) else [inputs])]
        predictions = predict_many(self.classifier, (film for film in films if isinstance(film, Radiograph)))
        answers = [_answer(next(predictions), **parameters) if isinstance(film, Radiograph) else film for film in films]
        return answers if isinstance(inputs, list) else answers[0]

    def _problem(self, inputs: Any, parameters: Any) -> str | None:
        """What is wrong with the request, in words."""
        if isinstance(inputs, list) and not 1 <= len(inputs) <= MAX_BATCH:
            return f"inputs has {len(inputs)} films; expected 1 to {MAX_BATCH}. Send them in several requests."
        if not isinstance(parameters, dict) or not parameters.keys() <= {"target", "overlay"}:
            return f"parameters is {parameters!r:.200}; expected an object with target, overlay or neither."
        known = targets(self.classifier)
        if parameters.get("target") not in (None, *known):
            return f"target is {parameters['target']!r:.200}; this model explains {', '.join(known)}."
        if not isinstance(parameters.get("overlay", False), bool):
            return f"overlay is {parameters['overlay']!r:.200}; expected true or false."
        return None


def _film(item: Any) -> Radiograph | Answer:
    try:
        return load_radiograph(_decoded(item) if isinstance(item, str) else item)
    except RadiographError as error:
        return _error(error.code, error.message, 422)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()).encode(), validate=True)
    except binascii.Error:
        raise NotAnImage(
            "A string came that is no base64. Send the file's own bytes as base64, not its address."
        ) from None


def _answer(prediction: Prediction, target: str | None = None, overlay: bool = False) -> Answer:
    answer = prediction.to_dict()
    if overlay and prediction.label:
        answer["overlay"] = _base64_png(prediction.overlay(target))
    return answer


def _base64_png(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _error(code: str, message: str, status: int) -> Answer:
    return {"error": {"code": code, "message": message}, "status": status}
