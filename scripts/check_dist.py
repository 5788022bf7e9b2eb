"""Check the files that `make dist` has built, as an index and as a user would.

`python scripts/check_dist.py [DIST]` reads the metadata of the wheel, and compares the
wheel with one built from the sdist. Then it installs the wheel into a new environment
as the README says, and runs the README's example and `linsey train` there.
"""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

from packaging.metadata import Metadata

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(([^)\s]+)\)")
URLS = {"Homepage", "Source", "Documentation", "Changelog", "Issues"}


def wheel_metadata(wheel: Path) -> str:
    """Return the metadata file of a wheel, whose body is the long description."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return archive.read(name).decode()


def faults_of_metadata(text: str) -> list[str]:
    """Find metadata that an index would refuse or display wrongly.

    Args:
        text: a METADATA file.

    Returns:
        One line for each fault.
    """
    faults = []
    try:
        metadata = Metadata.from_email(text, validate=True)
    except ExceptionGroup as group:
        return [str(error) for error in group.exceptions]
    if missing := URLS - set(metadata.project_urls or {}):
        faults.append(f"no project URL: {', '.join(sorted(missing))}")
    if metadata.description_content_type != "text/markdown":
        faults.append(f"the description is {metadata.description_content_type}")
    description = email.message_from_string(text).get_payload()
    return faults + [
        f"the link {link} leads nowhere on an index page"
        for link in LINK.findall(str(description))
        if not link.startswith("https://")
    ]


def readme_example() -> str:
    """Return the Python blocks of the README, one after the other."""
    readme = (ROOT / "README.md").read_text()
    return "\n".join(re.findall(r"^```python\n(.*?)^```", readme, re.M | re.S))


def extra_of_readme() -> str:
    """Return the extras in the README's pip command, in brackets."""
    (extras,) = re.findall(r"pip install '\.(\[[\w,]+\])'", readme_start())
    return extras


def readme_start() -> str:
    """Return the first console block of the README: clone, install, run."""
    readme = (ROOT / "README.md").read_text()
    return readme.split("```console\n", 1)[1].split("```", 1)[0]


def run(*command: str | Path, folder: Path) -> str:
    """Run a command outside the source folder and return its output."""
    print("$", *command, flush=True)
    done = subprocess.run(
        command, cwd=folder, check=False, capture_output=True, text=True
    )
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n")
        raise SystemExit(f"exit code {done.returncode}")
    return done.stdout


def check_rebuilt(sdist: Path, wheel: Path, folder: Path) -> None:
    """Check that the wheel can be rebuilt from the sdist."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", folder=source)
    (rebuilt,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(rebuilt) as new, zipfile.ZipFile(wheel) as old:
        differing = set(new.namelist()) ^ set(old.namelist())
    if differing:
        raise SystemExit(f"wheel and sdist differ in {', '.join(sorted(differing))}")


def check_installed(wheel: Path, folder: Path) -> None:
    """Check that the README's examples run after installing the wheel."""
    environment = folder / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    run(
        python,
        "-m",
        "pip",
        "install",
        "-q",
        f"{wheel}{extra_of_readme()}",
        folder=folder,
    )
    where = run(python, "-c", "import linsey; print(linsey.__file__)", folder=folder)
    assert where.startswith(str(environment)), where
    run(python, "-c", readme_example(), folder=folder)
    print(run(environment / "bin" / "linsey", "train", folder=folder))


def main() -> None:
    """Check wheel and sdist, and exit with 1 at the first fault."""
    dist = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist").resolve()
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    faults = faults_of_metadata(wheel_metadata(wheel))
    if faults:
        raise SystemExit("\n".join(faults))
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    if ".example" in urls["Homepage"]:
        print(
            f"Before you publish: {urls['Homepage']} is a placeholder in pyproject.toml"
        )
    with tempfile.TemporaryDirectory() as temporary:
        check_rebuilt(sdist, wheel, Path(temporary))
    with tempfile.TemporaryDirectory() as temporary:
        check_installed(wheel, Path(temporary))
    print(f"{wheel.name} and {sdist.name} are ready")


if __name__ == "__main__":
    main()
