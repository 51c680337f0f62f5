"""A bundle's config and weights -> a timm network in eval mode, with its batch norms fused into its convolutions."""

import threading
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pneumocam.bundle import BundleError, NetworkConfig
from pneumocam.light_timm import timm


class _OneThread:
    """Makes PyTorch compute on the calling thread alone.

    The last digits depend on the number of threads. Small networks gain little from several, and threads that wait for
    each other use up the processor.

    `torch.set_num_threads` also affects threads that are new to PyTorch, so the old value is read only while no pass
    runs.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._threads = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._threads = torch.get_num_threads()
            self._inside += 1
            torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            torch.set_num_threads(self._threads)


one_thread = _OneThread()


def build_network(config: NetworkConfig, folder: Path) -> Any:
    """The network of a bundle: `(B, C, H, W)` float32 -> `(B, K)` logits.

    Args:
        config: config.json of the bundle.
        folder: the bundle; model.safetensors is read from it.

    Raises:
        BundleError: timm cannot build the network, the weights do not belong to it, or it is no CNN.
    """
    # A model that is loaded in inference mode could not be explained later.
    with torch.inference_mode(False), one_thread:
        return _build(config, folder)


def _build(config: NetworkConfig, folder: Path) -> Any:
    network = _create(config, folder)
    _load_weights(network, folder / "model.safetensors", config.architecture)
    network = network.float().eval().requires_grad_(False).to(memory_format=torch.channels_last)
    _check_shapes(network, config, folder)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, *config.pretrained_cfg.input_size, generator=generator, dtype=torch.float32)
    return fuse_batch_norms(network, images)


def _create(config: NetworkConfig, folder: Path) -> Any:
    # Only names in timm's registry: with a prefix such as hf-hub: timm would download another model.
    if not timm.is_model(config.architecture):
        raise BundleError(
            f"{folder / 'config.json'}: architecture is {config.architecture!r}; expected the name of a model of timm "
            f"{timm.__version__}."
        )
    arguments = config.model_args or {}
    try:
        return timm.create_model(
            config.architecture,
            # Given here, so that the bundle's model_args cannot make timm download or unpickle anything.
            pretrained=False,
            pretrained_cfg=None,
            checkpoint_path=None,
            **{**arguments, "num_classes": config.num_classes, "in_chans": config.pretrained_cfg.input_size[0]},
        )
    except Exception as error:  # every architecture has its own exceptions for arguments it does not take
        raise BundleError(
            f"{folder / 'config.json'}: timm cannot build {config.architecture} with model_args {arguments!r}: {error}"
        ) from error


def _load_weights(network: nn.Module, path: Path, architecture: str) -> None:
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path} is damaged: expected safetensors, found {error}. Fetch the bundle again.") from None
    expected = network.state_dict()
    if unmatched := sorted(expected.keys() ^ state.keys()):
        raise BundleError(
            f"{path} does not belong to {architecture}: expected {len(expected)} tensors, found {len(state)}; the "
            f"first that only one of them has is {unmatched[0]}."
        )
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise BundleError(f"{path}: {name} is {tuple(tensor.shape)}; expected {tuple(expected[name].shape)}.")
        if not bool(torch.isfinite(tensor).all()):
            raise BundleError(f"{path}: {name} has values that are not finite. Fetch or train the bundle again.")
    network.load_state_dict(state)


def _check_shapes(network: Any, config: NetworkConfig, folder: Path) -> None:
    """Grad-CAM needs `(B, D, h, w)` features, and the labels need as many logits."""
    place, name = folder / "config.json", config.architecture
    channels, height, width = config.pretrained_cfg.input_size
    try:
        with torch.no_grad():
            features = network.forward_features(torch.zeros(1, channels, height, width, dtype=torch.float32))
            logits = network.forward_head(features)
    except Exception as error:
        raise BundleError(f"{place}: {name} takes no input of {channels}x{height}x{width}: {error}") from error
    if not isinstance(features, Tensor) or features.ndim != 4 or features.shape[1] != network.num_features:
        raise BundleError(
            f"{place}: {name} gives features that are no (B, {network.num_features}, h, w) map: expected a CNN, since "
            "Grad-CAM needs one."
        )
    if logits.shape != (1, config.num_classes):
        raise BundleError(
            f"{place}: {name} gives logits of shape {tuple(logits.shape)}; expected (1, {config.num_classes})."
        )


@torch.no_grad()
def fuse_batch_norms(network: Any, images: Tensor) -> Any:
    """The same function in fewer steps: each batch norm becomes part of the convolution before it.

    Args:
        network: a timm model in eval mode; it is changed.
        images: `(B, C, H, W)` float32. They show which convolution feeds which batch norm, and whether the logits
            stay the same within rounding.

    Returns:
        The network; as it was, if its logits would change.
    """
    outputs: list[tuple[Tensor, nn.Conv2d]] = []
    pairs: dict[str, tuple[nn.BatchNorm2d, nn.Conv2d, Tensor, Tensor | None]] = {}

    def note_convolution(module: nn.Conv2d, _: Any, output: Tensor) -> None:
        outputs.append((output, module))

    def note_batch_norm(name: str, module: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        for output, convolution in outputs:
            if output is inputs[0]:
                pairs[name] = module, convolution, convolution.weight, convolution.bias

    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(note_convolution))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(partial(note_batch_norm, name)))
    before = network(images)
    for hook in hooks:
        hook.remove()
    for name, (norm, convolution, weight, bias) in pairs.items():
        mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            weight, bias, mean, variance, norm.eps, norm.weight, norm.bias
        )
        # timm's batch norms contain their activation.
        network.set_submodule(
            name, nn.Sequential(*(part for part in norm.children() if not isinstance(part, nn.Identity)))
        )
    network.requires_grad_(False).to(memory_format=torch.channels_last)
    if not torch.allclose(before, network(images), rtol=1e-3, atol=1e-3 * float(before.abs().max())):
        for name, (norm, convolution, weight, bias) in pairs.items():
            convolution.weight, convolution.bias = weight, bias
            network.set_submodule(name, norm)
    return network
