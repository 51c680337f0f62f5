"""Made-up files in class folders."""

from pathlib import Path

from train.data import Source


def write(root: Path, *names: str) -> Path:
    """Files whose content is their own name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def write_patients(root: Path, n: int = 20, place: str = "train") -> Path:
    normal = [f"{place}/NORMAL/IM-{i:04d}-0001.jpeg" for i in range(n)]
    return write(root, *normal, *(f"{place}/PNEUMONIA/person{i}_bacteria_{i}.jpeg" for i in range(n)))


def sources(*folders: Path) -> list[Source]:
    """One source of these folders."""
    return [Source("made", folders)]
