"""Would a fail-over of Postgres forget what was confirmed, for `etl check`: who follows, and whether commits wait."""

import re
from collections.abc import Sequence

import sqlalchemy as sa

from etl.findings import Finding, RecallWindow
from etl.store.connection import Engine

ABOUT = "Postgres standbys"
COMMIT = "Postgres synchronous_commit"

# Who isn't in pg_read_all_stats, which pg_monitor is, sees who follows, and nothing else of them.
_REPLICATION = sa.text(
    "SELECT coalesce(array_agg(coalesce(application_name, '?') ORDER BY application_name), '{}') AS names,"
    " coalesce(bool_or(sync_state IN ('sync', 'quorum')), false) AS waited_for,"
    " pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees,"
    " current_setting('synchronous_standby_names') AS to_wait_for"
    " FROM pg_stat_replication"
)
# Ours may differ from what was set for this role: see `etl.store.connection`.
_COMMIT = sa.text(
    "SELECT current_setting('synchronous_commit') AS ours, reset_val AS theirs,"
    " current_setting('synchronous_standby_names') <> '' AS is_waiting"
    " FROM pg_settings WHERE name = 'synchronous_commit'"
)


def findings(engine: Engine, window: RecallWindow) -> Sequence[Finding]:
    with engine.connect() as connection:
        told, commit = connection.execute(_REPLICATION).one(), connection.execute(_COMMIT).one()
    if told.to_wait_for:
        standbys = _synchronous(told.to_wait_for, told.names, told.waited_for, told.sees)
    else:
        standbys = _asynchronous(told.names, window)
    return [standbys, _commit(commit.ours, commit.theirs, commit.is_waiting, window)]


def _synchronous(to_wait_for: str, names: Sequence[str], waited_for: bool, sees: bool) -> Finding:
    wait = f"commits wait for {to_wait_for}"
    # "FIRST 1 (a, b)", "ANY 2 (*)" or "a, b"; who may not see who is waited for sees at least who is there.
    wanted = {name.strip('" ').lower() for name in re.split("[(),]", to_wait_for)}
    is_there = any(name.lower() in wanted or "*" in wanted for name in names)
    if waited_for or (is_there and not sees):
        return Finding(ABOUT, "fine", f"{wait}: a fail-over to who is waited for loses nothing")
    says = f"{wait}, and nobody of that name follows: nothing is loaded until one does"
    return Finding(ABOUT, "wrong", says, "start the standby, or take it out of synchronous_standby_names")


def _asynchronous(names: Sequence[str], window: RecallWindow) -> Finding:
    if not names:
        return Finding(ABOUT, "fine", f"none; a backup that is restored lacks what came after it: {window.saves}")
    cost = "no commit waits for them, and a fail-over may lose the last seconds' calls"
    says = f"{', '.join(names)}; {cost}: {window.saves}"
    if window.hours:
        return Finding(ABOUT, "fine", says)
    return Finding(ABOUT, "warning", says, "set ETL_RECALL_HOURS, or synchronous_standby_names")


def _commit(ours: str, theirs: str, is_waiting: bool, window: RecallWindow) -> Finding:
    if ours == "off":
        says = f"off: a crash of Postgres forgets commits that it confirmed: {window.saves}"
        return Finding(COMMIT, "warning", says, "let it be on")
    if ours == "local" and is_waiting:
        says = f"local: no commit waits for the standby, and a fail-over may lose the last ones: {window.saves}"
        return Finding(COMMIT, "warning", says, "let it be on")
    if ours == "remote_write" and is_waiting:
        says = f"remote_write: a standby whose machine loses power lacks the last commits: {window.saves}"
        return Finding(COMMIT, "fine", says)
    return Finding(COMMIT, "fine", ours if ours == theirs else f"{ours} for etl; {theirs} for others of this role")
