"""A listener's proof is never later than its report: whoever writes it, also a loader of 0.1, and in what is there."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# A listener of 0.1 goes by its host's clock. One report of a clock that was ahead for a moment hid every gap until that
# time had come. Whatever such a report says, it was made before it's stored: so far it may prove, and no further. When
# a session began is left alone: where Postgres' clock is behind, an earlier beginning would prove what wasn't heard.
FUNCTION = """
CREATE FUNCTION {schema}.hold_back_proofs() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    NEW.proven_until := least(NEW.proven_until, NEW.ended_at, now());
    RETURN NEW;
END $$
"""
TRIGGER = """
CREATE TRIGGER hold_back_proofs BEFORE INSERT OR UPDATE ON listener_sessions
FOR EACH ROW EXECUTE FUNCTION {schema}.hold_back_proofs()
"""
# Of what is there, the ledger knows when it was stored. Few rows, if any.
MEND = """
UPDATE listener_sessions s SET proven_until = least(s.proven_until, s.ended_at, b.committed_at)
FROM load_batches b
WHERE b.batch_id = s.batch_id AND s.proven_until > least(s.ended_at, b.committed_at)
"""


def upgrade() -> None:
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    # First: what 0.1 writes meanwhile waits for this transaction, and meets the trigger.
    _execute(FUNCTION.format(schema=schema))
    _execute(TRIGGER.format(schema=schema))
    _execute(MEND)
    _execute(
        f"COMMENT ON FUNCTION {schema}.hold_back_proofs() IS"
        " 'A listener''s proof is never later than its report, whatever clock made it'"
    )


def downgrade() -> None:
    raise NotImplementedError("there is no way back to 0.1: restore the backup that was made before the upgrade")


def _execute(statement: str) -> None:
    """As it stands: no colon or percent sign in it names a parameter."""
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))
