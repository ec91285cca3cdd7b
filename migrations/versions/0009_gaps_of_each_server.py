"""Gaps of each Redis server and pattern, and servers that are gone; the reports that read gaps count them so."""

from datetime import datetime

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# From the sessions to the gaps, of each server and pattern by itself:
#
#   spans      sessions of a server, cut to its eras: the times between its retirements
#   expected   what a server was subscribed to in an era, and so ought to go on being
#   covering   the stretches that prove it: of that pattern, or of a plain prefix with a star that has it within; and
#              the nameless sessions of 0.1, which cover everything up to the upgrade
#   stretches  those that overlap, as one
#
# Without any named session, all is as it was in 0.1: one server without a name, and its nameless sessions uncut. A
# session that goes on is silent for a probe's interval, the loader's linger and a little; longer is an open gap.
GAPS = """
CREATE OR REPLACE VIEW audit_gaps AS
WITH sessions AS (
    SELECT *, server IS NOT NULL AND patterns IS NOT NULL AS named,
        greatest(proven_until, subscribed_at) AS heard_until,
        ended_at IS NULL AND proven_until >= now() - interval '15 seconds' AS goes_on
    FROM listener_sessions
), eras AS (
    SELECT server, NULL::timestamptz AS era_from, min(retired_at) AS era_until
    FROM (SELECT DISTINCT server FROM sessions WHERE named) servers LEFT JOIN retired_servers USING (server)
    GROUP BY server
    UNION ALL
    SELECT server, retired_at, lead(retired_at) OVER (PARTITION BY server ORDER BY retired_at) FROM retired_servers
), spans AS (
    SELECT server, era_from, era_until, session_id, patterns, goes_on, coalesce(reason, 'stopped') AS reason,
        greatest(subscribed_at, era_from) AS heard_from, least(heard_until, era_until) AS heard_until
    FROM sessions JOIN eras USING (server)
    WHERE named AND (era_until IS NULL OR subscribed_at < era_until)
        AND (era_from IS NULL OR subscribed_at >= era_from OR heard_until > era_from)
), expected AS (
    SELECT DISTINCT server, era_from, era_until, pattern FROM spans CROSS JOIN unnest(patterns) AS pattern
    UNION ALL
    SELECT NULL, NULL, NULL, NULL WHERE NOT EXISTS (SELECT FROM sessions WHERE named)
), covering AS (
    SELECT e.server, e.pattern, e.era_from, e.era_until, s.session_id, s.heard_from, s.heard_until, s.reason, s.goes_on
    FROM expected e JOIN spans s ON s.server = e.server AND s.era_from IS NOT DISTINCT FROM e.era_from
    WHERE EXISTS (
        SELECT FROM unnest(s.patterns) AS heard WHERE heard = e.pattern
            OR translate(heard, '*?[\\', '') || '*' = heard AND starts_with(e.pattern, left(heard, -1))
    )
    UNION ALL
    SELECT e.server, e.pattern, e.era_from, e.era_until, s.session_id, greatest(s.subscribed_at, e.era_from),
        least(s.heard_until, e.era_until, u.upgraded_at),
        CASE WHEN s.heard_until > u.upgraded_at THEN 'stopped' ELSE coalesce(s.reason, 'stopped') END,
        s.goes_on AND e.server IS NULL
    FROM expected e
    CROSS JOIN LATERAL (SELECT CASE WHEN e.server IS NOT NULL THEN {upgraded_at} END AS upgraded_at) u
    JOIN sessions s ON NOT s.named AND (u.upgraded_at IS NULL OR s.subscribed_at < u.upgraded_at)
        AND (e.era_until IS NULL OR s.subscribed_at < e.era_until)
        AND (e.era_from IS NULL OR s.subscribed_at >= e.era_from OR s.heard_until > e.era_from)
        AND (e.era_from IS NULL OR u.upgraded_at IS NULL OR u.upgraded_at > e.era_from)
), marked AS (
    SELECT *, max(heard_until) OVER (
        PARTITION BY server, pattern, era_from ORDER BY heard_from, session_id
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS covered_until
    FROM covering
), numbered AS (
    SELECT *, count(*) FILTER (WHERE covered_until IS NULL OR heard_from > covered_until) OVER (
        PARTITION BY server, pattern, era_from ORDER BY heard_from, session_id
    ) AS stretch
    FROM marked
), stretches AS (
    SELECT server, pattern, era_from, era_until, min(heard_from) AS heard_from, max(heard_until) AS heard_until,
        (array_agg(reason ORDER BY heard_until DESC, heard_from DESC, session_id DESC))[1] AS reason,
        bool_or(goes_on) AS goes_on
    FROM numbered GROUP BY server, pattern, era_from, era_until, stretch
), neighbours AS (
    SELECT *, row_number() OVER before = 1 AS is_first, lag(heard_until) OVER before AS before_until,
        lag(reason) OVER before AS before_reason, lead(heard_from) OVER before IS NULL AS is_last,
        bool_or(goes_on) OVER (PARTITION BY server, pattern, era_from) AS is_heard
    FROM stretches WINDOW before AS (PARTITION BY server, pattern, era_from ORDER BY heard_from)
), gaps AS (
    SELECT server, pattern, before_until AS gap_from, heard_from AS gap_until,
        CASE WHEN is_first THEN 'never started' ELSE before_reason END AS reason
    FROM neighbours WHERE NOT is_first OR era_from IS NULL
    UNION ALL
    SELECT server, pattern, heard_until, era_until, reason
    FROM neighbours WHERE is_last AND NOT is_heard AND (era_until IS NULL OR heard_until < era_until)
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, 'never started' WHERE NOT EXISTS (SELECT FROM sessions)
)
SELECT gap_from, gap_until, reason, server,
    array_agg(pattern ORDER BY pattern COLLATE "C") FILTER (WHERE pattern IS NOT NULL) AS patterns
FROM gaps
GROUP BY gap_from, gap_until, reason, server
"""

COMMENTS = {
    "VIEW audit_gaps": "When no listener was proven to be subscribed, of each Redis server and pattern: what was"
    " published there then may be missing",
    "COLUMN audit_gaps.gap_from": "Last moment up to which everything was heard; null before the first session",
    "COLUMN audit_gaps.gap_until": "When the next session began, or the server was retired; null if neither was",
    "COLUMN audit_gaps.reason": "never started, stopped, connection lost, probe lost, overflow or not permitted",
    "COLUMN listener_sessions.reason": "Why it ended: stopped, connection lost, probe lost, overflow or not permitted",
    "COLUMN audit_gaps.server": "The Redis server, by its name; null if all sessions are of an etl before 0.2",
    "COLUMN audit_gaps.patterns": "The PubSub patterns that nobody listened to; null if server is",
    "COLUMN reporting.load_days.gap_seconds": "How long nobody listened, the times of all Redis servers added up:"
    " events of that time may be missing",
    "COLUMN reporting.status_changes.server": "The Redis server that told it, by its name; null: computed by an etl"
    " before 0.2",
    "COLUMN reporting.status_changes.channels": "What the channels of agents begin with; null: computed by an etl"
    " before 0.2",
}

# Two patterns of a server that weren't heard at once are one time; two servers are two.
LOAD_DAYS = """
CREATE OR REPLACE VIEW reporting.load_days AS
WITH gaps AS MATERIALIZED (
    SELECT server, coalesce(gap_from, '-infinity') AS gap_from, coalesce(gap_until, now()) AS gap_until
    FROM audit_gaps
)
SELECT
    b.day AS day,
    b.cdrs AS cdrs,
    b.cdrs_updated AS cdrs_updated,
    b.events AS events,
    round(g.seconds) AS gap_seconds,
    d.letters AS dead_letters,
    x.revision AS exported_revision,
    x.entries = b.cdr_entries AS export_current,
    x.dropped_at IS NOT NULL AS dropped,
    r.cdrs = b.cdr_entries AND r.events = b.event_entries AS figures_current,
    g.seconds = 0 AND d.letters = 0 AND r.cdrs = b.cdr_entries AND r.events = b.event_entries AS trusted
FROM (
    SELECT day,
        coalesce(sum(inserted) FILTER (WHERE dataset = 'cdrs'), 0) AS cdrs,
        coalesce(sum(updated) FILTER (WHERE dataset = 'cdrs'), 0) AS cdrs_updated,
        coalesce(sum(inserted) FILTER (WHERE dataset = 'audit_events'), 0) AS events,
        count(*) FILTER (WHERE dataset = 'cdrs') AS cdr_entries,
        count(*) FILTER (WHERE dataset = 'audit_events') AS event_entries
    FROM load_batch_days GROUP BY day
) b
CROSS JOIN LATERAL (
    SELECT b.day::timestamp AT TIME ZONE 'UTC' AS start, (b.day + 1)::timestamp AT TIME ZONE 'UTC' AS stop
) t
CROSS JOIN LATERAL (
    SELECT coalesce(sum(extract(epoch FROM upper(span) - lower(span))), 0) AS seconds
    FROM (
        SELECT unnest(range_agg(tstzrange(greatest(gap_from, t.start), least(gap_until, t.stop)))) AS span
        FROM gaps WHERE gap_until > greatest(gap_from, t.start) AND gap_from < t.stop GROUP BY server
    ) spans
) g
CROSS JOIN LATERAL (
    SELECT count(*) AS letters FROM dead_letters
    WHERE resolved_at IS NULL AND received_at >= t.start AND received_at < t.stop
) d
CROSS JOIN LATERAL (
    SELECT coalesce(sum(entries) FILTER (WHERE dataset = 'cdrs'), 0) AS cdrs,
        coalesce(sum(entries) FILTER (WHERE dataset = 'audit_events'), 0) AS events
    FROM reporting.rolled_up WHERE day = b.day AND zone = (SELECT zone FROM reporting.settings)
) r
LEFT JOIN LATERAL (
    SELECT revision, entries, dropped_at FROM exports
    WHERE dataset = 'cdrs' AND day = b.day AND published_at IS NOT NULL ORDER BY revision DESC LIMIT 1
) x ON true
"""

# A gap ends a state only where the agent's next status may have been missed: on the same server, and on a pattern that
# has the agents' channels within, as far as its beginning tells.
STATES = """
CREATE OR REPLACE VIEW reporting.agent_states AS
WITH gaps AS MATERIALIZED (
    SELECT server, begins, coalesce(gap_from, '-infinity') AS gap_from, coalesce(gap_until, 'infinity') AS gap_until
    FROM audit_gaps
    CROSS JOIN LATERAL (SELECT array_agg(substring(p FROM '^[^*?[\\\\]*')) AS begins FROM unnest(patterns) AS p) b
)
SELECT
    s.day AS day,
    s.extension AS extension,
    s.status AS status,
    s.campaign_ref AS campaign_ref,
    s.at AS state_from,
    CASE WHEN g.gap_from IS NOT NULL THEN greatest(g.gap_from, s.at) ELSE n.at END AS state_until,
    CASE WHEN g.gap_from IS NOT NULL THEN 'gap' WHEN n.at IS NULL THEN 'open'
        WHEN n.status = 'logging_in' THEN 'login' ELSE 'status' END AS closed_by
FROM reporting.status_changes s
LEFT JOIN LATERAL (
    SELECT n.at, n.status FROM reporting.status_changes n
    WHERE n.extension = s.extension AND (n.at, n.event_id) > (s.at, s.event_id)
    ORDER BY n.at, n.event_id LIMIT 1
) n ON true
LEFT JOIN LATERAL (
    SELECT gaps.gap_from FROM gaps
    WHERE s.origin = 'pubsub' AND gaps.gap_until > s.at AND gaps.gap_from < coalesce(n.at, 'infinity')
        AND (gaps.server = s.server) IS NOT FALSE
        AND (s.channels IS NULL OR gaps.begins IS NULL OR EXISTS (
            SELECT FROM unnest(gaps.begins) AS start
            WHERE starts_with(start, s.channels || ':') OR starts_with(s.channels || ':', start)
        ))
    ORDER BY gaps.gap_from LIMIT 1
) g ON true
WHERE s.status <> 'offline'
"""


def upgrade() -> None:
    op.create_table(
        "retired_servers",
        sa.Column("server", sa.Text(), nullable=False, comment="The Redis server, by its name"),
        sa.Column(
            "retired_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.now(),
            comment="Until when what it was subscribed to before was expected to be heard",
        ),
        sa.PrimaryKeyConstraint("server", "retired_at"),
        comment="Redis servers that are gone, or listened to for something else since: `etl gaps --retire`",
    )
    # Nullable, without a default: no row is written, and an etl of 0.1 goes on.
    _execute("ALTER TABLE reporting.status_changes ADD COLUMN server text, ADD COLUMN channels text")
    upgraded_at: datetime = op.get_bind().execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    _execute(GAPS.replace("{upgraded_at}", f"timestamptz '{upgraded_at.isoformat()}'"))
    _execute(LOAD_DAYS)
    _execute(STATES)
    for subject, text in COMMENTS.items():
        quoted = text.replace("'", "''")
        _execute(f"COMMENT ON {subject} IS '{quoted}'")


def downgrade() -> None:
    raise NotImplementedError("there is no way back to 0.1: restore the backup that was made before the upgrade")


def _execute(statement: str) -> None:
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))
