"""What Postgres forgot, what of it came back, and when events were lost by that."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


# A listener that went on calls its whole session proven; but what it heard was lost with the claims of its spool.
GAPS = """
CREATE OR REPLACE VIEW audit_gaps AS
SELECT * FROM ({before}) AS of_sessions
UNION ALL
SELECT lost_from, lost_until, 'postgres_set_back', server, (
    SELECT array_agg(pattern ORDER BY pattern COLLATE "C") FROM (
        SELECT DISTINCT pattern
        FROM listener_sessions s CROSS JOIN unnest(s.patterns) AS pattern WHERE s.server = b.server
    ) AS expected
)
FROM set_backs b WHERE source_key = 'etl:events' AND lost_claims > 0
"""


def upgrade() -> None:
    op.create_table(
        "set_backs",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True, comment="Order of noticing"),
        sa.Column("noticed_at", _TIME, nullable=False, server_default=sa.text("now()"), comment="When it was noticed"),
        sa.Column("source_key", sa.Text, nullable=False, comment="Redis key of the list"),
        sa.Column("server", sa.Text, nullable=False, comment="Redis server of the list, by its name"),
        sa.Column("first_claimed_at", _TIME, nullable=False, comment="When the first of the claims was made"),
        sa.Column("last_claimed_at", _TIME, nullable=False, comment="When the last of the claims was made"),
        sa.Column("recalled_claims", sa.BigInteger, nullable=False, comment="Claims that were loaded again"),
        sa.Column("recalled_messages", sa.BigInteger, nullable=False, comment="Messages of these"),
        sa.Column("lost_claims", sa.BigInteger, nullable=False, comment="Claims that Redis didn't keep any more"),
        sa.Column("lost_messages", sa.BigInteger, nullable=False, comment="Messages of these"),
        sa.Column("lost_from", _TIME, comment="Last claim before the lost ones; null if none is lost"),
        sa.Column("lost_until", _TIME, comment="First claim after the lost ones; null if none is lost"),
        comment="Acknowledged claims that Postgres had forgotten, after a fail-over or a restored backup",
    )
    connection = op.get_bind()
    before = str(connection.scalar(sa.text("SELECT pg_get_viewdef('audit_gaps'::regclass)"))).strip().rstrip(";")
    connection.exec_driver_sql(GAPS.format(before=before).replace("%", "%%"))
    connection.exec_driver_sql(
        "COMMENT ON COLUMN audit_gaps.reason IS"
        " 'never started, stopped, connection lost, probe lost, overflow, not permitted or postgres_set_back'"
    )


def downgrade() -> None:
    raise NotImplementedError("there is no way back to 0.1: restore the backup that was made before the upgrade")
