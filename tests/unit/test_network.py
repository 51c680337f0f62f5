"""Fusing batch norms leaves what a network computes as it is."""

import pytest
import torch
from torch import Tensor, nn

from pneumocam.light_timm import timm
from pneumocam.network import fuse_batch_norms

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class _Shared(nn.Module):
    """The convolution feeds the batch norm and also the output, which would change if it were fused."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)

    def forward(self, images: Tensor) -> Tensor:
        features = self.convolution(images)
        return torch.cat([features, self.norm(features)], 1).mean((2, 3))


def with_statistics(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for name, values in network.named_buffers():
        if "running" in name:
            values.uniform_(0.5, 2, generator=generator)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("architecture", ["tf_efficientnet_lite0", "test_resnet"])
def test_batch_norms_become_part_of_the_convolutions(architecture: str) -> None:
    network = with_statistics(timm.create_model(architecture, num_classes=3))
    expected = network(IMAGES)
    fused = fuse_batch_norms(network, IMAGES[:1])
    assert not [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]
    torch.testing.assert_close(fused(IMAGES), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_a_network_whose_logits_would_change_is_left_as_it_was() -> None:
    network = with_statistics(_Shared())
    expected, modules = network(IMAGES), dict(network.named_modules())
    weights = {name: values.clone() for name, values in network.state_dict().items()}
    same = fuse_batch_norms(network, IMAGES[:1])
    assert dict(same.named_modules()) == modules
    assert torch.equal(same(IMAGES), expected)
    assert {name: values.tolist() for name, values in same.state_dict().items()} == {
        name: values.tolist() for name, values in weights.items()
    }
