"""A contact sheet of what the guard got wrong, to be looked at after fitting it."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

SIDE = 128  # px, of a small picture
COLUMNS = 12


@dataclass
class Gallery:
    """Small pictures by what went wrong.

    Attributes:
        most: of one kind.
        pictures: by the kind of mistake.
        counts: of all that were added, by kind.
    """

    most: int = 24
    pictures: dict[str, list[Image.Image]] = field(default_factory=lambda: defaultdict(list))
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, kind: str, image: Image.Image) -> None:
        """Keep a small copy, unless there are enough of this kind."""
        self.counts[kind] += 1
        if len(self.pictures[kind]) < self.most:
            self.pictures[kind].append(ImageOps.pad(image.convert("L"), (SIDE, SIDE)))

    def save(self, path: Path) -> None:
        """Write the sheet as PNG: one block for each kind, with its number."""
        font, title = ImageFont.load_default(16), 24
        heights = [title + SIDE * -(-len(pictures) // COLUMNS) for pictures in self.pictures.values()]
        sheet = Image.new("L", (COLUMNS * SIDE, sum(heights) or 1), 230)
        draw, top = ImageDraw.Draw(sheet), 0
        for (kind, pictures), height in zip(self.pictures.items(), heights, strict=True):
            draw.text((4, top + 3), f"{kind}: {self.counts[kind]}", 0, font)
            for i, picture in enumerate(pictures):
                sheet.paste(picture, (i % COLUMNS * SIDE, top + title + i // COLUMNS * SIDE))
            top += height
        sheet.save(path)
