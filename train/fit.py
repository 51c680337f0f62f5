"""Train a pneumonia classifier: a timm CNN, fully fine-tuned, on chest radiographs of one or several sources.

    python -m train.fit --data DIR [DIR ...] --out runs/first                    # ImageNet weights by timm's download
    python -m train.fit --data DIR --init weights.safetensors --out runs/first   # or from a file
    python -m train.fit --data children=DIR adults=DIR --masks children=DIR --out runs/both
    python -m train.fit --out runs/first --resume                                # go on where a killed run stopped
    accelerate launch -m train.fit --data DIR --out runs/first                   # several GPUs or machines

A run writes into --out: config.json, manifest.csv, log.csv, curves.png, last.pt (the checkpoint to resume from) and, at
the end, bundle/, which is what `pneumocam --model local-dir:...`, the app and the Hub take.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import accelerate
import numpy as np
import torch
import tyro
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from pneumocam.classifier import eval_transform
from train.calibrate import calibrate
from train.data import (
    Augmentation,
    DataError,
    Manifest,
    Source,
    TrainingImages,
    ValidationImages,
    build_manifest,
    masks_of,
    roots_of,
    sources_from,
    text_found,
)
from train.network import create_network
from train.objective import allowed_classes, label_loss, validation_figures
from train.record import Row, provenance, save_bundle, write_atomically, write_log


@dataclass(frozen=True)
class Config:
    """What a run is made of."""

    data: tuple[str, ...] = ()
    """Folders, `kaggle:owner/name` or `hf-dataset:owner/name`, each with `SOURCE=` before it where there are several
    sources; places of one source hold the same images."""
    labels: tuple[str, ...] = ()
    """Labels of class folders with other than the usual names, `SOURCE:FOLDER=LABEL`: NORMAL, BACTERIAL, VIRAL,
    PNEUMONIA (subtype unknown), or - to leave it out."""
    masks: tuple[str, ...] = ()
    """Lung masks, `SOURCE=FOLDER`: PNG files at the same relative paths as the images."""
    out: Path = Path("runs/latest")
    """The run's folder."""
    resume: bool = False
    """Continue the run in --out; its own config.json is used and every other flag but --workers is ignored."""
    manifest: Path | None = None
    """Repeat the split of this manifest.csv instead of making one."""
    val_fraction: float = 0.15
    """Share of each source's patients to validate on."""
    split_seed: int = 0
    """Of the division into training and validation, so that runs of other seeds can be compared."""

    arch: str = "tf_efficientnet_lite0"
    """Any timm CNN."""
    init: str = "imagenet"
    """`imagenet` (timm's download), `scratch`, or a file of weights with timm's key names."""
    in_chans: int = 1
    """1, or 3 for grey repeated."""
    train_size: int = 160
    """Side in pixels of the random crops trained on."""
    image_size: int = 192
    """Side in pixels that the whole radiograph is squashed to for validation and use."""
    drop_rate: float = 0.2
    """Dropout before the classifier."""

    epochs: int = 12
    batch_size: int = 32
    """Per process."""
    lr: float = 5e-4
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.05
    warmup_epochs: float = 1.0
    """Linear warm-up, then cosine down to zero."""
    clip_grad: float = 1.0
    """Largest norm of the gradient."""
    label_smoothing: float = 0.05
    augment: Augmentation = field(default_factory=Augmentation)
    ema_decay: float = 0.998
    """Of the weights' moving average, which is what is validated and kept."""
    patience: int = 6
    """Stop after this many epochs without a lower validation loss."""

    precision: Literal["no", "bf16"] = "no"
    calibrate: bool = True
    """At the end, set temperature, bias and operating points by the validation images in several files."""
    workers: int = 2
    """Data loading processes; any number gives the same batches."""
    seed: int = 0


def fit(config: Config) -> Path:
    """Run or resume a training; returns the folder of the finished bundle.

    Raises:
        DataError: the data, the manifest or the run's folder cannot be used as asked.
    """
    config = _run_config(config)
    accelerator = Accelerator(
        mixed_precision=config.precision,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=config.seed),
    )
    with accelerator.main_process_first():
        sources = sources_from(config.data, config.labels, config.masks)
        roots = roots_of(sources)
        manifest = _run_manifest(config, sources, roots)
    if accelerator.is_main_process:
        for line in manifest.left_out:
            print(f"left out: {line}")
        manifest.check_training()
        manifest.write(config.out / "manifest.csv")
        if not config.resume:
            stored = json.dumps(asdict(config), indent=2, default=str) + "\n"
            write_atomically(config.out / "config.json", lambda path: path.write_text(stored))
    label_names = manifest.label_names

    checkpoint = config.out / "last.pt"
    resumed = config.resume and checkpoint.is_file()
    set_seed(config.seed)
    model, preprocessing = create_network(
        config.arch,
        # A checkpoint has all the weights: to go on from it takes neither a download nor the file given as --init.
        "scratch" if resumed else config.init,
        len(label_names),
        in_chans=config.in_chans,
        image_size=config.image_size,
        drop_rate=config.drop_rate,
    )
    model = model.to(accelerator.device, memory_format=torch.channels_last)
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # autograd would copy its input first: a fifth of a step on a CPU
    ema = ModelEmaV3(model, decay=config.ema_decay, use_warmup=True, warmup_power=0.75)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=config.lr, weight_decay=config.weight_decay)

    training = training_images(config, manifest, sources, preprocessing)
    validation = ValidationImages(manifest.split("val"), roots, label_names, eval_transform(preprocessing))
    groups = validation_groups(manifest, sources)
    loader = DataLoader(
        training,
        config.batch_size,
        num_workers=config.workers,
        drop_last=len(training) >= config.batch_size * accelerator.num_processes,
    )
    val_loader = DataLoader(validation, config.batch_size, num_workers=config.workers)
    ddp_model, optimizer, loader, val_loader = accelerator.prepare(model, optimizer, loader, val_loader)

    allowed = allowed_classes(label_names).to(accelerator.device)  # (K + 1, K)
    steps_per_epoch = len(loader)
    learning_rate = _warmup_cosine(
        config.lr, round(config.warmup_epochs * steps_per_epoch), config.epochs * steps_per_epoch
    )

    history: list[Row] = []
    best: dict[str, Tensor] = {}
    if resumed:
        state = torch.load(checkpoint, map_location=accelerator.device, weights_only=True)
        model.load_state_dict(state["model"])
        ema.module.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        history, best = state["history"], state["best"]

    for epoch in range(len(history), config.epochs):
        if _epochs_without_gain(history) >= config.patience:
            break
        start = time.monotonic()
        # One seed an epoch for dropout, one an image for augmentation: an epoch is the same whether or not the run was
        # resumed before it.
        set_seed(config.seed + 1000 * (epoch + 1), device_specific=True)
        training.draw(epoch)
        ddp_model.train()
        step = epoch * steps_per_epoch
        sums = torch.zeros(3, device=accelerator.device)  # loss, right predictions, images
        bar = tqdm(loader, f"Epoch {epoch + 1}/{config.epochs}", disable=not accelerator.is_main_process, leave=False)
        for images, labels in bar:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step)
            with accelerator.autocast():
                logits = ddp_model(images.contiguous(memory_format=torch.channels_last))  # (B, K)
            loss = label_loss(logits.float(), allowed[labels], config.label_smoothing).mean()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(ddp_model.parameters(), config.clip_grad)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            ema.update(accelerator.unwrap_model(ddp_model), step=step)
            right = allowed[labels].gather(1, logits.argmax(1, keepdim=True)).sum()
            sums += torch.stack([loss.detach() * len(labels), right, torch.tensor(len(labels), device=loss.device)])
            bar.set_postfix(loss=f"{float(sums[0] / sums[2]):.4f}")

        loss_sum, right_sum, images_seen = (float(x) for x in accelerator.reduce(sums))
        if not math.isfinite(loss_sum):
            raise FloatingPointError(f"The loss is {loss_sum} in epoch {epoch + 1}; try a lower --lr than {config.lr}.")
        for buffer in ema.module.buffers():  # every process has batch statistics of its own images
            accelerate.utils.broadcast(buffer)
        val_logits, val_labels = predict_logits(accelerator, ema.module, val_loader)
        row = {
            "epoch": epoch + 1,
            "lr": learning_rate(step - 1),
            "train_loss": loss_sum / images_seen,
            "train_accuracy": right_sum / images_seen,
            **validation_figures(val_logits, val_labels, groups),
            "seconds": round(time.monotonic() - start, 1),
        }
        history.append(row)
        if _epochs_without_gain(history) == 0:
            best = {name: value.detach().clone() for name, value in ema.module.state_dict().items()}
        if accelerator.is_main_process:
            state = {
                "model": accelerator.unwrap_model(ddp_model).state_dict(),
                "ema": ema.module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "history": history,
                "best": best,
            }
            write_atomically(checkpoint, partial(torch.save, state))
            write_log({config.seed: history}, config.out)
            print(" ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)

    if accelerator.is_main_process:
        ema.module.load_state_dict(best)
        bundle = config.out / "bundle"
        told = provenance(recipe(config), manifest, history, config.seed)
        save_bundle(ema.module, bundle, label_names, preprocessing, told)
        write_log({config.seed: history}, bundle)
        if config.calibrate:
            calibrate(bundle, manifest.split("val"), roots)
        print(f"The bundle is in {bundle}. Next: python -m train.evaluate {bundle} ...")
    accelerator.wait_for_everyone()
    accelerator.end_training()  # a process that ends with its process group still open may abort on the way out
    return config.out / "bundle"


def training_images(
    config: Config, manifest: Manifest, sources: Sequence[Source], preprocessing: dict[str, Any]
) -> TrainingImages:
    """The images trained on, augmented as the config says."""
    return TrainingImages(
        manifest.split("train"),
        roots_of(sources),
        manifest.label_names,
        masks=masks_of(sources),
        size=config.train_size,
        mean=preprocessing["mean"],
        std=preprocessing["std"],
        augment=config.augment,
        seed=config.seed,
    )


def validation_groups(manifest: Manifest, sources: Sequence[Source]) -> np.ndarray:
    """(N,) str: source, NORMAL or pneumonia, and whether text is burned in, of each validation image."""
    roots, masks = roots_of(sources), masks_of(sources)
    images = manifest.split("val")
    texts = [text_found(image, roots, masks) for image in tqdm(images, "Looking for text", leave=False)]
    return np.array([f"{i.source} {i.label == 'NORMAL'} {text}" for i, text in zip(images, texts, strict=True)])


@torch.no_grad()
def predict_logits(
    accelerator: Accelerator, model: nn.Module, loader: DataLoader[Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, K) float64 and labels (N,) of a whole loader, from all processes, in its order."""
    model.eval()
    logits, labels = [], []
    for images, targets in tqdm(loader, "Validating", disable=not accelerator.is_main_process, leave=False):
        output = model(images.contiguous(memory_format=torch.channels_last)).float()  # (B, K)
        gathered = accelerator.gather_for_metrics((output, targets))
        logits.append(gathered[0].cpu().double().numpy())
        labels.append(gathered[1].cpu().numpy())
    return np.concatenate(logits), np.concatenate(labels)


def read_config(run: Path) -> Config:
    """The config that a run was started with."""
    values = json.loads((run / "config.json").read_text())
    values |= {name: tuple(values[name]) for name in ("data", "labels", "masks")}
    values |= {"out": run, "augment": Augmentation(**values["augment"])}
    values |= {"manifest": Path(values["manifest"])} if values.get("manifest") else {}
    return Config(**values)


def recipe(config: Config) -> dict[str, Any]:
    """What makes a difference to the network, without paths: the same for runs that can be averaged."""
    elsewhere = ("data", "labels", "masks", "out", "resume", "manifest", "workers", "calibrate", "seed")
    values = {name: value for name, value in asdict(config).items() if name not in elsewhere}
    return values | {"init": Path(config.init).name, "labels": list(config.labels), "masks": bool(config.masks)}


def _run_config(config: Config) -> Config:
    """The config to run: what was given for a new run, what was stored for a resumed one."""
    if config.resume:
        if not (config.out / "config.json").is_file():
            raise DataError(f"--resume: {config.out} holds no run (no config.json). Leave --resume out to start one.")
        return replace(read_config(config.out), resume=True, workers=config.workers)
    if not config.data:
        raise DataError("No data: give --data DIR (Kaggle's layout), kaggle:owner/name or hf-dataset:owner/name.")
    if (config.out / "last.pt").exists():
        raise DataError(f"{config.out} holds a run already. Add --resume to continue it or choose another --out.")
    return replace(config, data=tuple(map(_absolute, config.data)), masks=tuple(map(_absolute, config.masks)))


def _absolute(given: str) -> str:
    """With the folder that is named made absolute, so that a run can go on from another folder."""
    name, equals, place = given.rpartition("=")
    return f"{name}{equals}{Path(place).resolve()}" if Path(place).exists() else given


def _run_manifest(config: Config, sources: list[Source], roots: list[Path]) -> Manifest:
    """The run's own manifest if it has one, else the one asked for, else a new one; the first two are checked."""
    own = config.out / "manifest.csv"
    given = own if config.resume and own.is_file() else config.manifest
    if given:
        return Manifest.read(given, roots)
    return build_manifest(sources, val_fraction=config.val_fraction, seed=config.split_seed)


def _warmup_cosine(peak: float, warmup: int, total: int) -> Callable[[int], float]:
    def learning_rate(step: int) -> float:
        if step < warmup:
            return peak * (step + 1) / warmup
        return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return learning_rate


def _epochs_without_gain(history: list[Row]) -> int:
    if not history:
        return 0
    losses = [row["val_loss"] for row in history]
    return len(losses) - 1 - losses.index(min(losses))


def main() -> None:
    try:
        fit(tyro.cli(Config, description=__doc__))
    except DataError as error:
        raise SystemExit(f"train.fit: {error}") from None


if __name__ == "__main__":
    main()
