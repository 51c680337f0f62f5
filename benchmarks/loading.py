"""Is the network ever kept waiting for images? This project's loader, a plain ImageFolder loop, and the network itself.

    python benchmarks/loading.py DIR [DIR ...]     # folders as in train.fit; writes loading.json

Images a second, the median of several rounds that take turns. Both loaders run in this process, one image after
another, as one worker of a DataLoader does. The plain loop reads the first folder with a random crop and a flip, and
has nothing against shortcuts.
"""

import json
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from train.data import Source, build_manifest
from train.fit import Config, training_images
from train.network import create_network

ROUNDS = 5
BATCHES = 8


def forever(loader: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader


def main(roots: Annotated[list[Path], tyro.conf.Positional]) -> None:
    config = Config(init="scratch")
    sources = [Source("data", tuple(roots))]
    manifest = build_manifest(sources)
    network, preprocessing = create_network(config.arch, config.init, len(manifest.label_names))
    network = network.to(memory_format=torch.channels_last).train()
    plain = v2.Compose(
        [
            v2.Grayscale(),
            v2.RandomResizedCrop(config.train_size, scale=(0.8, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocessing["mean"], preprocessing["std"]),
        ]
    )
    options: dict[str, Any] = {"batch_size": config.batch_size, "shuffle": True, "num_workers": 0, "drop_last": True}
    ours = forever(DataLoader(training_images(config, manifest, sources, preprocessing), **options))
    folder = forever(DataLoader(ImageFolder(roots[0] / "train", plain), **options))
    images, labels = next(ours)
    images = images.contiguous(memory_format=torch.channels_last)

    def steps() -> None:
        for _ in range(BATCHES):
            loss: Any = F.cross_entropy(network(images), labels)
            loss.backward()
            network.zero_grad()

    contenders: dict[str, Callable[[], object]] = {
        "this project's loader": lambda: list(islice(ours, BATCHES)),
        "ImageFolder + DataLoader": lambda: list(islice(folder, BATCHES)),
        "the network, forward and backward": steps,
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(1 + ROUNDS):
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender()
            if i:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    rates = {name: round(BATCHES * config.batch_size / median(taken), 1) for name, taken in seconds.items()}
    report = {
        "images_per_second": rates,
        "network_waits": rates["this project's loader"] < rates["the network, forward and backward"],
        "batch_size": config.batch_size,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    (Path(__file__).parent / "loading.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
