"""The page and the API: drop chest radiographs, get calibrated probabilities and labelled Grad-CAM overlays.

python app.py, or `make app`. PNEUMOCAM_MODEL=hf-hub:owner/name@revision serves another model than the bundled one; if
it does not come within PNEUMOCAM_START_TIMEOUT seconds (30), an earlier download or the bundled model answers, and the
page says so.
"""

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import server

os.environ["GRADIO_TEMP_DIR"] = server.uploads.claim()  # Gradio looks at it once, when it is imported
try:
    import spaces  # on Spaces only; before PyTorch, which it changes on ZeroGPU
except ImportError:
    spaces = None
import gradio as gr
from gradio.utils import get_upload_folder
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

import view
from api import MAX_FILMS, Service, add_endpoints
from pneumocam import Classifier, Prediction, Radiograph, load_or_fall_back, load_radiograph, targets
from pneumocam.batching import Batcher, without_python
from pneumocam.report import report
from pneumocam.service.doors import Doors
from pneumocam.service.engine import Engine
from pneumocam.service.guard import OWN as NEW
from pneumocam.service.guard import Guard
from pneumocam.service.http import application
from pneumocam.service.limits import LIMITS

if spaces:
    # ZeroGPU stops a Space that has no such function. Nobody calls this one: the network answers on the CPU sooner than
    # a GPU could be had, and so no visitor's quota is spent.
    spaces.GPU(lambda: None)

HERE = Path(__file__).parent
WEB = HERE / "web"
PASSES = min(4, os.cpu_count() or 1)  # of the network at once; with more, Python itself is what they wait for
SCRIPTS = ("page.js", "film.js", "viewer.js", "table.js")  # in this order
TEXTS: dict[str, dict[str, str]] = json.loads((WEB / "i18n.json").read_text(encoding="utf-8"))
TEXT = gr.I18n(**TEXTS)
SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Consolas", "monospace"]
LOOK: dict[str, Any] = {  # what `launch` has to be given for the page to look and speak as it should
    "theme": gr.themes.Base(primary_hue="teal", neutral_hue="slate", font=SANS, font_mono=MONO),
    "css": (WEB / "page.css").read_text(encoding="utf-8"),
    "head": "".join(f"<script>{(WEB / name).read_text(encoding='utf-8')}</script>" for name in SCRIPTS),
    "i18n": TEXT,
}
Outputs = tuple[Any, Any, Any, Any]  # viewer, table, films, upload


class Desk:
    """What the page asks of Python. An event carries what a browser says, so nothing in it is taken for granted."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.answer = Batcher(without_python(classifier), passes=PASSES)

    def read(self, uploads: list[dict[str, Any]] | None) -> Iterator[Outputs]:
        """Films that were uploaded; Gradio has checked their paths."""
        yield from self._show([(x["orig_name"] or Path(x["path"]).name, x["path"]) for x in uploads or ()])

    def pick(self, event: gr.EventData) -> Iterator[Outputs]:
        """One of the examples."""
        truths = view.truths()
        file = _one_of(event.file, tuple(truths))
        yield from self._show([(file, view.example_path(file))], truth=truths[file])

    def _show(self, files: list[tuple[str, str]], truth: str | None = None) -> Iterator[Outputs]:
        one = len(files) == 1
        yield gr.skip() if one else None, None, [], None  # so that the next films can be dropped already
        films: list[view.Film] = []
        table = {"total": min(len(files), MAX_FILMS), "left_out": max(len(files) - MAX_FILMS, 0)}
        for name, path in files[:MAX_FILMS]:
            prediction = view.answered(self.classifier, self.answer, path)
            films.append(view.Film(path, view.row(self.classifier, name, prediction)))
            if one:
                yield self._result(films, 0, prediction.radiograph) | {"truth": truth}, None, films, gr.skip()
            else:
                rows = {"rows": [film.row for film in films], "done": len(films) == table["total"]}
                yield gr.skip(), table | rows, films, gr.skip()

    def _result(self, films: list[view.Film], index: int, radiograph: Radiograph | None) -> dict[str, Any]:
        return {
            "row": films[index].row,
            "index": index,
            "film": view.picture(radiograph) if radiograph else None,
            "turn": secrets.token_hex(8),  # or the browser would not notice that the same film came again
        }

    def open(self, event: gr.EventData, films: list[view.Film]) -> dict[str, Any]:
        """One row of the table in full; the network does not run."""
        film = _film(films, event.index)
        radiograph = load_radiograph(film.path) if "image" in film.row else None
        return self._result(films, event.index, radiograph) | {"opened": True}

    def report(self, event: gr.EventData, films: list[view.Film]) -> str:
        """The report of one film as a file."""
        film = _film(films, event.index)
        kind: Any = _one_of(event.format, ("pdf", "png"))
        page = report(
            self._again(film).at(self._point(event)),
            target=_one_of(event.explained, targets(self.classifier)),
            opacity=_share(event.opacity),
            colour_map=_one_of(event.colours, view.COLOUR_MAPS),
            format=kind,
        )
        path = _path(f"pneumocam-report.{kind}")
        path.write_bytes(page)
        return str(path)

    def take(self, event: gr.EventData, films: list[view.Film]) -> str:
        """The table as CSV, or with overlays and predictions as ZIP."""
        if not films:
            raise _gone()
        rows = [film.row for film in films]
        if _one_of(event.action, ("csv", "zip")) == "csv":
            path = _path("pneumocam.csv")
            path.write_text(view.table(rows, self._point(event)), encoding="utf-8", newline="")
            return str(path)
        for i in range(len(films)):
            _film(films, i)
        path = _path("pneumocam.zip")
        view.archive(
            path,
            rows,
            (self._again(film) for film in films),
            self._point(event),
            opacity=_share(event.opacity),
            colour_map=_one_of(event.colours, view.COLOUR_MAPS),
        )
        return str(path)

    def _again(self, film: view.Film) -> Prediction:
        return view.answered(self.classifier, self.answer, film.path)

    def _point(self, event: gr.EventData) -> str:
        return _one_of(event.point, tuple(self.classifier.operating_points))


def _film(films: list[view.Film], index: Any) -> view.Film:
    """One of the session's films, if it is still here."""
    if index not in range(len(films)) or not Path(films[index].path).exists():
        raise _gone()
    film: view.Film = films[index]
    return film


def _gone() -> gr.Error:
    message = "The film is not here any more: it was kept for an hour. Drop it again."
    return gr.Error(message, title="upload_gone", print_exception=False)


def _one_of(value: Any, known: tuple[str, ...]) -> str:
    if value not in known:
        raise _refusal(value, f"one of {', '.join(known)}")
    return str(value)


def _share(value: Any) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise _refusal(value, "a number from 0 to 1")
    return float(value)


def _refusal(value: Any, expected: str) -> gr.Error:
    return gr.Error(f"{value!r:.200} came; expected {expected}.", title="bad_request", print_exception=False)


def _path(name: str) -> Path:
    """Where to write a file to be taken away: among the uploads, as which it is deleted."""
    folder = Path(get_upload_folder(), secrets.token_hex(16))
    folder.mkdir(parents=True)
    return folder / name


def build(classifier: Classifier, notice: str | None = None) -> gr.Blocks:
    """The page over one model, and the endpoints for programs.

    Args:
        classifier: what answers.
        notice: as in `pneumocam.classifier.Loaded`; shown on top.
    """
    desk = Desk(classifier)
    facts = view.facts(classifier)
    examples = view.examples(classifier)
    wrong = [x for x in examples if x["label"] != x["truth"]][:4]

    with Service(desk.answer, title="PneumoCAM", analytics_enabled=False, delete_cache=(600, 3600)) as demo:
        films = gr.State([])  # list[view.Film]: the last upload's
        with gr.Row(elem_id="top"):
            gr.HTML("<h1>PneumoCAM</h1>", apply_default_css=False, elem_id="brand")
            gr.Markdown(TEXT("disclaimer"), elem_id="disclaimer")
        gr.Markdown(TEXT("tagline"), elem_id="tagline")
        if notice:
            gr.Markdown(f"**{TEXT('note')}** {notice}", elem_id="notice")
        with gr.Row(elem_id="main"):
            with gr.Column(scale=1, min_width=280, elem_id="entry"):
                upload = gr.File(label=TEXT("drop_label"), file_count="multiple", height=180, elem_id="upload")
                gr.Markdown(TEXT("drop_formats"), elem_classes="aside")
                gr.Markdown(TEXT("examples_title"), elem_classes="heading")
                galleries = [_part("gallery", films=[x for x in examples if x["gallery"]], elem_id="examples")]
                gr.Markdown(TEXT("examples_note"), elem_classes="aside")
            with gr.Column(scale=3, min_width=280, elem_id="results"):
                table = _part("table", facts=facts, elem_id="table")
                viewer = _part("viewer", facts=facts, elem_id="viewer")
        with gr.Accordion(TEXT("read_title"), open=False, elem_id="read"):
            gr.Markdown(TEXT("read_text"))
            if wrong:
                gr.Markdown(TEXT("failures_title"), elem_classes="heading")
                galleries.append(_part("gallery", films=wrong, wrong=True, elem_id="failures"))
        _part("model", facts=facts, elem_id="model")
        saved = gr.File(visible="hidden", interactive=False)
        add_endpoints(demo)

        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": 8}
        outputs = [viewer, table, films, upload]
        at_once = quiet | {"trigger_mode": "multiple"}
        begin = "async (files) => { await pneumocam.begin(files?.length > 1); return [files]; }"
        readings = [upload.upload(desk.read, upload, outputs, js=begin, preprocess=False, **at_once)]
        begin = "async () => { await pneumocam.begin(); return []; }"
        readings += [gallery.ask(desk.pick, None, outputs, js=begin, **at_once) for gallery in galleries]
        for reading in readings:
            reading.success(None, None, None, js="() => pneumocam.end()", **quiet)
            reading.failure(None, None, None, js="() => { pneumocam.failed(); pneumocam.end(); }", **quiet)
        events = [table.ask(desk.open, films, viewer, **at_once)]
        for part, function in ((table, desk.take), (viewer, desk.report)):
            made = part.make(function, films, saved, **quiet | {"concurrency_limit": 2, "concurrency_id": "files"})
            made.success(None, saved, None, js="(file) => pneumocam.made(file)", **quiet)
            events.append(made)
        for event in events:
            event.failure(None, None, None, js="() => pneumocam.failed()", **quiet)
    blocks: gr.Blocks = demo
    return blocks


def _part(name: str, **props: Any) -> gr.HTML:
    """A part of the page that web/ draws; it asks Python by its events `ask` and `make`."""
    return gr.HTML(
        html_template="<div></div>",
        js_on_load=f"pneumocam.{name}(element, props, watch, (x) => trigger('ask', x), (x) => trigger('make', x))",
        apply_default_css=False,
        **props,
    )


class Front:
    """The plain HTTP doors, in front of the page."""

    def __init__(self, app: ASGIApp, guard: ASGIApp) -> None:
        self.app, self.guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "/")
        old = path in ("/", "/healthz") or path.startswith("/gradio_api") or not NEW.fullmatch(path)
        await (self.app if old else self.guard)(scope, receive, send)


def main() -> None:
    """Serve on 0.0.0.0:7860, or where GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say."""
    timeout = server.seconds("PNEUMOCAM_START_TIMEOUT", 30)
    loaded = load_or_fall_back(os.environ.get("PNEUMOCAM_MODEL") or None, timeout=timeout)
    demo = build(loaded.classifier, server.start(loaded.notice))
    model = {"id": loaded.classifier.id, "revision": loaded.classifier.revision}
    doors = Doors(Engine(loaded.classifier), notice=loaded.notice)
    own = application(doors)
    kwargs = server.app_kwargs(demo, model)
    kwargs["middleware"].insert(0, Middleware(Front, guard=Guard(own, own, LIMITS)))
    demo.queue(default_concurrency_limit=2, max_size=64, api_open=False).launch(
        **LOOK,
        allowed_paths=[str(HERE / "examples")],
        max_file_size="20mb",
        server_name=os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0"),  # noqa: S104 - a Space and a container need it
        footer_links=["api"],
        run_history=False,
        enable_monitoring=False,
        mcp_server=True,
        state_session_capacity=1000,  # pages
        app_kwargs=kwargs,
        ssr_mode=False,  # Spaces would turn it on: another page than the one that is tested
    )


if __name__ == "__main__":
    main()
