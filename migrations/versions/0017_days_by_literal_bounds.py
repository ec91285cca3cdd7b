"""Ten years of days at a server's default settings: functions that read the partitions of the days they are asked for,
and no others; and books that cost the same however old the archive is.

A view learns what business day a row has when it's executed. So it is planned for every partition there is, and locks
all of them. Each view that reads cdrs or audit_events has two functions now, `<view>_on(day)` and
`<view>_between(from_day, until_day)`: SQL that Postgres puts into the query, with dates for the column that partitions
go by. They read views only, with the rights of whoever asks; so `reporting.calls` gets what they need of a call.
"""

import re
from types import ModuleType

import sqlalchemy as sa
from alembic import context, op

revision = "0017"
down_revision = "0016"  # which says more of audit_gaps: the gaps of a period are that view's
branch_labels = None
depends_on = None

Columns = dict[str, tuple[str, str]]  # name → expression, comment

# -- days

# Who doesn't see numbers may count a contact's: the key is his alone, and without the secret it tells no number.
NUMBER_KEY = """CASE WHEN c.contact_ref <> '' AND {number} IS NOT NULL THEN encode(sha256(convert_to(
        concat_ws(' ', (SELECT key FROM reporting.secret), c.contact_ref, {number}), 'UTF8')), 'hex') END"""

# The agent's next status by a window; it has to be looked for only after each agent's last one of these days.
STATES = """
WITH told AS MATERIALIZED (
    SELECT s.*, lead(s.at) OVER so_on AS next_at, lead(s.status) OVER so_on AS next_status
    FROM reporting.status_changes s WHERE s.day BETWEEN $1 AND $2 + 1
    WINDOW so_on AS (PARTITION BY s.extension ORDER BY s.at, s.event_id)
), states AS MATERIALIZED (
    SELECT t.day, t.extension, t.status, t.campaign_ref, t.at, t.event_id, t.origin, t.server, t.channels,
        coalesce(t.next_at, n.at) AS next_at, coalesce(t.next_status, n.status) AS next_status
    FROM told t
    LEFT JOIN LATERAL (
        SELECT n.at, n.status FROM reporting.status_changes n
        WHERE t.next_at IS NULL AND n.extension = t.extension AND (n.at, n.event_id) > (t.at, t.event_id)
        ORDER BY n.at, n.event_id LIMIT 1
    ) n ON true
    WHERE t.day BETWEEN $1 AND $2 AND t.status <> 'offline'
), gaps AS MATERIALIZED (
    SELECT server, begins, coalesce(gap_from, '-infinity') AS gap_from, coalesce(gap_until, 'infinity') AS gap_until
    FROM reporting.gaps_between(
        (SELECT min(at) FROM states), (SELECT max(coalesce(next_at, 'infinity')) FROM states)
    )
    CROSS JOIN LATERAL (SELECT array_agg(substring(p FROM '^[^*?[\\\\]*')) AS begins FROM unnest(patterns) AS p) b
)
SELECT s.day, s.extension, s.status, s.campaign_ref, s.at,
    CASE WHEN g.gap_from IS NOT NULL THEN greatest(g.gap_from, s.at) ELSE s.next_at END,
    CASE WHEN g.gap_from IS NOT NULL THEN 'gap' WHEN s.next_at IS NULL THEN 'open'
        WHEN s.next_status = 'logging_in' THEN 'login' ELSE 'status' END,
    s.event_id
FROM states s
LEFT JOIN LATERAL (
    SELECT gaps.gap_from FROM gaps
    WHERE s.origin = 'pubsub' AND gaps.gap_until > s.at AND gaps.gap_from < coalesce(s.next_at, 'infinity')
        AND (gaps.server = s.server) IS NOT FALSE
        AND (s.channels IS NULL OR gaps.begins IS NULL OR EXISTS (
            SELECT FROM unnest(gaps.begins) AS start
            WHERE starts_with(start, s.channels || ':') OR starts_with(s.channels || ':', start)
        ))
    ORDER BY gaps.gap_from LIMIT 1
) g ON true
"""

HISTORY_FROM = """
FROM (
    SELECT *, dense_rank() OVER (PARTITION BY contact_ref ORDER BY number_key) AS number_rank
    FROM reporting.calls_between($1, $2) WHERE contact_ref <> ''
) c
WINDOW contact AS (PARTITION BY c.contact_ref),
    so_far AS (PARTITION BY c.contact_ref ORDER BY c.dialed_at, c.source, c.call_ref, c.leg)"""

# In any zone, with the day for which a call may last.
GAPS = """
WITH gaps AS MATERIALIZED (
    SELECT * FROM reporting.gaps_between(
        ($1 - 1)::timestamp AT TIME ZONE 'UTC', ($2 + 3)::timestamp AT TIME ZONE 'UTC'
    )
)"""

# What the functions' comments say beside.
OF_THESE_DAYS = {"contact_history": "; attempts and outcomes are counted within these days"}
LOCKS = (
    ". Whatever day it is asked for, it locks all partitions while it is planned, and ten years have more than a"
    " server's default settings let one lock: reporting.{view}_on and reporting.{view}_between lock those near the days"
)

# -- the books

# Sessions that are alike: of one server, and subscribed to the same.
ALIKE = "hashtextextended(coalesce(server, ''), hash_array_extended(coalesce(patterns, '{}'::text[]), 0))"
HEARD_UNTIL = "greatest(proven_until, subscribed_at)"
STRETCH = f"tstzrange(subscribed_at, {HEARD_UNTIL}, '[]')"
NAMED = "server IS NOT NULL AND patterns IS NOT NULL"

# What the gaps of a period depend on: the sessions in it; of those that are alike, the last one before it and the first
# one after it; and those of 0.1, to which none is added.
SESSIONS = f"""(
    WITH RECURSIVE kinds AS (
        (SELECT {ALIKE} AS alike FROM {{table}} WHERE {NAMED} ORDER BY 1 LIMIT 1)
        UNION ALL
        SELECT (SELECT {ALIKE} FROM {{table}} WHERE {NAMED} AND {ALIKE} > kinds.alike ORDER BY 1 LIMIT 1)
        FROM kinds WHERE kinds.alike IS NOT NULL
    )
    SELECT * FROM {{table}} WHERE {NAMED} AND {STRETCH} && tstzrange($1, greatest($1, $2), '[]')
    UNION ALL
    SELECT last_before.* FROM kinds CROSS JOIN LATERAL (
        SELECT * FROM {{table}} WHERE {NAMED} AND {ALIKE} = kinds.alike AND {HEARD_UNTIL} < $1
        ORDER BY {HEARD_UNTIL} DESC, subscribed_at DESC, session_id DESC LIMIT 1
    ) last_before
    UNION ALL
    SELECT first_after.* FROM kinds CROSS JOIN LATERAL (
        SELECT * FROM {{table}} WHERE {NAMED} AND {ALIKE} = kinds.alike AND subscribed_at > greatest($1, $2)
        ORDER BY subscribed_at, session_id LIMIT 1
    ) first_after
    UNION ALL
    SELECT * FROM {{table}} WHERE NOT ({NAMED})
) AS listener_sessions"""
INDEXES = (
    f"CREATE INDEX listener_sessions_heard_idx ON listener_sessions ({ALIKE}, {HEARD_UNTIL}) WHERE {NAMED}",
    f"CREATE INDEX listener_sessions_began_idx ON listener_sessions ({ALIKE}, subscribed_at) WHERE {NAMED}",
    f"CREATE INDEX listener_sessions_stretch_idx ON listener_sessions USING gist ({STRETCH}) WHERE {NAMED}",
    f"CREATE INDEX listener_sessions_nameless_idx ON listener_sessions (session_id) WHERE NOT ({NAMED})",
)
# With its owner's rights: who may ask for the gaps of a day needn't see the sessions.
GAPS_BETWEEN = """
CREATE FUNCTION reporting.gaps_between(since timestamptz, until timestamptz) RETURNS TABLE (
    gap_from timestamptz, gap_until timestamptz, reason text, server text, patterns text[]
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
SELECT * FROM (
    {view}
) AS gaps
WHERE coalesce(gaps.gap_from, '-infinity') <= $2 AND coalesce(gaps.gap_until, 'infinity') >= $1
$$
"""

# A claim is entered with the time at which its transaction began. What is older than two hours has been committed, or
# is counted on the next day.
LEDGER_ENTRIES = """
CREATE FUNCTION {schema}.ledger_entries() RETURNS TABLE (dataset text, day date, entries bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
    settled timestamptz := now() - interval '2 hours';
    known_until timestamptz;
    recounted timestamptz;
BEGIN
    IF current_setting('transaction_read_only') = 'off' AND pg_try_advisory_xact_lock(x'65746c06'::bigint) THEN
        SELECT max(counted_until), min(recounted_at) INTO known_until, recounted FROM {schema}.counted_days;
        IF coalesce(recounted < now() - interval '1 day' OR known_until > settled, true) THEN
            DELETE FROM {schema}.counted_days;
            INSERT INTO {schema}.counted_days
            SELECT e.dataset, e.day, e.entries - coalesce(lately.entries, 0), settled, now()
            FROM (SELECT dataset, day, count(*) AS entries FROM {schema}.load_batch_days GROUP BY dataset, day) e
            LEFT JOIN (
                SELECT dataset, day, count(*) AS entries
                FROM {schema}.load_batches JOIN {schema}.load_batch_days USING (batch_id)
                WHERE committed_at >= settled GROUP BY dataset, day
            ) lately USING (dataset, day);
        ELSIF known_until < settled - interval '1 hour' THEN
            INSERT INTO {schema}.counted_days AS known
            SELECT dataset, day, count(*), settled, recounted
            FROM {schema}.load_batches JOIN {schema}.load_batch_days USING (batch_id)
            WHERE committed_at >= known_until AND committed_at < settled GROUP BY dataset, day
            ON CONFLICT ON CONSTRAINT counted_days_pkey DO UPDATE
            SET entries = known.entries + excluded.entries, counted_until = excluded.counted_until;
        END IF;
    END IF;
    -- Once as a value, by which the planner knows how few these are; and as it is when they are read.
    SELECT coalesce(max(counted_until), '-infinity') INTO known_until FROM {schema}.counted_days;
    RETURN QUERY
        SELECT e.dataset, e.day, sum(e.entries)::bigint
        FROM (
            SELECT dataset, day, entries FROM {schema}.counted_days
            UNION ALL
            SELECT dataset, day, 1 FROM {schema}.load_batches JOIN {schema}.load_batch_days USING (batch_id)
            WHERE committed_at >= known_until
                AND committed_at >= coalesce((SELECT max(counted_until) FROM {schema}.counted_days), '-infinity')
        ) e
        GROUP BY e.dataset, e.day;
END
$$
"""

# As before; but of the days that are asked for it reads their entries and their gaps, and not all that there are.
LOAD_DAYS = """
CREATE OR REPLACE VIEW reporting.load_days AS
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
    g.seconds = 0 AND d.letters = 0 AND r.cdrs = b.cdr_entries AND r.events = b.event_entries AS trusted,
    w.twins AS twins
FROM (
    SELECT day,
        coalesce(sum(inserted) FILTER (WHERE dataset = 'cdrs'), 0) AS cdrs,
        coalesce(sum(updated) FILTER (WHERE dataset = 'cdrs'), 0) AS cdrs_updated,
        coalesce(sum(inserted) FILTER (WHERE dataset = 'audit_events'), 0) AS events,
        count(*) FILTER (WHERE dataset = 'cdrs') AS cdr_entries,
        count(*) FILTER (WHERE dataset = 'audit_events') AS event_entries
    FROM load_batch_days WHERE dataset IN ('cdrs', 'audit_events') GROUP BY day
) b
CROSS JOIN LATERAL (
    SELECT b.day::timestamp AT TIME ZONE 'UTC' AS start, (b.day + 1)::timestamp AT TIME ZONE 'UTC' AS stop
) t
CROSS JOIN LATERAL (
    SELECT coalesce(sum(extract(epoch FROM upper(span) - lower(span))), 0) AS seconds
    FROM (
        SELECT unnest(range_agg(
            tstzrange(greatest(gap_from, t.start), least(coalesce(gap_until, now()), t.stop))
        )) AS span
        FROM reporting.gaps_between(t.start, t.stop)
        WHERE coalesce(gap_until, now()) > greatest(gap_from, t.start) AND coalesce(gap_from, '-infinity') < t.stop
        GROUP BY server
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
LEFT JOIN reporting.rolled_up w ON w.dataset = 'cdrs' AND w.day = b.day
"""


IN_ORDER = "ORDER BY s.state_from, s.event_id"


def upgrade() -> None:
    first, gaps_of_each_server, later = (
        context.script.get_revision(number).module for number in ("0006", "0009", "0011")
    )
    _gaps()
    _execute(LOAD_DAYS)
    _ledger()
    _more_of_calls(first, later)
    _order_states(gaps_of_each_server)
    for view, body in _bodies(first, later).items():
        _functions(view, body)
        if view != "agent_states":  # which reads status_changes, and no partitions
            _say_what_it_locks(view)


def downgrade() -> None:
    raise NotImplementedError("there is no way back to 0.1: restore the backup that was made before the upgrade")


def _gaps() -> None:
    for statement in INDEXES:
        _execute(statement)
    bind = op.get_bind()
    names = "SELECT quote_ident(current_schema()), current_setting('search_path')"
    schema, path = bind.exec_driver_sql(names).one()
    # The view's own words, with every name qualified.
    bind.execute(sa.text("SELECT set_config('search_path', 'pg_catalog', true)"))
    view = bind.execute(sa.text("SELECT pg_get_viewdef(to_regclass(:name))"), {"name": f"{schema}.audit_gaps"})
    words = str(view.scalar_one()).rstrip(";")
    bind.execute(sa.text("SELECT set_config('search_path', :path, true)"), {"path": path})
    table = f"{schema}.listener_sessions"
    of_the_period = SESSIONS.replace("{table}", table)
    # Where they are all read; what looks some up by their server goes on to.
    words, found = re.subn(rf"\bFROM {re.escape(table)}(?!\s+\w)", lambda _: f"FROM {of_the_period}", words)
    if found != 1:
        raise ValueError(f"audit_gaps should read all sessions once, and not {found} times: {words}")
    _execute(GAPS_BETWEEN.format(view=words))
    function = "reporting.gaps_between(timestamptz, timestamptz)"
    told = "The rows of audit_gaps that touch a period; of the listeners' sessions it reads those near it"
    _comment(f"FUNCTION {function}", told)
    _let_call(function, "SELECT", "reporting.load_days")


def _ledger() -> None:
    op.create_table(
        "counted_days",
        sa.Column("dataset", sa.Text(), nullable=False, comment="Table: cdrs or audit_events"),
        sa.Column("day", sa.Date(), nullable=False, comment="The partition's day"),
        sa.Column("entries", sa.BigInteger(), nullable=False, comment="Ledger entries (load_batch_days) of that day"),
        sa.Column(
            "counted_until",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="Claims that were committed before it are counted; of all days, up to the latest of them",
        ),
        sa.Column(
            "recounted_at", sa.DateTime(timezone=True), nullable=False, comment="When the whole ledger was counted last"
        ),
        sa.PrimaryKeyConstraint("dataset", "day"),
        comment="How many entries the ledger has of each day, but for the last hours: kept by ledger_entries",
    )
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    _execute(LEDGER_ENTRIES.format(schema=schema))
    function = f"{schema}.ledger_entries()"
    _comment(f"FUNCTION {function}", "How many entries the ledger has of each day; counts those of the last hours only")
    _let_call(function, "INSERT", f"{schema}.load_batches")


def _more_of_calls(first: ModuleType, later: ModuleType) -> None:
    """At the end only, so that what reads these views goes on."""
    _execute("CREATE TABLE reporting.secret (one boolean PRIMARY KEY DEFAULT true CHECK (one), key text NOT NULL)")
    _comment("TABLE reporting.secret", "One row: what number_key is made with. Who asks reports may not read it")
    _tell("secret", {"one": ("", "There is one row"), "key": ("", "At random, once")})
    _execute("INSERT INTO reporting.secret (key) VALUES (gen_random_uuid()::text || gen_random_uuid()::text)")
    number, _ = first.CALLS["number"]
    more: Columns = {
        "number_key": (
            NUMBER_KEY.format(number=f"({number})"),
            "The same for all calls of one contact to one number, and tells neither; null if one of them isn't known",
        ),
        "in_a": (later.IN_A, "Whether dialect A told of it: what it alone has is there, or nothing that B alone has"),
        "in_b": (later.IN_B, "Whether dialect B told of it: what it alone has is there"),
    }
    known = first.CALLS | later.SECONDS | first.NEXT_DAY | later.ABSURD
    _replace("calls_unmasked", known | more, first.CALLS_FROM)
    added = {name: (f"c.{name}", comment) for name, (_, comment) in (later.ABSURD | more).items()}
    _replace("calls", first.MASKED | added, "FROM reporting.calls_unmasked c")
    for view in ("calls_unmasked", "calls"):
        _tell(view, more)
    _execute(
        "CREATE VIEW reporting.lake_days AS"
        " SELECT DISTINCT ON (day) day, dropped_at FROM exports WHERE dataset = 'cdrs' ORDER BY day, revision DESC"
    )
    _comment("VIEW reporting.lake_days", "UTC days of CDRs that were exported to the lake")
    told = "When Postgres forgot the day, on the proof of its latest revision; null if it has the day"
    _tell("lake_days", {"day": ("", "UTC day"), "dropped_at": ("", told)})
    _let_ask("lake_days", as_="load_days")
    _let_ask("status_changes", as_="agent_states")


def _order_states(gaps_of_each_server: ModuleType) -> None:
    """Of two statuses at one moment the first is a state of no length, and which that is was left to chance."""
    closed = "ELSE 'status' END AS closed_by"
    _execute(_swap(gaps_of_each_server.STATES, closed, f"{closed},\n    s.event_id AS event_id"))
    _tell("agent_states", {"event_id": ("", "The status event with which it began: later ones have larger ids")})
    words = op.get_bind().exec_driver_sql("SELECT pg_get_viewdef('reporting.call_audit'::regclass)").scalar_one()
    _execute(f"CREATE OR REPLACE VIEW reporting.call_audit AS {_swap(words, 'ORDER BY s.state_from', IN_ORDER)}")


def _bodies(first: ModuleType, later: ModuleType) -> dict[str, str]:
    """What each function selects: business days from $1 to $2, and UTC days of the twins."""
    calls = "day BETWEEN $1 AND $2 AND dialed_on BETWEEN $1 - 1 AND $2 + 1"
    events = "day BETWEEN $1 AND $2 AND captured_on BETWEEN $1 - 1 AND $2 + 1"
    return {
        "calls_unmasked": f"SELECT * FROM reporting.calls_unmasked WHERE {calls}",
        "calls": f"SELECT * FROM reporting.calls WHERE {calls}",
        "events": f"SELECT * FROM reporting.events WHERE {events}",
        "agent_states": STATES,
        "contact_history": f"SELECT\n    {first._listed(first.HISTORY)}\n{HISTORY_FROM}",
        "call_audit": _audit(first, later),
        "unmatched_calls": _unmatched(first, later),
        "twins": _twins(first, later),
    }


def _audit(first: ModuleType, later: ModuleType) -> str:
    states, comment = first.AUDIT["agent_states"]
    states = _swap(states, "coalesce(c.ended_at,", f"coalesce({later._after_dialing('c.ended_at', 'c.dialed_at')},")
    states = _swap(states, "ORDER BY s.state_from", IN_ORDER)
    body = _bounded(first.AUDIT_FROM, ("calls", 0), ("events", 0), ("events", 1))
    return f"SELECT\n    {first._listed(first.AUDIT | {'agent_states': (states, comment)})}\n{body}"


def _unmatched(first: ModuleType, later: ModuleType) -> str:
    connected = ", ".join(later._after_dialing(moment, "dialed_at") for moment in ("connected_at", "ended_at"))
    body = _swap(first.UNMATCHED_FROM, "coalesce(connected_at, ended_at,", f"coalesce({connected},")
    body = _swap(_swap(body, "FROM audit_gaps g", "FROM gaps g"), "SELECT next_day,", "SELECT day + 1,")
    body = _bounded(body, ("events", 0), ("calls", 0), ("calls", -1), ("calls", 0), ("events", 0), ("events", 1))
    return f"{GAPS}\nSELECT\n    {first._listed(first.UNMATCHED)}\n{body}"


def _twins(first: ModuleType, later: ModuleType) -> str:
    body = later.TWINS_FROM.replace(later.OF_ROW, "dialed_on, leg, dialed_at, in_a, in_b")
    shifts = iter((0, 1, 0))
    body = re.sub(
        r"FROM cdrs\b",
        lambda _: "FROM reporting.calls WHERE dialed_on BETWEEN $1 + {0} AND $2 + {0}".format(next(shifts)),
        body,
    )
    body = re.sub(r"FROM exports x\s+WHERE x.dataset = 'cdrs'\s+AND", "FROM reporting.lake_days x WHERE", body)
    body = _swap(body, "ORDER BY x.revision DESC LIMIT 1", "")
    return f"SELECT\n    {first._listed(later.TWINS)}\n{body}"


def _bounded(body: str, *sources: tuple[str, int]) -> str:
    """The body with functions instead of the views that it reads: in their order, so many days later."""
    left = iter(sources)

    def one(_: re.Match[str]) -> str:
        view, days = next(left)
        return f"FROM reporting.{view}_between($1 + {days}, $2 + {days})"

    bounded = re.sub(r"FROM reporting\.(?:calls_unmasked|calls|events)\b", one, body)
    if next(left, None):
        raise ValueError(f"there are fewer views than {sources}")
    return bounded


def _functions(view: str, body: str) -> None:
    for name, arguments, select in (
        ("between", "from_day date, until_day date", body),
        ("on", "day date", f"SELECT * FROM reporting.{view}_between($1, $1)"),
    ):
        _execute(
            f"CREATE FUNCTION reporting.{view}_{name}({arguments}) RETURNS SETOF reporting.{view}"
            f" LANGUAGE sql STABLE AS $$\n{select}\n$$"
        )
    told = "; locks partitions near these days only, if they are written as literal dates"
    told = OF_THESE_DAYS.get(view, "") + ("" if view == "agent_states" else told)
    _comment(f"FUNCTION reporting.{view}_on(date)", f"What reporting.{view} has of a day{told}")
    _comment(f"FUNCTION reporting.{view}_between(date, date)", f"What reporting.{view} has from day to day{told}")


def _say_what_it_locks(view: str) -> None:
    query = sa.text("SELECT obj_description(to_regclass(:name), 'pg_class')")
    comment = op.get_bind().execute(query, {"name": f"reporting.{view}"}).scalar_one()
    _comment(f"VIEW reporting.{view}", comment + LOCKS.format(view=view))


def _let_ask(relation: str, as_: str) -> None:
    """Whoever may ask the one may ask the other, from now on and not only after roles.sql was run again."""
    _let("SELECT", f"reporting.{as_}", f"SELECT ON reporting.{relation}")


def _let_call(function: str, privilege: str, relation: str) -> None:
    """Nobody but who has this right on the relation."""
    _execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    _let(privilege, relation, f"EXECUTE ON FUNCTION {function}")


def _let(privilege: str, relation: str, right: str) -> None:
    roles = sa.text(
        "SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END"
        " FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = to_regclass(:relation) AND privilege_type = :privilege"
    )
    for role in op.get_bind().scalars(roles, {"relation": relation, "privilege": privilege}).all():
        _execute(f"GRANT {right} TO {role}")


def _replace(view: str, columns: Columns, body: str) -> None:
    listed = ",\n    ".join(f"{expression} AS {column}" for column, (expression, _) in columns.items())
    _execute(f"CREATE OR REPLACE VIEW reporting.{view} AS\nSELECT\n    {listed}\n{body}")


def _swap(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise ValueError(f"there should be one of this, and there are {text.count(old)}: {old}")
    return text.replace(old, new)


def _tell(relation: str, columns: Columns) -> None:
    for column, (_, comment) in columns.items():
        _comment(f"COLUMN reporting.{relation}.{column}", comment)


def _comment(subject: str, text: str) -> None:
    quoted = text.replace("'", "''")
    _execute(f"COMMENT ON {subject} IS '{quoted}'")


def _execute(statement: str) -> None:
    """As it stands: no colon or percent sign in it names a parameter."""
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))
