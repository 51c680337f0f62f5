"""Time of the backbone in several runtimes, and of a prediction with its saliency map beside other libraries.

    python -m benchmarks.saliency --repeats 100

In each setting all contenders take turns on the same radiographs in one process, so their ratios hold on a busy machine
too. OpenVINO has a row if it is installed. Writes saliency.json.
"""

import importlib.util
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import tyro
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor
from torchcam.methods import GradCAM as TorchCam

from pneumocam import Classifier, load_radiograph, predict
from pneumocam.batching import traced
from pneumocam.export import export_onnx
from pneumocam.gradcam import grad_cam
from pneumocam.onnx_runtime import on_onnx_runtime

RESULT = Path(__file__).with_suffix(".json")
EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.jpeg"))
THREADS = (1, 2)
BATCHES = (1, 8, 32)
WARM_UP = 3
Contenders = dict[str, Callable[[], object]]


def measure(contenders: Contenders, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds on the clock and of processor time, and the ratio of the latter to the first contender's.

    Each is the median; `ms_quartiles` are those of the clock.
    """
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    computed: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + WARM_UP):
        for name, run in contenders.items():
            start, before = time.perf_counter(), time.process_time()
            run()
            if turn >= WARM_UP:
                wall[name].append(1000 * (time.perf_counter() - start))
                computed[name].append(1000 * (time.process_time() - before))
    base, *_ = (statistics.median(times) for times in computed.values())
    return {name: _row(wall[name], computed[name], base) for name in contenders}


def _row(wall: list[float], computed: list[float], base: float) -> dict[str, Any]:
    first, middle, third = statistics.quantiles(wall, n=4)
    cpu = statistics.median(computed)
    return {
        "ms": round(middle, 2),
        "ms_quartiles": [round(first, 2), round(third, 2)],
        "cpu_ms": round(cpu, 2),
        "cpu_ratio": round(cpu / base, 2),
    }


def images(classifier: Classifier, size: int) -> Tensor:
    """`(size, C, H, W)` float32 of the example radiographs, repeated as often as needed."""
    rows = [classifier.transform(load_radiograph(EXAMPLES[i % len(EXAMPLES)])) for i in range(size)]
    return torch.stack(rows)


def backbones(classifier: Classifier, onnx: Path, batch: Tensor, threads: int) -> Contenders:
    """Passes to features and logits in each runtime."""
    torch.set_num_threads(threads)
    network, graph = classifier.network, traced(classifier)
    contiguous = Classifier.from_pretrained().network.to(memory_format=torch.contiguous_format)
    last = batch.contiguous(memory_format=torch.channels_last)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    array = batch.numpy()

    def eager(model: Any, inputs: Tensor) -> None:
        with torch.no_grad():
            model.forward_head(model.forward_features(inputs))

    contenders: Contenders = {
        "PyTorch, contiguous": lambda: eager(contiguous, batch),
        "PyTorch, channels last": lambda: eager(network, last),
        "PyTorch, traced (pneumocam's server)": lambda: eager(graph.network, batch),
        "ONNX Runtime": lambda: session.run(None, {"image": array}),
    }
    if importlib.util.find_spec("openvino"):
        import openvino

        compiled = openvino.compile_model(onnx, "CPU", {"INFERENCE_NUM_THREADS": threads})
        contenders["OpenVINO"] = lambda: compiled(array)
    return contenders


def maps(classifier: Classifier, onnx: Path, batch: Tensor) -> Contenders:
    """A prediction of one image with its map, by this package, with ONNX Runtime's features, and by other libraries."""
    torch.set_num_threads(1)
    network, graph, label = classifier.network, traced(classifier), [classifier.label_names[0]]
    fast = on_onnx_runtime(classifier, onnx)
    # A network of its own for each library that leaves hooks. EfficientNet's forward_features ends in bn2.
    by_torchcam, by_grad_cam = Classifier.from_pretrained().network, Classifier.from_pretrained().network
    torchcam = TorchCam(by_torchcam.requires_grad_(True), by_torchcam.bn2)
    gildenblat = GradCAM(by_grad_cam.requires_grad_(True), [by_grad_cam.bn2])

    def bare() -> None:
        with torch.no_grad():
            network(batch)

    def one_pass(model: Classifier) -> None:
        features = model.features(batch)
        with torch.no_grad():
            model.head(features)
        grad_cam(model, features, label)

    def plain_captum() -> None:
        bare()
        LayerGradCam(network, network.bn2).attribute(batch.clone().requires_grad_(), 0, relu_attributions=True)

    def torchcam_map() -> None:
        torchcam(0, by_torchcam(batch))

    return {
        "bare forward pass": bare,
        "pneumocam": lambda: one_pass(classifier),
        "pneumocam, traced": lambda: one_pass(graph),
        "pneumocam, features by ONNX Runtime": lambda: one_pass(fast),
        "Captum's LayerGradCam on the whole network": plain_captum,
        "torchcam": torchcam_map,
        "pytorch-grad-cam": lambda: gildenblat(batch, [ClassifierOutputTarget(0)]),
        "file to prediction": lambda: predict(classifier, EXAMPLES[0]),
        "file to overlay": lambda: predict(classifier, EXAMPLES[0]).overlay(),
    }


def difference(classifier: Classifier, onnx: Path) -> dict[str, float]:
    """Largest difference over the examples between ONNX Runtime and PyTorch, of probabilities and of maps in [0, 1]."""
    fast = on_onnx_runtime(classifier, onnx)
    probability = saliency = 0.0
    for image in images(classifier, len(EXAMPLES)):
        ours, theirs = (one.features(image[None]) for one in (classifier, fast))
        with torch.no_grad():
            both = [(classifier.head(x).double() / classifier.temperature).softmax(1) for x in (ours, theirs)]
        probability = max(probability, float((both[0] - both[1]).abs().max()))
        for name in classifier.label_names:
            one, other = (grad_cam(classifier, x, [name]) for x in (ours, theirs))
            saliency = max(saliency, float(np.abs(one - other).max()) / max(float(one.max()), 1e-9))
    return {"probability": probability, "map": saliency}


def main(repeats: int = 50, out: Path = RESULT) -> None:
    """Measure and write the result.

    Args:
        repeats: runs of each contender with one image; a quarter as many with more.
        out: the JSON file to write.
    """
    warnings.simplefilter("ignore")  # of the exporter and the other libraries
    classifier = Classifier.from_pretrained()
    result: dict[str, Any] = {"repeats": repeats, "torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx"
        export_onnx(classifier, onnx)
        result["onnx_runtime_differs_by"] = difference(classifier, onnx)
        result["map"] = measure(maps(classifier, onnx, images(classifier, 1)), repeats)
        result["backbone"] = [
            {"threads": threads, "batch": size, "contenders": measure(contenders, turns)}
            for threads in THREADS
            for size in BATCHES
            if (contenders := backbones(classifier, onnx, images(classifier, size), threads))
            and (turns := repeats if size == 1 else max(4, repeats // 4))
        ]
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
