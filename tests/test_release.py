"""What `make dist` finds wrong with a package."""

from __future__ import annotations

from release.contents import differences, faults_of_sdist, faults_of_wheel, tracked

LICENCE = "propulsion_peft-0.1.0.dist-info/licenses/LICENSE"
WHEEL = {LICENCE: b"", **dict.fromkeys(tracked(), b"")}
SDIST = {"LICENSE", "README.md", "pyproject.toml", *(f"src/{name}" for name in tracked())}


def test_packages_that_hold_the_tree_are_whole() -> None:
    assert faults_of_wheel(WHEEL) == faults_of_sdist(SDIST) == differences(WHEEL, WHEEL) == []
    assert {"propulsion/py.typed", "propulsion_tools/report/page.css"} <= tracked()


def test_what_is_missing_or_does_not_belong_is_named() -> None:
    for name in ("propulsion_tools/report/page.css", LICENCE):
        assert len(faults_of_wheel({key: value for key, value in WHEEL.items() if key != name})) == 1
    for name in ("tests/test_release.py", "propulsion/gone.py"):
        assert [name in fault for fault in faults_of_wheel({**WHEEL, name: b""})] == [True]
    assert faults_of_sdist(SDIST - {"LICENSE"}) == ["the source distribution lacks LICENSE"]


def test_wheels_that_differ_are_told_apart_by_content() -> None:
    assert [LICENCE in fault for fault in differences(WHEEL, {**WHEEL, LICENCE: b"other"})] == [True]
