"""Write the manifest of some sources; see `train.data`."""

import os
from collections import Counter
from pathlib import Path

import tyro

from train.data import DataError, build_manifest, sources_from


def write_manifest(
    data: tyro.conf.Positional[tuple[str, ...]],
    /,
    labels: tuple[str, ...] = (),
    out: Path = Path("manifest.csv"),
    val_fraction: float = 0.15,
    seed: int = 0,
) -> None:
    """Write the manifest of some sources, and print how their images are divided and what was left out."""
    manifest = build_manifest(sources_from(data, labels), val_fraction=val_fraction, seed=seed)
    manifest.write(out)
    for line in manifest.left_out:
        print(f"left out: {line}")
    counts = Counter((image.source, image.split, image.label) for image in manifest.images)
    for (source, split, label), n in sorted(counts.items()):
        print(f"{source:16} {split:9} {label:10} {n:6}")
    print(f"{len({i.group for i in manifest.images})} groups; sha256 {manifest.sha256}; written to {os.fspath(out)}")


def main() -> None:
    try:
        tyro.cli(write_manifest)
    except DataError as error:
        raise SystemExit(f"train.data: {error}") from None


if __name__ == "__main__":
    main()
