"""Draw docs/result.jpg, README's picture: an example, its overlay and its probabilities."""

import matplotlib.pyplot as plt

from docs.figures import EXAMPLES, ROOT, bundled
from pneumocam import load_radiograph, predict


def main() -> None:
    radiograph = load_radiograph(ROOT / "examples" / EXAMPLES[0])
    prediction = predict(bundled(), radiograph)
    figure, (image, overlay, bars) = plt.subplots(
        1, 3, figsize=(12, 3.6), width_ratios=[1.25, 1.25, 1], layout="constrained"
    )
    image.imshow(radiograph.pixels, cmap="gray")
    image.set_title("radiograph")
    overlay.imshow(prediction.overlay())
    overlay.set_title(f"Grad-CAM of {prediction.label}")
    for panel in (image, overlay):
        panel.axis("off")
        panel.set_anchor("N")
    names, values = list(prediction.probabilities), list(prediction.probabilities.values())
    drawn = bars.barh(names, values, color=["#4c72b0", "#c44e52", "#dd8452"])
    bars.bar_label(drawn, [f"{value:.1%}" for value in values], padding=4)
    bars.set(xlim=(0, 1.2), xticks=[0, 0.5, 1], title="calibrated probabilities")
    bars.invert_yaxis()
    bars.spines[["top", "right"]].set_visible(False)
    figure.savefig(ROOT / "docs" / "result.jpg", dpi=110, pil_kwargs={"quality": 85, "optimize": True})


if __name__ == "__main__":
    main()
