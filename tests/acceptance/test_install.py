"""docs/install.md, typed line by line as a new operator would: from the wheel, onto a host with Debian's Redis and
Postgres, where the dialler has pushed calls already. tests/machine.py says what stands in for what.
"""

from pathlib import Path

import pytest

from tests.fenced import blocks, indented
from tests.machine import running
from tests.world import CAMPAIGNS, RECENTLY, cdr, eventually

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["install.md", "upgrade.md"])
def test_every_line_of_code_is_in_a_block_that_is_typed(page: str) -> None:
    found = list(blocks(DOCS / page))

    assert len(found) > 8
    assert {block.language for block in found} <= {"sh", "sql"}
    assert indented(DOCS / page) == []


@pytest.mark.timeout(300)  # two environments, a dozen programs from a cold start
def test_given_the_lines_of_install_then_what_waited_is_loaded(wheel_of_etl: Path) -> None:
    with running(wheel_of_etl) as host:
        with host.client(password=None) as dialler:
            dialler.lpush(CAMPAIGNS, *(cdr(number, dialed_at=RECENTLY) for number in range(50)))

        for block in blocks(DOCS / "install.md"):
            for statement in block.statements:
                host.type_sql(statement) if block.language == "sql" else host.type(statement)

        with host.client() as dialler:
            eventually(lambda: not dialler.exists(CAMPAIGNS))
        # What waited before Redis was restarted, and what `etl simulate` sent.
        eventually(lambda: host.rows("SELECT count(*) FROM cdrs WHERE dialed_on > '2025-07-01'") == [(1_000,)])
        assert host.rows("SELECT count(*) FROM cdrs WHERE dialed_on < '2025-07-01'") == [(50,)]
        # Who is who.
        owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname IN ('public', 'reporting')"
        assert host.rows(owners) == [("etl_owner",)]
        loaders = "SELECT DISTINCT usename FROM pg_stat_activity WHERE application_name = 'etl'"
        assert host.rows(loaders) == [("etl_loader",)]
        assert host.rows("SELECT zone FROM reporting.settings") == [("Europe/Bucharest",)]
        assert host.enabled == {"etl.service"}
        assert (host.root / "etc/etl/etl.env").stat().st_mode & 0o777 == 0o640
