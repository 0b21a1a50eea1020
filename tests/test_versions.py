"""The bounds in pyproject.toml are those of the two environments that the tests run in."""

from __future__ import annotations

import sys

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.canaries import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = ("train", "report", "distributed", "quantization", "kernels", "serve")
# We use private names of these, or places that they move in minor releases.
FRAGILE = ("torch", "transformers", "peft", "accelerate", "datasets", "jsonargparse")


def bounded() -> list[Requirement]:
    texts = [*PROJECT["dependencies"], *(text for extra in EXTRAS for text in PROJECT["optional-dependencies"][extra])]
    requirements = [Requirement(text) for text in texts]
    return [requirement for requirement in requirements if requirement.name != PROJECT["name"]]


def pins(file: str) -> dict[str, list[Version]]:
    """The versions in a file of constraints, of which some hold for some versions of Python only."""
    found: dict[str, list[Version]] = {}
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            (pin,) = requirement.specifier
            found.setdefault(requirement.name, []).append(Version(pin.version))
    return found


def bound(requirement: Requirement, operator: str) -> Version:
    (version,) = (Version(part.version) for part in requirement.specifier if part.operator == operator)
    return version


@pytest.mark.parametrize("requirement", bounded(), ids=lambda requirement: requirement.name)
def test_the_lower_bound_is_what_the_oldest_environment_has(requirement: Requirement) -> None:
    assert pins("constraints-oldest.txt")[requirement.name] == [bound(requirement, ">=")]


@pytest.mark.parametrize("requirement", bounded(), ids=lambda requirement: requirement.name)
def test_the_upper_bound_is_next_to_what_the_newest_environment_has(requirement: Requirement) -> None:
    newest, upper = max(pins("constraints.txt")[requirement.name]), bound(requirement, "<")
    assert all(version in requirement.specifier for version in pins("constraints.txt")[requirement.name])
    next_minor, next_major = Version(f"{newest.major}.{newest.minor + 1}"), Version(f"{newest.major + 1}")
    assert upper == next_minor or (upper == next_major and requirement.name not in FRAGILE)
