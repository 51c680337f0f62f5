"""timm without PyTorch's compiler: its import takes longer than PyTorch's own, and no prediction uses it.

torchvision, which timm needs, imports `torch._dynamo.utils` for one function of `roi_align`. timm calls
`torch.compiler.disable` for parts of NaFlexViT, and that imports the compiler as well. During the import of timm, both
are replaced by functions that import the compiler when they are called. Where versions of these libraries do not allow
this, timm is imported as usual.
"""

import importlib
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from types import ModuleType
from typing import Any

import torch

_UTILS = "torch._dynamo.utils"


def _of_the_compiler(name: str) -> Any:
    """A function of `torch._dynamo.utils`, imported now."""
    if name.startswith("__"):  # Python asks a module for such names during an import
        raise AttributeError(name)
    if isinstance(sys.modules.get(_UTILS), _StandIn):
        del sys.modules[_UTILS]
    return getattr(importlib.import_module(_UTILS), name)


class _StandIn(ModuleType):
    """`torch._dynamo.utils` until a function of it is called."""

    def is_compile_supported(self, device_type: Any) -> Any:
        return _of_the_compiler("is_compile_supported")(device_type)

    def __getattr__(self, name: str) -> Any:
        return _of_the_compiler(name)


def _disabled_when_called(function: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.compiler.disable`, applied at each call."""

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        disable: Any = torch.compiler.disable  # it has no annotations
        return disable(function)(*arguments, **named)

    return call


def _import_light() -> None:
    compiler = vars(torch.compiler)
    disable = compiler["disable"]
    sys.modules[_UTILS] = _StandIn(_UTILS)
    compiler["disable"] = _disabled_when_called
    try:
        importlib.import_module("timm.data")
    finally:
        compiler["disable"] = disable
        if isinstance(sys.modules.get(_UTILS), _StandIn):
            del sys.modules[_UTILS]


if not {"timm", "torchvision", "torch._dynamo"} & sys.modules.keys():
    with suppress(Exception):  # the imports below then work as usual, or say what is wrong
        _import_light()

import timm  # noqa: E402
import timm.data  # noqa: E402

__all__ = ["timm"]
