"""axe-core looks at the wall's pages and at a report's, in a real browser."""

import json
from pathlib import Path

import pytest

from tests.acceptance.test_serve_browser import PAGES, address, day_of
from tests.acceptance.test_serve_charts import ALL_SHOWN, days, hostile
from tests.accessibility import violations
from tests.browser import browser, resize
from tests.wall import served
from tests.world import Archive

__all__ = ["hostile"]
BROKEN = "<h3></h3><table><tr><th></th></tr></table><ul><p></p></ul><input><a href=/></a><img src=x><p id=stale>"


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1000, "light"),
        (400, "dark"),
        pytest.param(1000, "dark", marks=pytest.mark.nightly),
        pytest.param(400, "light", marks=pytest.mark.nightly),
    ],
)
def test_axe_core_finds_nothing_to_mend_on_the_wall(hostile: Archive, tmp_path: Path, width: int, scheme: str) -> None:
    _, both = days(hostile)
    with browser(tmp_path) as tab:
        resize(tab, width)
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        with served(hostile, tmp_path / "log") as wall:
            paths = ["/", *(path + day_of(hostile) for path in PAGES[1:]), f"/hours{both}", "/nothing-there"]
            for path in paths:
                tab.open(address(wall, path))
                assert tab.run(ALL_SHOWN)
                assert violations(tab) == [], path
            tab.run(f"document.querySelector('main').innerHTML = {json.dumps(BROKEN)}")
            assert len({each.partition(":")[0] for each in violations(tab)}) > 4, "it finds what is planted"
        with served(hostile, tmp_path / "login", ETL_WEB_TOKEN="correct-horse-battery") as wall:
            tab.open(address(wall, "/"))
            assert violations(tab) == []


@pytest.mark.parametrize(
    "kind", ["agent", *(pytest.param(kind, marks=pytest.mark.nightly) for kind in ("campaign", "hours", "reasons"))]
)
def test_axe_core_finds_nothing_to_mend_in_a_report(hostile: Archive, tmp_path: Path, kind: str) -> None:
    page = tmp_path / "page.html"
    day = day_of(hostile).partition("to=")[2]
    done = hostile.run("report", kind, "--day", day, "--format", "html", "--output", str(page))
    assert done.returncode == 0, done.stderr
    with browser(tmp_path) as tab:
        for width in (1000, 400):
            resize(tab, width)
            tab.open(page.as_uri())
            assert violations(tab) == []
