"""The listener's sessions, and the gaps between them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# A session that goes on is silent for a probe's interval, the loader's linger and a little; longer is an open gap.
GAPS = """
CREATE VIEW audit_gaps AS
WITH islands AS (
    SELECT subscribed_at,
           proven_until,
           coalesce(reason, 'stopped') AS reason,
           max(proven_until) OVER before AS covered_until
    FROM listener_sessions
    WINDOW before AS (ORDER BY subscribed_at, session_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), latest AS (
    SELECT proven_until, reason
    FROM listener_sessions
    ORDER BY proven_until DESC, subscribed_at DESC
    LIMIT 1
)
SELECT covered_until AS gap_from,
       subscribed_at AS gap_until,
       CASE
           WHEN covered_until IS NULL THEN 'never started'
           ELSE (
               SELECT coalesce(before.reason, 'stopped')
               FROM listener_sessions AS before
               WHERE before.proven_until = islands.covered_until
               ORDER BY before.subscribed_at DESC
               LIMIT 1
           )
       END AS reason
FROM islands
WHERE covered_until IS NULL OR subscribed_at > covered_until
UNION ALL
SELECT proven_until, NULL, coalesce(reason, 'stopped')
FROM latest
WHERE NOT EXISTS (
    SELECT FROM listener_sessions WHERE ended_at IS NULL AND proven_until >= now() - interval '15 seconds'
)
UNION ALL
SELECT NULL, NULL, 'never started'
WHERE NOT EXISTS (SELECT FROM listener_sessions)
"""

COMMENTS = (
    "VIEW audit_gaps IS 'When no listener was proven to be subscribed: what the dialler published then may be missing'",
    "COLUMN audit_gaps.gap_from IS 'Last moment up to which everything was heard; null before the first session'",
    "COLUMN audit_gaps.gap_until IS 'When the next session began; null while there is none'",
    "COLUMN audit_gaps.reason IS 'never started, stopped, connection lost, probe lost or overflow'",
)


def upgrade() -> None:
    op.create_table(
        "listener_sessions",
        sa.Column("session_id", sa.Uuid(), primary_key=True, comment="Given by the listener, a version 7 UUID"),
        sa.Column("listener", sa.Text(), nullable=False, comment="The worker that listened"),
        sa.Column(
            "subscribed_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When Redis had confirmed the subscription",
        ),
        sa.Column(
            "proven_until",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When the last probe that came back was sent",
        ),
        sa.Column("received", sa.BigInteger(), nullable=False, comment="Messages heard, probes not counted"),
        sa.Column(
            "ignored",
            sa.BigInteger(),
            nullable=False,
            comment="Of these, dropped at the door as ETL_LISTEN_IGNORE says",
        ),
        sa.Column("dropped", sa.BigInteger(), nullable=False, comment="Of these, lost because the buffer was full"),
        sa.Column(
            "ended_at",
            sa.DateTime(timezone=True),
            comment="When it ended; null while it lasts, or if the listener was killed",
        ),
        sa.Column("reason", sa.Text(), comment="Why it ended: stopped, connection lost, probe lost or overflow"),
        sa.Column(
            "batch_id", sa.Uuid(), nullable=False, comment="The claim that brought the last report; see load_batches"
        ),
        comment="Stretches of time in which a listener was subscribed, and how far it's proven that it heard all",
    )
    op.create_index("listener_sessions_proven_idx", "listener_sessions", ["proven_until"])
    op.execute(GAPS)
    for comment in COMMENTS:
        subject, _, text = comment.partition(" IS ")
        op.execute(f"COMMENT ON {subject} IS {text}")


def downgrade() -> None:
    op.execute("DROP VIEW audit_gaps")
    op.drop_table("listener_sessions")
