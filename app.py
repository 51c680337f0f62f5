"""The page and the API: drop a chest radiograph, get calibrated probabilities and a labelled Grad-CAM overlay.

python app.py, or `make app`. PNEUMOCAM_MODEL=hf-hub:owner/name@revision serves another model than the bundled one; if
it does not come within PNEUMOCAM_START_TIMEOUT seconds (30), an earlier download or the bundled model answers, and the
page says so.
"""

import csv
import os
from pathlib import Path
from typing import Any

try:
    import spaces  # on Spaces only; before PyTorch, which it changes on ZeroGPU
except ImportError:
    spaces = None
import gradio as gr
from PIL import Image

from api import ANSWERED, Service, add_endpoints
from pneumocam import Classifier, load_or_fall_back, targets
from pneumocam.batching import Batcher

if spaces:
    # ZeroGPU stops a Space that has no such function. Nobody calls this one: the network answers on the CPU sooner than
    # a GPU could be had, and so no visitor's quota is spent.
    spaces.GPU(lambda: None)

HERE = Path(__file__).parent
INTRODUCTION = """
# PneumoCAM
Drop a **frontal chest radiograph of a child** and see how a small convolutional network reads it: normal, bacterial or
viral pneumonia, and where it looked. **For research and teaching only. Please do not use it for a diagnosis**: if you
are worried about somebody's lungs, a doctor is the right address.<br>
<small>JPEG, PNG (16 bit too), TIFF, BMP, WebP or DICOM, up to 20 MB.</small>
"""
READING = """
**The probabilities** are calibrated on radiographs of patients that the network had not seen, all from one hospital and
of children of one to five years. On other films they are a guess with the same look.

**The map** is Grad-CAM: bright means that the network's last features there spoke for the class named below the
picture. It shows what moved the network, not where disease is. It is coarse, it can be wrong, and it may light up
outside the lungs: that is worth knowing too.

**Your film** is deleted from this server within two hours and is never logged. Please take names out of it first.
"""
CSS = """
.gradio-container { max-width: min(1180px, 100vw) !important; margin: 0 auto; }
.gradio-container > .main { max-width: 100%; }
#notice { border-left: .3rem solid #d97706; padding: .4rem .8rem; }
#verdict h2 { margin: 0 0 .2em; }
#examples .grid-wrap { min-height: 0; }
#examples .caption-label { font-size: .7rem; padding: .1rem .3rem; }
#overlay img { max-height: 34rem; object-fit: contain; }
footer { opacity: .7; }
"""


def build(classifier: Classifier, notice: str | None = None) -> gr.Blocks:
    """The page over one model, and the endpoints for programs.

    Args:
        classifier: what answers.
        notice: as in `pneumocam.Loaded`; shown on top.
    """
    answer_film = Batcher(classifier)

    def predict_radiograph(image: str, target: str = ANSWERED) -> tuple[Image.Image, dict[str, float], dict[str, Any]]:
        """Classify a chest radiograph and show what the network looked at. Not a diagnosis.

        Args:
            image: JPEG, PNG, TIFF, BMP, WebP or DICOM file of one frontal chest radiograph, at most 20 MB.
            target: the class to explain: "the answered class", NORMAL, BACTERIAL, VIRAL or PNEUMONIA.

        Returns:
            The radiograph with its labelled Grad-CAM overlay, the calibrated probability of each class, and the whole
            prediction as JSON.
        """
        if not image:
            raise gr.Error("No image came. Send one file: JPEG, PNG, TIFF, BMP, WebP or DICOM.", print_exception=False)
        try:
            prediction = answer_film(image)
            overlay = prediction.overlay(None if target == ANSWERED else target)
        except ValueError as error:  # RadiographError among them
            raise gr.Error(str(error), print_exception=False) from None
        return overlay, dict(prediction.probabilities), prediction.to_dict()

    def explain_again(image: str | None, target: str) -> tuple[Any, Any, Any]:
        return predict_radiograph(image, target) if image else (None, None, None)

    def pick(event: gr.SelectData) -> str:
        path: str = films[event.index][0]
        return path

    def verdict(prediction: dict[str, Any] | None) -> str:
        return _verdict(prediction) if prediction else ""

    with Service(answer_film, title="PneumoCAM", analytics_enabled=False, delete_cache=(600, 3600)) as demo:
        gr.Markdown(INTRODUCTION)
        if notice:
            gr.Markdown(f"**Note on the model.** {notice}", elem_id="notice")
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                image = gr.File(label="Chest radiograph", height=190, elem_id="upload")
                target = gr.Dropdown([ANSWERED, *targets(classifier)], value=ANSWERED, label="Class to explain")
                films = _examples()
                gr.Markdown("Or try one of these <small>(Kermany et al., CC BY 4.0; labels of the dataset)</small>")
                example = gr.Gallery(
                    films,
                    label="Examples",
                    show_label=False,
                    columns=3,
                    height="auto",
                    object_fit="cover",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    elem_id="examples",
                )
            with gr.Column(scale=3, min_width=280):
                summary = gr.Markdown(elem_id="verdict")
                overlay = gr.Image(
                    label="What the network looked at",
                    show_label=False,
                    format="png",
                    type="pil",
                    interactive=False,
                    elem_id="overlay",
                    buttons=["download", "fullscreen"],
                )
                probabilities = gr.Label(label="Calibrated probabilities", elem_id="probabilities")
        with gr.Accordion("How to read this", open=False):
            gr.Markdown(READING)
        with gr.Accordion("The prediction as JSON", open=False):
            answer = gr.JSON(label="Prediction", show_label=False)
        gr.Markdown(f"Model `{classifier.id}`, revision `{classifier.revision}`.")

        results = [overlay, probabilities, answer]
        image.upload(predict_radiograph, [image, target], results, api_visibility="private")
        target.input(explain_again, [image, target], results, api_visibility="private")
        example.select(pick, None, image, api_visibility="private").then(
            explain_again, [image, target], results, api_visibility="private"
        )
        image.clear(lambda: (None, None, None), None, results, api_visibility="private")
        answer.change(verdict, answer, summary, api_visibility="private", show_progress="hidden")
        add_endpoints(demo)
    blocks: gr.Blocks = demo
    return blocks


def _verdict(prediction: dict[str, Any]) -> str:
    kind = {"NORMAL": "No sign of pneumonia found", "PNEUMONIA": "Looks like pneumonia"}.get(
        prediction["label"], f"Looks like {prediction['label'].lower()} pneumonia"
    )
    if prediction["status"] == "uncertain":
        return f"## Uncertain\nIf it had to choose: {kind[0].lower()}{kind[1:]}. {prediction['reason']['message']}"
    line = prediction["operating_point"]["threshold"]
    return (
        f"## {kind}\nP(pneumonia) is {prediction['p_pneumonia']:.1%}; this model calls pneumonia from {line:.0%} on. "
        "A network's answer, not a diagnosis."
    )


def _examples() -> list[tuple[str, str]]:
    """Paths and labels of the examples shown on the page."""
    with (HERE / "examples" / "examples.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["on_page"] == "yes"]
    return [(str(HERE / "examples" / row["file"]), row["label"]) for row in rows]


def main() -> None:
    """Serve on 0.0.0.0:7860, or where GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say."""
    timeout = float(os.environ.get("PNEUMOCAM_START_TIMEOUT") or 30)
    loaded = load_or_fall_back(os.environ.get("PNEUMOCAM_MODEL") or None, timeout=timeout)
    build(loaded.classifier, loaded.notice).queue(default_concurrency_limit=2, max_size=64, api_open=False).launch(
        theme=gr.themes.Soft(primary_hue="teal", neutral_hue="slate", font=["Inter", "system-ui", "sans-serif"]),
        css=CSS,
        allowed_paths=[str(HERE / "examples")],
        max_file_size="20mb",
        server_name=os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0"),  # noqa: S104 - a Space and a container need it
        footer_links=["api"],
        run_history=False,
        enable_monitoring=False,
        mcp_server=True,
        ssr_mode=False,  # Spaces would turn it on: another page than the one that is tested
    )


if __name__ == "__main__":
    main()
