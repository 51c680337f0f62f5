"""Look the pinned packages up among the known vulnerabilities: `make audit`.

Fails if one is known. Where the data cannot be had, it says so and does not fail: that is no news about the packages.
"""

import argparse
import json
import subprocess
import sys
from typing import Any


def look_up(requirements: str, service: list[str]) -> list[dict[str, Any]]:
    """What one service of pip-audit says of each package, and nothing if it cannot be reached."""
    options = ["--requirement", requirements, "--no-deps", "--disable-pip", "--format=json", "--progress-spinner=off"]
    command = [sys.executable, "-m", "pip_audit", *options, *service]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - nothing of it is foreign
    if done.returncode not in (0, 1):
        sys.exit(f"pip-audit cannot be run as expected here:\n{done.stderr}")
    try:
        return list(json.loads(done.stdout)["dependencies"])
    except ValueError:
        return []


def main() -> int:
    """Return 1 if a vulnerability is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("requirements", nargs="+", help="files with pinned requirements")
    parser.add_argument("--osv-url", help="another service than those of pip-audit, which speaks OSV's protocol")
    options = parser.parse_args()
    osv = ["--vulnerability-service=osv"]
    services = [[*osv, f"--osv-url={options.osv_url}"]] if options.osv_url else [[], osv]
    found = False
    for requirements in options.requirements:
        for service in services:
            answers = look_up(requirements, service)
            known = [package for package in answers if "skip_reason" not in package]
            if known:
                break
        else:
            print(f"{requirements}: NOT AUDITED. The data on vulnerabilities could not be reached from here.")
            continue
        flaws = [(package, flaw) for package in known for flaw in package["vulns"]]
        for package, flaw in flaws:
            mended = ", ".join(flaw["fix_versions"]) or "no version yet"
            print(f"{requirements}: {package['name']} {package['version']} has {flaw['id']}; mended in {mended}.")
        skipped = len(answers) - len(known)
        print(f"{requirements}: {len(flaws)} known vulnerabilities in {len(known)} packages, {skipped} not audited.")
        found = found or bool(flaws)
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
