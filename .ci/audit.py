"""Look for known vulnerabilities of the pinned packages: `make audit`.

Exits with 1 if one is known. Where no vulnerability database can be reached, it says so and exits with 0.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro


def look_up(requirements: Path, service: list[str]) -> list[dict[str, Any]]:
    """pip-audit's result for each package from one database; empty if that cannot be reached."""
    options = ["--no-deps", "--disable-pip", "--format=json", "--progress-spinner=off", f"--requirement={requirements}"]
    command = [sys.executable, "-m", "pip_audit", *options, *service]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no foreign input
    if done.returncode not in (0, 1):
        sys.exit(f"pip-audit failed:\n{done.stderr}")
    try:
        return list(json.loads(done.stdout)["dependencies"])
    except ValueError:
        return []


def audit(requirements: Path, osv_url: str | None) -> bool:
    """Print what is known of a file's packages; true if a package has a known vulnerability."""
    osv = "--vulnerability-service=osv"
    services = [[osv, f"--osv-url={osv_url}"]] if osv_url else [[], [osv]]
    for service in services:
        packages = look_up(requirements, service)
        if audited := [package for package in packages if "skip_reason" not in package]:
            break
    else:
        print(f"{requirements}: NOT AUDITED. No vulnerability database can be reached from here.")
        return False
    flaws = [(package, flaw) for package in audited for flaw in package["vulns"]]
    for package, flaw in flaws:
        fixed = ", ".join(flaw["fix_versions"]) or "no version yet"
        print(f"{requirements}: {package['name']} {package['version']} has {flaw['id']}; fixed in {fixed}.")
    skipped = len(packages) - len(audited)
    print(f"{requirements}: {len(flaws)} known vulnerabilities in {len(audited)} packages, {skipped} not audited.")
    return bool(flaws)


def main(requirements: Annotated[list[Path], tyro.conf.Positional], osv_url: str | None = None) -> int:
    """Look for known vulnerabilities.

    Args:
        requirements: files with pinned requirements.
        osv_url: a database that speaks OSV's protocol, instead of those of pip-audit.
    """
    flawed = [audit(file, osv_url) for file in requirements]
    return int(any(flawed))


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
