"""Whether a wheel and a source distribution hold what they should: `python release/contents.py dist dist/from-tree`.

The first folder has both, the wheel built from the source distribution; the second a wheel built from the tree.
"""

from __future__ import annotations

import fnmatch
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("propulsion", "propulsion_tools")


def tracked() -> set[str]:
    """What the packages have in the tree, by paths as they are in a wheel."""
    listed = subprocess.run(["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {line.removeprefix("src/") for line in listed.splitlines()}


def files_of_wheel(path: Path) -> dict[str, bytes]:
    """Path → content."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def files_of_sdist(path: Path) -> set[str]:
    """Paths below the folder that a source distribution is packed in."""
    with tarfile.open(path) as archive:
        return {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}


def faults_of_wheel(files: dict[str, bytes]) -> list[str]:
    """What is missing in a wheel, or has no business there."""
    ours = {name for name in files if name.split("/")[0] in PACKAGES}
    about = {name for name in files if name not in ours}
    faults = [f"the wheel lacks {name}" for name in sorted(tracked() - ours)]
    faults += [f"the wheel has {name}, which is not in the repository" for name in sorted(ours - tracked())]
    faults += [f"the wheel has {name}" for name in sorted(about) if not name.split("/")[0].endswith(".dist-info")]
    if not fnmatch.filter(about, "*.dist-info/licenses/LICENSE"):
        faults.append("the wheel lacks the licence")
    return faults


def faults_of_sdist(files: set[str]) -> list[str]:
    """What a source distribution lacks for building the wheel."""
    needed = {"LICENSE", "README.md", "pyproject.toml", *(f"src/{name}" for name in tracked())}
    return [f"the source distribution lacks {name}" for name in sorted(needed - files)]


def differences(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """Files that two wheels do not have alike."""
    unlike = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return [f"the wheels from the source distribution and from the tree differ in {name}" for name in unlike]


def only(folder: Path, pattern: str) -> Path:
    """The one file that a folder has of a kind."""
    (path,) = folder.glob(pattern)
    return path


def main(dist: Path, from_tree: Path) -> int:
    """Print what is wrong; 1 if anything is."""
    sdist, wheel, other = only(dist, "*.tar.gz"), only(dist, "*.whl"), only(from_tree, "*.whl")
    files = files_of_wheel(wheel)
    faults = faults_of_wheel(files) + faults_of_sdist(files_of_sdist(sdist)) + differences(files, files_of_wheel(other))
    print(*(faults or [f"{wheel.name} and {sdist.name} hold what they should: {len(files)} files"]), sep="\n")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
