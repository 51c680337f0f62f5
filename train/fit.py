"""Train a pneumonia classifier: a timm CNN, fully fine-tuned, on folders of chest radiographs.

    python -m train.fit --data DIR [DIR ...] --out runs/first                    # ImageNet weights by timm's download
    python -m train.fit --data DIR --init weights.safetensors --out runs/first   # or from a file
    python -m train.fit --out runs/first --resume                                # go on where a killed run stopped
    accelerate launch -m train.fit --data DIR --out runs/first                   # several GPUs or machines

A run writes into --out: config.json, manifest.csv, log.csv, curves.png, last.pt (the checkpoint to resume from) and, at
the end, bundle/, which is what `pneumocam --model local-dir:...`, the app and the Hub take.
"""

import csv
import io
import json
import math
import platform
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import accelerate
import numpy as np
import timm
import torch
import tyro
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from matplotlib.figure import Figure
from safetensors import SafetensorError
from sklearn.metrics import roc_auc_score
from sklearn.utils.class_weight import compute_class_weight
from timm.data import resolve_data_config
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from tqdm import tqdm

from pneumocam import Classifier
from pneumocam.bundle import SCHEMA_VERSION, BundleError, Description, Point, write_bundle
from pneumocam.classifier import eval_transform
from pneumocam.image import Radiograph
from train.calibrate import calibrate
from train.data import (
    Augmentation,
    DataError,
    FilmDataset,
    Manifest,
    build_manifest,
    fetch,
    train_transform,
)
from train.metrics import binary_probability, decide


@dataclass(frozen=True)
class Config:
    """What a run is made of."""

    data: tuple[str, ...] = ()
    """Folders in Kaggle's layout, `kaggle:owner/name` or `hf-dataset:owner/name`; several may hold the same films."""
    out: Path = Path("runs/latest")
    """The run's folder."""
    resume: bool = False
    """Continue the run in --out; its own config.json is used and every other flag but --workers is ignored."""
    manifest: Path | None = None
    """Repeat the split of this manifest.csv instead of making one."""
    val_fraction: float = 0.15
    """Share of the patients to validate on."""
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
    crop_pct: float = 1.0
    """Share of each side of a film, around its middle, that the network sees in training and in use; 0.1 to 1."""
    drop_rate: float = 0.2
    """Dropout before the classifier."""
    drop_path_rate: float | None = None
    """Stochastic depth, for the architectures that have it."""

    epochs: int = 12
    batch_size: int = 32
    """Per process."""
    opt: Literal["adam", "adamw", "nadamw", "radam", "adamp", "adan"] = "adamw"
    """Optimizer, by timm's name."""
    lr: float = 5e-4
    """Peak learning rate."""
    weight_decay: float = 0.05
    warmup_epochs: float = 1.0
    """Linear warm-up, then cosine down to zero."""
    clip_grad: float = 1.0
    """Largest norm of the gradient."""
    label_smoothing: float = 0.05
    subtype_smoothing: float = 0.0
    """Share of a BACTERIAL or VIRAL label that goes to the other of the two, whose labels are noisy."""
    consistency: float = 0.0
    """Weight of the divergence between the answers to two views of a film; above 0, a batch is half as many films."""
    teacher: Path | None = None
    """A bundle to distil: a network of the same labels and preprocessing, trained on the same split."""
    distillation: float = 0.5
    """Share of a film's label that is the teacher's calibrated answer to the same view of it."""
    augment: Augmentation = field(default_factory=Augmentation)
    balance_classes: bool = True
    """Weight the loss by inverse class frequency."""
    ema_decay: float = 0.998
    """Of the weights' moving average, which is what is validated and kept."""
    patience: int = 6
    """Stop after this many epochs without a lower validation loss."""

    precision: Literal["no", "bf16"] = "no"
    calibrate: bool = True
    """At the end, set temperature and operating points by the validation films and their counterfactuals."""
    workers: int = 2
    """Data loading processes; any number gives the same batches."""
    seed: int = 0


Row = dict[str, float]


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
        roots = [fetch(source) for source in config.data]
        manifest = _run_manifest(config, roots)
    if accelerator.is_main_process:
        manifest.write(config.out / "manifest.csv")
        if not config.resume:
            stored = json.dumps(asdict(config), indent=2, default=str) + "\n"
            _write_atomically(config.out / "config.json", lambda path: path.write_text(stored))
    label_names = manifest.label_names

    checkpoint = config.out / "last.pt"
    resumed = config.resume and checkpoint.is_file()
    set_seed(config.seed)
    # A checkpoint has all the weights: to go on from it takes neither a download nor the file given as --init.
    model, pretrained_cfg = create_model(replace(config, init="scratch") if resumed else config, len(label_names))
    model = model.to(accelerator.device, memory_format=torch.channels_last)
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # autograd would copy its input first: a fifth of a step on a CPU
    ema = ModelEmaV3(model, decay=config.ema_decay, use_warmup=True, warmup_power=0.75)
    optimizer = create_optimizer_v2(model, opt=config.opt, lr=config.lr, weight_decay=config.weight_decay)

    views = 2 if config.consistency else 1
    training = training_films(config, manifest, roots, pretrained_cfg, views=views)
    validation = FilmDataset(manifest.split("val"), roots, label_names, eval_transform(pretrained_cfg))
    for name, films in (("train", training), ("val", validation)):
        if absent := set(range(len(label_names))) - set(films.labels):
            raise DataError(f"No {', '.join(label_names[i] for i in sorted(absent))} films in the {name} split.")
    loader = DataLoader(
        training,
        config.batch_size // views,
        shuffle=True,
        num_workers=config.workers,
        drop_last=len(training) >= config.batch_size * accelerator.num_processes,
    )
    val_loader = DataLoader(validation, config.batch_size, num_workers=config.workers)
    ddp_model, optimizer, loader, val_loader = accelerator.prepare(model, optimizer, loader, val_loader)

    teacher = load_teacher(config, manifest, pretrained_cfg)
    if teacher:
        teacher.network.to(accelerator.device, memory_format=torch.channels_last)
    targets = soft_targets(config, label_names).to(accelerator.device)  # (K, K)
    class_weights = torch.ones(len(label_names), device=accelerator.device)
    if config.balance_classes:
        weights = compute_class_weight("balanced", classes=np.arange(len(label_names)), y=training.labels)
        class_weights = torch.tensor(weights, dtype=torch.float32, device=accelerator.device)
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
        # One seed an epoch for dropout, one a film for augmentation: an epoch is the same whether or not the run was
        # resumed before it.
        set_seed(config.seed + 1000 * (epoch + 1), device_specific=True)
        loader.set_epoch(epoch)
        ddp_model.train()
        step = epoch * steps_per_epoch
        sums = torch.zeros(3, device=accelerator.device)  # loss, right answers, films
        bar = tqdm(loader, f"Epoch {epoch + 1}/{config.epochs}", disable=not accelerator.is_main_process, leave=False)
        for images, labels in bar:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step)
            images = images.view(-1, config.in_chans, *images.shape[2:])  # (B * views, C, H, W)
            images = images.contiguous(memory_format=torch.channels_last)
            labels = labels.repeat_interleave(views)  # (B * views,)
            target = targets[labels]  # (B * views, K)
            with accelerator.autocast():
                logits = ddp_model(images)  # (B * views, K)
                if teacher:
                    answer = (teacher.head(teacher.features(images)).detach() / teacher.temperature).softmax(1)
                    target = target.lerp(answer.to(target), config.distillation)
            log_p = F.log_softmax(logits.float(), dim=1)
            weight = class_weights[labels]
            loss = -(weight * (target * log_p).sum(1)).sum() / weight.sum()
            if config.consistency:
                one, other = log_p[0::2], log_p[1::2]
                # Jeffreys' divergence: the Kullback-Leibler divergence both ways.
                loss = loss + config.consistency * ((one.exp() - other.exp()) * (one - other)).sum(1).mean()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(ddp_model.parameters(), config.clip_grad)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            ema.update(accelerator.unwrap_model(ddp_model), step=step)
            right = (logits.argmax(1) == labels).sum()
            sums += torch.stack([loss.detach() * len(labels), right, torch.tensor(len(labels), device=loss.device)])
            bar.set_postfix(loss=f"{float(sums[0] / sums[2]):.4f}")

        loss_sum, right_sum, films_seen = (float(x) for x in accelerator.reduce(sums))
        if not math.isfinite(loss_sum):
            raise FloatingPointError(f"The loss is {loss_sum} in epoch {epoch + 1}; try a lower --lr than {config.lr}.")
        for buffer in ema.module.buffers():  # every process has batch statistics of its own films
            accelerate.utils.broadcast(buffer)
        val_logits, val_labels = predict_logits(accelerator, ema.module, val_loader)
        row = {
            "epoch": epoch + 1,
            "lr": learning_rate(step - 1),
            "train_loss": loss_sum / films_seen,
            "train_accuracy": right_sum / films_seen,
            **_validation_figures(val_logits, val_labels, label_names),
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
            _write_atomically(checkpoint, partial(torch.save, state))
            write_log({config.seed: history}, config.out)
            print(" ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)

    if accelerator.is_main_process:
        ema.module.load_state_dict(best)
        bundle = config.out / "bundle"
        save_bundle(ema.module, bundle, label_names, pretrained_cfg, _provenance(config, manifest, history, teacher))
        write_log({config.seed: history}, bundle)
        if config.calibrate:
            calibrate(bundle, manifest.split("val"), roots)
        print(f"The bundle is in {bundle}. Next: python -m train.evaluate {bundle} ...")
    accelerator.wait_for_everyone()
    accelerator.end_training()  # a process that ends with its process group still open may abort on the way out
    return config.out / "bundle"


def create_model(config: Config, num_classes: int) -> tuple[Any, dict[str, Any]]:
    """The network with its starting weights, and the preprocessing that it will be validated and used with."""
    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": config.in_chans, "drop_rate": config.drop_rate}
    if config.drop_path_rate is not None:
        options["drop_path_rate"] = config.drop_path_rate
    if config.init not in ("imagenet", "scratch"):
        if not Path(config.init).is_file():
            raise DataError(f"--init {config.init} is no file; expected `imagenet`, `scratch` or a file of weights.")
        options["pretrained_cfg_overlay"] = {"file": config.init}
    try:
        model = timm.create_model(config.arch, pretrained=config.init != "scratch", **options)
    except (RuntimeError, OSError, KeyError, SafetensorError) as error:
        raise DataError(
            f"{config.arch} could not be made from --init {config.init}: {error}. Without a network, give a file "
            "of its weights or `scratch`."
        ) from error
    if config.init != "scratch":
        # timm starts some heads so wide that the first loss is above 5 and the first steps tear at the backbone.
        nn.init.normal_(model.get_classifier().weight, std=0.01)
        nn.init.zeros_(model.get_classifier().bias)
    source = resolve_data_config(model.pretrained_cfg)
    channels = {k: (float(np.mean(source[k])),) if config.in_chans == 1 else source[k] for k in ("mean", "std")}
    preprocessing = {
        "input_size": (config.in_chans, config.image_size, config.image_size),
        "interpolation": "bicubic",
        "crop_pct": config.crop_pct,
        "crop_mode": "squash",
        **channels,
    }
    return model, preprocessing


def load_teacher(config: Config, manifest: Manifest, preprocessing: dict[str, Any]) -> Classifier | None:
    """What config.teacher names, if it may teach this run.

    Hinton et al. 2015; on the same view of a film as the student, as Beyer et al. 2022 found best.

    Raises:
        DataError: it is no bundle, was trained on another split (so that it may know films that are validated on
            here), or its labels or preprocessing are not this run's.
    """
    if config.teacher is None:
        return None
    try:
        teacher = Classifier.from_pretrained(f"local-dir:{config.teacher}")
    except BundleError as error:
        raise DataError(f"--teacher {config.teacher} cannot be loaded: {error}") from error
    its, ours = ({k: np.ravel(v).tolist() for k, v in p.items()} for p in (teacher.preprocessing, preprocessing))
    facts = {
        "manifest_sha256": (teacher.training.get("manifest_sha256"), manifest.sha256),
        "label_names": (teacher.label_names, manifest.label_names),
        "preprocessing": (its, ours),
    }
    for name, (theirs, expected) in facts.items():
        if theirs != expected:
            raise DataError(f"--teacher {config.teacher}: its {name} is {theirs}; this run needs {expected}.")
    return teacher


def training_films(
    config: Config, manifest: Manifest, roots: list[Path], preprocessing: dict[str, Any], *, views: int = 1
) -> FilmDataset:
    """The films trained on, augmented as the config says."""
    mean, std = preprocessing["mean"], preprocessing["std"]
    augment = train_transform(config.train_size, mean, std, config.augment, crop_pct=config.crop_pct)
    films, apply = manifest.split("train"), partial(_on_pixels, augment, config.in_chans)
    return FilmDataset(films, roots, manifest.label_names, apply, seed=config.seed, views=views)


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


def save_bundle(
    model: nn.Module,
    folder: Path,
    label_names: tuple[str, ...],
    preprocessing: dict[str, Any],
    provenance: dict[str, Any],
    *,
    temperature: float = 1.0,
    operating_point: dict[str, float] | None = None,
) -> None:
    """Write a bundle. Unless calibration is given, the network's own probabilities and a threshold of 0.5 are used."""
    point = Point.model_validate(operating_point or {"threshold": 0.5, "uncertain_log_odds": 0.0})
    description = Description(
        schema_version=SCHEMA_VERSION,
        temperature=temperature,
        operating_points={"balanced": point},
        default_operating_point="balanced",
        training=provenance,
    )
    write_bundle(folder, model, label_names, preprocessing, description)


def write_log(histories: dict[int, list[Row]], folder: Path) -> None:
    """Write log.csv, a row an epoch, and curves.png: loss and accuracy of training and validation; by seed."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["seed", *next(iter(histories.values()))[0]])
    writer.writeheader()
    writer.writerows({"seed": seed} | row for seed, history in histories.items() for row in history)
    _write_atomically(folder / "log.csv", lambda path: path.write_text(text.getvalue(), newline=""))

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    parts = (("train", "training (augmented)", "C0"), ("val", "validation (weight average)", "C1"))
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part, label, colour in parts:
            for i, history in enumerate(histories.values()):
                points = [row["epoch"] for row in history], [row[f"{part}_{name}"] for row in history]
                axes.plot(*points, ".-", color=colour, alpha=0.8, label=None if i else label)
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    _write_atomically(folder / "curves.png", lambda path: figure.savefig(path, format="png", dpi=110))


def read_config(run: Path) -> Config:
    """The config that a run was started with."""
    values = json.loads((run / "config.json").read_text())
    values |= {"data": tuple(values["data"]), "out": run, "augment": Augmentation(**values["augment"])}
    values |= {name: Path(values[name]) for name in ("manifest", "teacher") if values.get(name)}
    return Config(**values)


def _run_config(config: Config) -> Config:
    """The config to run: what was given for a new run, what was stored for a resumed one."""
    if config.resume:
        if not (config.out / "config.json").is_file():
            raise DataError(f"--resume: {config.out} holds no run (no config.json). Leave --resume out to start one.")
        return replace(read_config(config.out), resume=True, workers=config.workers)
    for name, least in (("crop_pct", 0.1), ("distillation", 0.0)):
        if not least <= getattr(config, name) <= 1:
            raise DataError(f"{name} is {getattr(config, name)}; expected a share from {least:g} to 1.")
    if not config.data:
        raise DataError("No data: give --data DIR (Kaggle's layout), kaggle:owner/name or hf-dataset:owner/name.")
    if (config.out / "last.pt").exists():
        raise DataError(f"{config.out} holds a run already. Add --resume to continue it or choose another --out.")
    data = tuple(s if ":" in s and not Path(s).exists() else str(Path(s).resolve()) for s in config.data)
    return replace(config, data=data)


def _run_manifest(config: Config, roots: list[Path]) -> Manifest:
    """The run's own manifest if it has one, else the one asked for, else a new one; the first two are checked."""
    own = config.out / "manifest.csv"
    given = own if config.resume and own.is_file() else config.manifest
    if given:
        return Manifest.read(given, roots)
    return build_manifest(roots, val_fraction=config.val_fraction, seed=config.split_seed)


def soft_targets(config: Config, label_names: tuple[str, ...]) -> Tensor:
    """Row k is the distribution (K,) that a film labelled k is fitted to."""
    soft = torch.eye(len(label_names))
    if len(label_names) == 3:
        one, other = label_names.index("BACTERIAL"), label_names.index("VIRAL")
        swapped = soft[:, [other if k == one else one if k == other else k for k in range(3)]]
        soft = (1 - config.subtype_smoothing) * soft + config.subtype_smoothing * swapped
    return (1 - config.label_smoothing) * soft + config.label_smoothing / len(label_names)


def _on_pixels(transform: v2.Transform, channels: int, radiograph: Radiograph) -> Tensor:
    pixels = torch.tensor(radiograph.pixels)[None]  # (1, H, W)
    image: Tensor = transform(pixels.expand(channels, -1, -1))  # (C, size, size)
    return image


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


def _softmax(logits: np.ndarray) -> np.ndarray:
    return F.softmax(torch.from_numpy(logits), dim=1).numpy()


def _validation_figures(logits: np.ndarray, labels: np.ndarray, label_names: tuple[str, ...]) -> Row:
    probabilities = _softmax(logits)
    pneumonia = binary_probability(probabilities, label_names)
    return {
        "val_loss": float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))),
        "val_accuracy": float((decide(probabilities, label_names, 0.5) == labels).mean()),
        "val_auroc": float(roc_auc_score(labels != label_names.index("NORMAL"), pneumonia)),
    }


def _provenance(config: Config, manifest: Manifest, history: list[Row], teacher: Classifier | None) -> dict[str, Any]:
    # Where a run was, or that it was broken off, makes no difference to what came of it.
    elsewhere = ("data", "out", "resume", "manifest", "workers", "calibrate", "seed")
    recipe = {name: value for name, value in asdict(config).items() if name not in elsewhere}
    recipe["init"] = Path(config.init).name
    recipe["teacher"] = teacher and teacher.revision
    run = {
        "seed": config.seed,
        "epochs": len(history),
        "best": min(history, key=lambda row: row["val_loss"]),
        "seconds": round(sum(row["seconds"] for row in history), 1),
        "peak_memory_gib": round(_peak_memory() / 2**30, 2),
    }
    return {
        "recipe": recipe,
        "manifest_sha256": manifest.sha256,
        "films": {split: dict(Counter(f.label for f in manifest.split(split))) for split in ("train", "val")},
        "patient_groups": {split: len({f.group for f in manifest.split(split)}) for split in ("train", "val")},
        "runs": [run],
        "versions": {
            "python": platform.python_version(),
            **{m.__name__: m.__version__ for m in (torch, timm, accelerate)},
        },
    }


def _peak_memory() -> int:
    """Most bytes that this process and the largest of its data loading processes have held."""
    kibibytes = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return 1024 * sum(kibibytes)


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    temporary.replace(path)


def main() -> None:
    try:
        fit(tyro.cli(Config, description=__doc__))
    except DataError as error:
        raise SystemExit(f"train.fit: {error}") from None


if __name__ == "__main__":
    main()
