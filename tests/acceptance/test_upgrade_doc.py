"""docs/upgrade.md, typed line by line while a loader of 0.1 is at work: nothing that the dialler pushes meanwhile is
lost or stored twice, the way back leads to 0.1, and nothing is left in the end. tests/machine.py says what stands in
for what.
"""

import os
import shlex
import shutil
import sys
from itertools import count
from pathlib import Path

import pytest

from tests.fenced import blocks
from tests.machine import Machine, libraries, running
from tests.world import CAMPAIGNS, RECENTLY, cdr, eventually

UPGRADE = Path(__file__).parents[2] / "docs/upgrade.md"
# As the documents of 0.1 had it: roles, and Redis durable.
GIVEN = (
    "install --directory --owner root --group etl --mode 750 /etc/etl",
    "install --directory --owner etl --group etl --mode 750 /var/lib/etl",
    "printf '%s\\n' 'appendonly yes' 'maxmemory-policy noeviction' >>/etc/redis/redis.conf",
    "systemctl restart redis-server",
    "cd /",
    "runuser -u postgres -- createdb archive",
    "ETL_DATABASE_URL=postgresql:///archive runuser -u postgres -- /opt/etl/bin/etl db upgrade",
    "runuser -u postgres -- psql --dbname archive --file /opt/etl/ops/postgres/roles.sql",
    "cp /opt/etl/ops/systemd/* /etc/systemd/system/",
    "cp /opt/etl/ops/cron/etl.crontab /etc/cron.d/etl",
    "echo ETL_REDIS_URL=redis://dialler:8001/0 >>/etc/etl/etl.env",
    "echo ETL_DATABASE_URL=postgresql://etl_loader:secret@db/archive >>/etc/etl/etl.env",
    "echo ETL_EXPORT_URL=/var/lib/etl/lake >>/etc/etl/etl.env",
)
# The sections that have something to type.
ORDER, BACK, UNINSTALL = "The order", "No way back", "Uninstall"
CDRS = "SELECT count(*), count(DISTINCT call_ref) FROM cdrs"


def install_01(host: Machine, release_01: Path) -> None:
    """Its program, files and schema, and its loader at work."""
    program = host.root / "opt/etl/bin/etl"
    program.parent.mkdir(parents=True)
    path = shlex.quote(":".join([str(release_01.parent), *libraries()]))
    python = os.path.realpath(sys.executable)
    program.write_text(f'#!/bin/sh\nPYTHONPATH={path} PYTHONSAFEPATH=1 exec {python} -m etl.cli "$@"\n')
    program.chmod(0o755)
    shutil.copytree(release_01.parent / "ops", host.root / "opt/etl/ops")
    for line in GIVEN:
        host.type(line)
    for role in ("etl_owner", "etl_loader"):
        host.type_sql(f"\\password {role}")
    for unit in ("etl.service", "etl-export.timer", "etl-prune.timer", "etl-prove.timer"):
        host.type(f"systemctl enable --now {unit}")


def test_every_block_is_in_a_section_that_is_typed() -> None:
    assert list(blocks(UPGRADE)) == list(blocks(UPGRADE, [ORDER, BACK, UNINSTALL]))


@pytest.mark.timeout(300)  # two releases, thirty programs from a cold start
def test_given_the_lines_of_upgrade_then_no_call_is_lost(wheel_of_etl: Path, release_01: Path) -> None:
    numbers, told = count(1), 0
    with running(wheel_of_etl) as host, host.client(password=None) as dialler:
        install_01(host, release_01)

        def all_loaded() -> None:
            eventually(
                lambda: host.rows(CDRS) == [(told, told)], what=f"{told} calls were pushed, and not each is stored once"
            )

        def type_all(heading: str) -> None:
            """The lines of this section, while the dialler goes on."""
            nonlocal told
            for block in blocks(UPGRADE, [heading]):
                assert block.language == "sh"
                for statement in block.statements:
                    dialler.lpush(CAMPAIGNS, *(cdr(next(numbers), dialed_at=RECENTLY) for _ in range(5)))
                    told += 5
                    host.type(statement)
                    if "roles.sql" in statement:  # the schema is new, and 0.1 is all that loads
                        all_loaded()

        type_all(ORDER)
        all_loaded()
        assert host.rows("SELECT count(*) FROM load_batches WHERE server IS NULL") != [(0,)]
        assert host.rows("SELECT count(*) FROM load_batches WHERE server IS NOT NULL") != [(0,)]
        assert (host.root / "etc/cron.d/etl").exists()

        type_all(BACK)
        assert host.rows("SELECT version_num FROM alembic_version") == [("0007",)]
        eventually(lambda: not dialler.exists(CAMPAIGNS))
        refs = "SELECT DISTINCT call_ref::int FROM cdrs"
        eventually(lambda: {*host.rows(refs), *host.rows(refs, "archive_02")} == {(n,) for n in range(1, told + 1)})

        type_all(UNINSTALL)
        assert host.rows("SELECT datname FROM pg_database WHERE datname ~ '^archive'", "postgres") == []
        assert host.rows("SELECT rolname FROM pg_roles WHERE rolname ~ '^etl'", "postgres") == []
        left = {path.relative_to(host.root).parts[0] for path in host.root.rglob("*etl*")}
        assert left == {"root", "var", "log"}  # the wheel, the backup, and what the test itself kept
