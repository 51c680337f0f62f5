"""Long description for the package index: README.md without the Space's front matter and with absolute addresses.

Everything else is in pyproject.toml.
"""

import re
from pathlib import Path

from setuptools import setup

REPOSITORY = "https://github.com/pneumocam/pneumocam"


def long_description(readme: str) -> str:
    """`readme` without its front matter; its relative links and pictures point to the repository."""
    text = re.sub(r"\A---\n.*?\n---\n+", "", readme, flags=re.DOTALL)
    text = re.sub(r"(!\[[^\]]*\]\()(?!https?:)", rf"\g<1>{REPOSITORY}/raw/main/", text)
    return re.sub(r"((?<!!)\[[^\]]*\]\()(?!https?:|#)", rf"\g<1>{REPOSITORY}/blob/main/", text)


if __name__ == "__main__":
    setup(
        long_description=long_description(Path(__file__).with_name("README.md").read_text(encoding="utf-8")),
        long_description_content_type="text/markdown",
    )
