"""Time of a prediction with its saliency map, compared with a bare forward pass and with Captum on the whole network.

    make bench            # or: python benchmarks/saliency.py --repeats 100

All contenders run in turn on the same radiograph in one process, so their ratios hold on a busy machine too.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import tyro
from captum.attr import LayerGradCam

from pneumocam import Classifier, load_radiograph, predict
from pneumocam.gradcam import grad_cam

RESULT = Path(__file__).with_suffix(".json")
EXAMPLE = sorted((Path(__file__).parents[1] / "examples").glob("*bacteria*.jpeg"))[0]


def measure(classifier: Classifier, repeats: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of each contender, and its ratio to the bare forward pass."""
    radiograph = load_radiograph(EXAMPLE)
    batch = classifier.transform(radiograph)[None]  # (1, C, H, W)
    network = classifier.network

    def bare() -> None:
        with torch.no_grad():
            network(batch)

    def one_pass() -> None:
        grad_cam(classifier, classifier.features(batch), ["NORMAL"])

    def plain_captum() -> None:
        # EfficientNet's forward_features ends in bn2. Captum passes the network again and runs a full backward.
        with torch.no_grad():
            network(batch)
        image = batch.clone().requires_grad_()
        LayerGradCam(network, network.bn2).attribute(image, 0, relu_attributions=True)

    def upload_to_overlay() -> None:
        predict(classifier, EXAMPLE).overlay()

    contenders: dict[str, Callable[[], None]] = {
        "bare forward": bare,
        "prediction and map, one pass (pneumocam)": one_pass,
        "prediction, then Captum's LayerGradCam": plain_captum,
        "file to overlay, decoding and drawing included": upload_to_overlay,
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 3):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if turn >= 3:
                times[name].append(time.perf_counter() - start)
    base = statistics.median(times["bare forward"])
    return {
        name: {"ms": round(1000 * statistics.median(t), 2), "ratio": round(statistics.median(t) / base, 2)}
        for name, t in times.items()
    }


def main(repeats: int = 50, out: Path = RESULT) -> None:
    """Measure and write the result.

    Args:
        repeats: runs of each contender.
        out: the JSON file to write.
    """
    result = {
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "median": measure(Classifier.from_pretrained(), repeats),
    }
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
