"""What becomes of a folder of foreign files: reasons, slowest file and peak memory.

    python -m tests.corpus DIR          the prediction of every file below DIR, and a table of all

Where a reason is `internal_error` or a traceback, this program is at fault, not the file.
"""

import sys
import time
import traceback
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from pneumocam import Classifier, InternalError, RadiographError, load_radiograph, predict
from tests.hostile import peak_memory


@dataclass(frozen=True)
class Outcome:
    """What one file became: `ok`, `uncertain`, or the code it is refused for; and the seconds it took."""

    path: Path
    code: str
    steps: tuple[str, ...]
    seconds: float


def outcome(classifier: Classifier, path: Path) -> Outcome:
    started = time.perf_counter()
    steps: tuple[str, ...] = ()
    try:
        radiograph = load_radiograph(path)
        code, steps = str(predict(classifier, radiograph).status), radiograph.steps
    except (RadiographError, InternalError) as error:
        code = error.code
    except Exception as error:
        traceback.print_exc()
        code = f"fault: {type(error).__name__}"
    return Outcome(path, code, steps, time.perf_counter() - started)


def main() -> None:
    folder = Path(sys.argv[1])
    classifier = Classifier.from_pretrained()
    start = peak_memory()
    outcomes = [outcome(classifier, path) for path in sorted(folder.rglob("*")) if path.is_file()]
    by_code = Counter(each.code for each in outcomes)
    by_ending: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for each in outcomes:
        by_ending[each.code][each.path.suffix.lower() or "none"] += 1
        if each.steps:
            print(f"{each.path.relative_to(folder)}: {'; '.join(each.steps)}")
    print(f"\n{'files':>6}  {'became':20}  endings")
    for code, count in by_code.most_common():
        endings = ", ".join(f"{ending} {n}" for ending, n in by_ending[code].most_common(6))
        print(f"{count:6}  {code:20}  {endings}")
    slowest = max(outcomes, key=lambda each: each.seconds)
    print(f"\n{len(outcomes)} files in {sum(each.seconds for each in outcomes):.1f} s")
    print(f"slowest {slowest.seconds:.1f} s: {slowest.path.relative_to(folder)} ({slowest.code})")
    print(f"peak memory {peak_memory() / 2**20:.0f} MiB, of which {start / 2**20:.0f} MiB before the first file")


if __name__ == "__main__":
    main()
