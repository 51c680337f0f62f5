"""Predictions are the same however timm is imported, and the compiler works after the light import."""

import subprocess
import sys

import pytest

from tests.conftest import EXAMPLES

LOADED = 'print(*sorted({"torch._dynamo", "sympy", "matplotlib", "captum"} & sys.modules.keys()))'
PREDICT = """
from pneumocam import Classifier, predict

prediction = predict(Classifier.from_pretrained(), sys.argv[1])
print(prediction.to_dict()["probabilities"])
"""
EXPLAIN = "\nprint(prediction.explain().cam.tobytes().hex())"
# The first import of this module fails, as it might with another version of torchvision.
BROKEN = """
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision.ops.roi_align":
            sys.meta_path.remove(self)
            raise RuntimeError(name)

sys.meta_path.insert(0, Broken())
"""
AFTERWARDS = """
import torch

from pneumocam.light_timm import timm

assert "torch._dynamo.utils" not in sys.modules
boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
import torchvision

print(*torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), [boxes], 1).shape)
print(sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu"))  # asks the compiler

import torch._dynamo.utils

print(torch._dynamo.utils.is_compile_supported("cpu"), torch.compiler.disable(len)("abc"))
network = timm.create_model("test_resnet").eval()
batch = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    print(torch.equal(torch.compile(network, backend="eager")(batch), network(batch)))
"""


def output(code: str, *arguments: str) -> list[str]:
    command = [sys.executable, "-W", "error", "-c", "import sys\n" + code, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.slow
def test_a_prediction_needs_no_compiler_and_is_the_same_where_timm_is_imported_as_usual() -> None:
    example = str(EXAMPLES[0])
    light = output(PREDICT + LOADED + EXPLAIN, example)
    assert light[1] == ""
    usual = output("import timm\n" + PREDICT + LOADED + EXPLAIN, example)
    assert "torch._dynamo" in usual[1]
    fallen_back = output(BROKEN + PREDICT + LOADED + EXPLAIN, example)
    assert "torch._dynamo" in fallen_back[1]
    assert light[::2] == usual[::2] == fallen_back[::2]


@pytest.mark.slow
def test_torchvision_and_the_compiler_work_afterwards() -> None:
    assert output(AFTERWARDS) == ["1 1 1 1", "True", "True 3", "True"]
