"""The functions that all interfaces call: HTTP routes, Gradio's endpoints and MCP tools."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from pneumocam import RadiographError, Reason
from pneumocam.predict import describe, rejected
from pneumocam.service.api import Answer, Options, SharedOptions, check, classify_each, classify_one
from pneumocam.service.engine import Engine
from pneumocam.service.errors import RequestError
from pneumocam.service.uploads import Uploads

Data = bytes | Callable[[], bytes]  # an image file, or what reads it


class Endpoints:
    """One model's endpoints.

    Attributes:
        engine: runs the work on images.
        classifier: the model.
        limits: the bounds.
        uploads: of Gradio's clients; None without Gradio.
        notice: what the page shows on top, if anything.
    """

    def __init__(self, engine: Engine, *, uploads: Uploads | None = None, notice: str | None = None) -> None:
        """Serve one model."""
        self.engine, self.classifier, self.limits = engine, engine.classifier, engine.limits
        self.uploads, self.notice = uploads, notice

    async def classify_radiograph(self, image: bytes, options: Options) -> Answer:
        """Classify a chest radiograph as normal, bacterial or viral pneumonia, and show what the network looked at.

        For research and teaching only: not a diagnosis. Made for frontal radiographs of children of one to five years
        and, with less evidence, of adults.
        """
        check(options, self.classifier)
        async with self.engine.admitted():
            return await self.engine.run(classify_one, image, options)

    async def classify_radiographs(self, images: Sequence[Data], options: SharedOptions) -> list[dict[str, Any]]:
        """Classify several chest radiographs: a prediction for each, in their order, without overlays.

        An image that cannot be used is rejected with its reason and affects no other.
        For research and teaching only: not a diagnosis. Made for frontal radiographs of children of one to five years
        and, with less evidence, of adults.
        """
        check(options, self.classifier)
        if not 1 <= len(images) <= self.limits.images:
            code = "too_large" if images else "bad_request"
            expected = f"expected 1 to {self.limits.images}. Send more in several requests."
            raise RequestError(code, f"{len(images)} images came; {expected}")
        async with self.engine.admitted():
            return await asyncio.gather(*(self._one_of_many(image, options) for image in images))

    async def _one_of_many(self, image: Data, options: SharedOptions) -> dict[str, Any]:
        try:
            data = image if isinstance(image, bytes) else image()
        except (RadiographError, RequestError) as error:
            return rejected(options.of(self.classifier), Reason(error.code, error.message)).to_dict()
        return await self.engine.run(classify_each, data, options)

    async def describe_model(self) -> dict[str, Any]:
        """Tell which model answers: id, revision, labels, preprocessing, operating points and measured figures."""
        return describe(self.classifier)

    async def check_health(self) -> dict[str, Any]:
        """Tell whether the service answers, with which model, and how many requests are waiting or at work."""
        return {
            "status": "ok",
            "model": {"id": self.classifier.id, "revision": self.classifier.revision},
            "requests": self.engine.requests,
            "limit": self.limits.at_work + self.limits.waiting,
        }
