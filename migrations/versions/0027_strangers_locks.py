"""Whoever may log in can hold an advisory lock. So a day may be dropped under the lock aside that etl takes where a
stranger has the day's; and the ledger is counted under a lock for which one needs rights. And an export sees changes
past the ledger also beside those that it knows.
"""

import sqlalchemy as sa
from alembic import context, op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

# In drop_day as 0019 has it. The numbers are those of etl/store/locks.py.
_DAYS_LOCK = """    AND classid = (CASE drop_day.dataset WHEN 'cdrs' THEN 1702128644 ELSE 1702128645 END)::oid
    AND objid = (drop_day.day - date '2000-01-01')::oid;
"""
_OR_ASIDE = """    AND (
        classid = (CASE drop_day.dataset WHEN 'cdrs' THEN 1702128644 ELSE 1702128645 END)::oid
        AND objid = (drop_day.day - date '2000-01-01')::oid
        OR classid = (CASE drop_day.dataset WHEN 'cdrs' THEN 1702128676 ELSE 1702128677 END)::oid
        AND objid::bigint >> 15 = drop_day.day - date '2000-01-01'
    );
"""
# In ledger_entries as 0017 has it: one session keeps the count, and nobody waits for it.
_ALONE = """    recounted timestamptz;
BEGIN
    IF current_setting('transaction_read_only') = 'off' AND pg_try_advisory_xact_lock(x'65746c06'::bigint) THEN
"""
_ALONE_BY_RIGHT = """    recounted timestamptz;
    alone boolean := current_setting('transaction_read_only') = 'off';
BEGIN
    IF alone THEN
        BEGIN
            LOCK TABLE ONLY {schema}.counted_days IN SHARE ROW EXCLUSIVE MODE NOWAIT;
        EXCEPTION WHEN lock_not_available THEN
            alone := false;
        END;
    END IF;
    IF alone THEN
"""


def upgrade() -> None:
    quoted = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema()), quote_literal(current_schema())")
    schema, literal = quoted.one()
    by_hand = "Versions of the day's CDRs that changes past the ledger had left by then; null: nobody counted them"
    op.add_column("exports", sa.Column("by_hand", sa.Integer(), comment=by_hand))
    for number, name, before, then in (
        ("0019", "DROP_DAY", _DAYS_LOCK, _OR_ASIDE),
        ("0017", "LEDGER_ENTRIES", _ALONE, _ALONE_BY_RIGHT),
    ):
        _execute(_changed(number, name, before, then).format(schema=schema, literal=literal))


def _changed(number: str, name: str, before: str, then: str) -> str:
    """A function as another migration has it, but for these lines."""
    function = str(getattr(context.script.get_revision(number).module, name))
    if function.count(before) != 1:
        raise ValueError(f"there should be one of this in {number}'s {name}: {before}")
    replaced = function.replace(before, then)
    return (
        replaced
        if "CREATE OR REPLACE" in replaced
        else replaced.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
    )


def downgrade() -> None:
    raise NotImplementedError("there is no way back to 0.1: restore the backup that was made before the upgrade")


def _execute(statement: str) -> None:
    """As it stands: no colon or percent sign in it names a parameter."""
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))
