"""The product runs with what requirements.txt installs, without what only training and tests need."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPTIONAL = {
    "onnx_ir": "extra onnx",
    "onnxruntime": "extra onnx",
    "pillow_heif": "extra heic",
    "ray": "extra scale",
    "spaces": "of a Space",
}


@pytest.mark.slow
def test_the_product_imports_only_what_requirements_txt_installs() -> None:
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    distributions = packages_distributions()
    modules = {
        name.partition(".")[0]
        for path in [*(ROOT / "pneumocam").rglob("*.py"), ROOT / "app.py", ROOT / "handler.py"]
        for node in ast.walk(ast.parse(path.read_text()))
        for name in imported(node)
    } - {"pneumocam", *sys.stdlib_module_names}
    assert {"torch", "timm", "gradio", "scipy"} <= modules
    missing = {
        module
        for module in modules
        if not {re.sub(r"[_.]", "-", name).lower() for name in distributions.get(module, [])} & pinned
    }
    assert missing == set(OPTIONAL)


def imported(node: ast.AST) -> list[str]:
    """The modules that a statement imports, without relative imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
