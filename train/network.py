"""The network to train, with its starting weights, and the preprocessing that it is validated and used with."""

from pathlib import Path
from typing import Any

import numpy as np
import timm
from safetensors import SafetensorError
from timm.data import resolve_data_config
from torch import nn

from train.data import DataError


def create_network(
    arch: str, init: str, num_classes: int, *, in_chans: int = 1, image_size: int = 160, drop_rate: float = 0.0
) -> tuple[Any, dict[str, Any]]:
    """A timm network and its preprocessing.

    Args:
        arch: any timm CNN.
        init: `imagenet` (timm's download), `scratch`, or a file of weights with timm's key names.
        num_classes: K.
        in_chans: 1, or 3 for grey repeated.
        image_size: side in pixels that the whole radiograph is squashed to.
        drop_rate: dropout before the classifier.

    Raises:
        DataError: the weights cannot be loaded.
    """
    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_chans, "drop_rate": drop_rate}
    if init not in ("imagenet", "scratch"):
        if not Path(init).is_file():
            raise DataError(f"--init {init} is no file; expected `imagenet`, `scratch` or a file of weights.")
        options["pretrained_cfg_overlay"] = {"file": init}
    try:
        model = timm.create_model(arch, pretrained=init != "scratch", **options)
    except (RuntimeError, OSError, KeyError, SafetensorError) as error:
        raise DataError(
            f"{arch} could not be made from --init {init}: {error}. Without a network, give a file "
            "of its weights or `scratch`."
        ) from error
    if init != "scratch":
        # timm starts some heads so wide that the first loss is above 5 and the first steps tear at the backbone.
        nn.init.normal_(model.get_classifier().weight, std=0.01)
        nn.init.zeros_(model.get_classifier().bias)
    source = resolve_data_config(model.pretrained_cfg)
    channels = {k: (float(np.mean(source[k])),) if in_chans == 1 else source[k] for k in ("mean", "std")}
    preprocessing = {
        "input_size": (in_chans, image_size, image_size),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "squash",
        **channels,
    }
    return model, preprocessing
