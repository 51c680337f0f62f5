"""Hooks of mkdocs: README.md as the first page, generated JSON Schemas, pictures and links from outside docs/."""

import json
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel

from pneumocam.bundle import Description
from pneumocam.service.api import PredictionAnswer

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/pneumocam/pneumocam/blob/main"
PICTURES = ("model/*.png", "benchmarks/*.png")
SCHEMAS: dict[str, type[BaseModel]] = {"prediction": PredictionAnswer, "pneumocam": Description}
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n+", re.DOTALL)  # the Space's settings
LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?!https?:|#)(?P<target>[^)#]+)(?P<anchor>#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and files that do not lie in docs/."""
    readme = FRONT_MATTER.sub("", (ROOT / "README.md").read_text(encoding="utf-8"))
    files.append(File.generated(config, "index.md", content=LINK.sub(_from_root, readme)))
    for path in (path for pattern in PICTURES for path in sorted(ROOT.glob(pattern))):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for name, model in SCHEMAS.items():
        files.append(File.generated(config, f"{name}.schema.json", content=_schema(model)))
    return files


def on_page_markdown(markdown: str, files: Files, **_: object) -> str:
    """Insert the schemas. Let links that leave docs/ point to the repository, except to pictures, which are copied."""

    def link(match: re.Match[str]) -> str:
        target = match["target"]
        if not target.startswith("../"):
            return match[0]
        name = target.removeprefix("../")
        address = name if files.get_file_from_path(name) else f"{REPOSITORY}/{name}"
        return f"{match['picture']}[{match['text']}]({address}{match['anchor'] or ''})"

    for name, model in SCHEMAS.items():
        text = f"[Download]({name}.schema.json)\n\n```json\n{_schema(model)}\n```"
        markdown = markdown.replace(f"<!-- schema: {name} -->", text)
    return LINK.sub(link, markdown)


def _schema(model: type[BaseModel]) -> str:
    return json.dumps(model.model_json_schema(), indent=2)


def _from_root(match: re.Match[str]) -> str:
    """A link of README.md as it is written in docs/."""
    target = match["target"]
    target = target.removeprefix("docs/") if target.startswith("docs/") else f"../{target}"
    return f"{match['picture']}[{match['text']}]({target}{match['anchor'] or ''})"
