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
SCHEMAS: dict[str, tuple[type[BaseModel], str]] = {
    "prediction": (PredictionAnswer, "A prediction: from Python, command line, API, MCP tools and Inference Endpoint."),
    "pneumocam": (Description, "`pneumocam.json` of a bundle: calibration, operating points and provenance."),
}
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n+", re.DOTALL)  # the Space's settings
LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?!https?:|#)(?P<target>[^)#]+)(?P<anchor>#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and files that do not lie in docs/."""
    readme = FRONT_MATTER.sub("", (ROOT / "README.md").read_text(encoding="utf-8"))
    files.append(File.generated(config, "index.md", content=LINK.sub(_from_root, readme)))
    for path in (path for pattern in PICTURES for path in sorted(ROOT.glob(pattern))):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    page = ["# Schemas", "JSON Schemas, generated from the code. The running service has them in `/openapi.json` too."]
    for name, (model, text) in SCHEMAS.items():
        schema = json.dumps(model.model_json_schema(), indent=2)
        files.append(File.generated(config, f"{name}.schema.json", content=schema))
        page += [f"## {name}.schema.json", f"{text} [Download]({name}.schema.json)", f"```json\n{schema}\n```"]
    files.append(File.generated(config, "schemas.md", content="\n\n".join(page)))
    return files


def on_page_markdown(markdown: str, files: Files, **_: object) -> str:
    """Let links that leave docs/ point to the repository, except those to pictures, which are part of the site."""

    def link(match: re.Match[str]) -> str:
        target = match["target"]
        if not target.startswith("../"):
            return match[0]
        name = target.removeprefix("../")
        address = name if files.get_file_from_path(name) else f"{REPOSITORY}/{name}"
        return f"{match['picture']}[{match['text']}]({address}{match['anchor'] or ''})"

    return LINK.sub(link, markdown)


def _from_root(match: re.Match[str]) -> str:
    """A link of README.md as it is written in docs/."""
    target = match["target"]
    target = target.removeprefix("docs/") if target.startswith("docs/") else f"../{target}"
    return f"{match['picture']}[{match['text']}]({target}{match['anchor'] or ''})"
