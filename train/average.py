"""Average the weights of runs that differ in their seed alone, and calibrate the result: one network, no slower.

    python -m train.average runs/seed-0 runs/seed-1 runs/seed-2 --out runs/mine

Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time", ICML 2022: runs that start from the same pretrained weights end in one basin. `make model` does it all.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from train.calibrate import calibrate
from train.data import DataError, Manifest, roots_of, sources_from
from train.fit import read_config, training_images
from train.network import create_network
from train.record import save_bundle, write_log

IMAGES_FOR_STATISTICS = 2048


@dataclass(frozen=True)
class Config:
    """What to average."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Finished runs of train.fit."""
    out: Path
    """The folder for the bundle."""
    workers: int = 2
    """Data loading processes."""


def average(config: Config) -> Path:
    """Write --out/bundle; returns its folder.

    Raises:
        DataError: a run is missing, unfinished, or differs from the first in more than its seed.
    """
    if absent := next((run for run in config.runs if not (run / "bundle" / "pneumocam.json").is_file()), None):
        raise DataError(f"{absent} is no finished run of train.fit; start it, or go on with it by --resume.")
    configs = [read_config(run) for run in config.runs]
    states = [torch.load(run / "last.pt", map_location="cpu", weights_only=True) for run in config.runs]
    provenance = [json.loads((run / "bundle" / "pneumocam.json").read_text())["training"] for run in config.runs]
    for run, one in zip(config.runs, provenance, strict=True):
        if any(one[name] != provenance[0][name] for name in ("recipe", "manifest_sha256")):
            raise DataError(f"{run} differs from {config.runs[0]} in more than its seed; see their config.json.")
    sources = sources_from(configs[0].data, configs[0].labels, configs[0].masks)
    roots = roots_of(sources)
    manifest = Manifest.read(config.runs[0] / "manifest.csv", roots)
    label_names, first = manifest.label_names, configs[0]
    model, preprocessing = create_network(
        first.arch, "scratch", len(label_names), in_chans=first.in_chans, image_size=first.image_size
    )
    model.load_state_dict(mean_state([state["best"] for state in states]))
    if len(states) > 1:
        images = training_images(first, manifest, sources, preprocessing)
        some = range(min(len(images), IMAGES_FOR_STATISTICS))
        loader = DataLoader(Subset(images, some), first.batch_size, num_workers=config.workers)
        # Batch statistics of averaged weights are not the average of their batch statistics.
        update_bn(tqdm((batch for batch, _ in loader), "Batch statistics", len(loader), leave=False), model)

    together = provenance[0] | {"runs": [run for one in provenance for run in one["runs"]]}
    bundle = config.out / "bundle"
    save_bundle(model, bundle, label_names, preprocessing, together)
    write_log({one.seed: state["history"] for one, state in zip(configs, states, strict=True)}, bundle)
    calibrate(bundle, manifest.split("val"), roots)
    return bundle


def mean_state(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each tensor; of what is no float, such as a count of batches, the first's."""
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }


def main() -> None:
    try:
        bundle = average(tyro.cli(Config, description=__doc__))
    except DataError as error:
        raise SystemExit(f"train.average: {error}") from None
    print(f"The bundle is in {bundle}. Next: python -m train.evaluate {bundle} ...")


if __name__ == "__main__":
    main()
