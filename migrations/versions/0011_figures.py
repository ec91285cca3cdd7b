"""Durations that can't be right count nowhere any more; and calls that look like one call in two rows are listed.

Of the views of 0006 only what changes is said here, and columns are only appended: so what reads them goes on, and so
do processes of 0.1, which neither write nor ask what is new.
"""

from types import ModuleType

from alembic import context, op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

Columns = dict[str, tuple[str, str]]  # name → expression, comment

# No call lasts longer than a day, in seconds, nor ends before it begins. A dialler whose clock was set back says so all
# the same; and minus a Unix time, of a call whose beginning it never noted.
LONGEST = 86_400
LATEST = f"interval '{LONGEST} seconds'"


def _within(seconds: str) -> str:
    return f"CASE WHEN {seconds} BETWEEN 0 AND {LONGEST} THEN {seconds} END"


def _between(start: str, end: str) -> str:
    """By their whole seconds, since of the call's beginning there are no others."""
    return f"extract(epoch FROM date_trunc('second', {end}) - date_trunc('second', {start}))"


TOLD = {  # duration → the column that tells it, and the moments between which it lies
    "ring_seconds": ("c.ring_time", "c.dialed_at", "c.answered_at"),
    "hold_seconds": ("c.hold_time", "c.answered_at", "c.connected_at"),
    "talk_seconds": ("c.call_time", "c.connected_at", "c.ended_at"),
}
SECONDS: Columns = {
    name: (
        f"coalesce({_within(told)}, ({_within(_between(start, end))})::integer)",
        f"{what}, from whichever dialect told it; null if none did, or nothing between 0 and {LONGEST:,} seconds",
    )
    for (name, (told, start, end)), what in zip(TOLD.items(), ("Ringing", "On hold", "Talk with an agent"), strict=True)
}
ABSURD: Columns = {
    "absurd_durations": (
        " + ".join(
            f"coalesce((coalesce({told}, {_between(start, end)}) NOT BETWEEN 0 AND {LONGEST})::integer, 0)"
            for told, start, end in TOLD.values()
        ),
        f"How many of ringing, hold and talk were sent as less than 0 or more than {LONGEST:,} seconds; cdrs has what"
        " was sent",
    ),
}
ABSURD_CALLS = "Calls with a duration that can't be right, below 0 or above a day: it is in no sum and no average"
# What is kept. With a default, by which figures of 0.1 stay what they are, and for its rollups.
ABSURD_KEPT: Columns = {"absurd_durations": ("f.absurd_durations", ABSURD_CALLS)}
TALK_KEPT: Columns = {"talk_unknown": ("", "Calls with an agent whose talk isn't known, or can't be right")}
HOLD_KEPT: Columns = {"hold_unknown": ("", "Answered calls of the agent whose hold isn't known, or can't be right")}
# What views make of it: an average is of the calls of which the duration is known.
TALKED = "f.reached_agent - f.talk_unknown"
CAMPAIGN_AVERAGE: Columns = {
    "average_talk_seconds": (
        f"round(f.talk_seconds::numeric / nullif({TALKED}, 0), 1)",
        "Of the calls with an agent whose talk is known",
    )
}
CAMPAIGN_MORE: Columns = {
    **ABSURD_KEPT,
    "talked": (TALKED, "Calls with an agent whose talk is known: average_talk_seconds is talk_seconds / talked"),
}
AGENT_AVERAGE: Columns = {
    "average_handle_seconds": (
        "round(f.talk_seconds::numeric / nullif(f.talked, 0) + coalesce(f.hold_seconds / nullif(f.held, 0), 0), 1)",
        "Average talk and average hold, of the calls of which each is known, from CDRs; what follows a call is in"
        " wrapup_seconds",
    )
}
AGENT_MORE: Columns = {
    **ABSURD_KEPT,
    "talked": ("f.talked", "Of calls, those whose talk is known"),
    "held": ("f.held", "Of calls, those whose hold is known"),
}
AGENT_SUMS = (
    "sum(absurd_durations) AS absurd_durations, sum(calls - talk_unknown) AS talked, sum(calls - hold_unknown) AS held"
)

# A row says which dialects it was made of. What only dialect B has is in_b; without any of that it's of dialect A, and
# otherwise in_a is what only that has.
IN_B = "num_nonnulls(uuid, answered_at, connected_at, ended_at) > 0"
IN_A = f"(NOT {IN_B} OR num_nonnulls(number, dial_number, call_time, hold_time, ring_time, contact_ref, end_code) > 0)"
ROW = ("dialed_on", "leg", "dialed_at", "in_a", "in_b")
OF_ROW = f"dialed_on, leg, dialed_at, {IN_A} AS in_a, {IN_B} AS in_b"

TWINS: Columns = {
    "day": ("t.day", "UTC day of the first row, its dialed_on; dates asked of it prune"),
    "source": ("t.source", "The system that reported the call"),
    "call_ref": ("t.call_ref", "The call's own reference within its system"),
    "kind": (
        "t.kind",
        "leg: on one day, of legs 0 and 1, or of other legs and one from either dialect alone. day: on neighbouring"
        " days, at most 14 hours apart, and not from the same dialects. day in the lake: from one dialect, within 10"
        " seconds of midnight, and loaded when the neighbouring day had left Postgres: its twin may be in the lake",
    ),
    "first_dialed_on": ("t.first_dialed_on", "dialed_on of the first row"),
    "first_leg": ("t.first_leg", "leg of the first row"),
    "first_dialed_at": ("t.first_dialed_at", "dialed_at of the first row"),
    "second_dialed_on": ("t.second_dialed_on", "dialed_on of the second row; null if that may be in the lake"),
    "second_leg": ("t.second_leg", "leg of the second row; null if that may be in the lake"),
    "second_dialed_at": ("t.second_dialed_at", "dialed_at of the second row; null if that may be in the lake"),
}
# A day and the next one, brought together by a window and no join: through its partition what is asked of the day comes
# to both. Few calls are left behind it, whose rows are paired from arrays.
TWINS_FROM = f"""
FROM (
    SELECT g.day, g.source, g.call_ref, CASE WHEN b.dialed_on = a.dialed_on THEN 'leg' ELSE 'day' END AS kind,
        a.dialed_on AS first_dialed_on, a.leg AS first_leg, a.dialed_at AS first_dialed_at,
        b.dialed_on AS second_dialed_on, b.leg AS second_leg, b.dialed_at AS second_dialed_at
    FROM (
        SELECT day, source, call_ref, {", ".join(f"array_agg({name}) AS {name}" for name in ROW)}
        FROM (
            SELECT *, count(*) OVER (PARTITION BY day, source, call_ref) AS rows
            FROM (
                SELECT dialed_on AS day, source, call_ref, {OF_ROW} FROM cdrs
                UNION ALL
                SELECT dialed_on - 1, source, call_ref, {OF_ROW} FROM cdrs
            ) today_and_tomorrow
        ) counted
        WHERE rows > 1
        GROUP BY day, source, call_ref
    ) g
    CROSS JOIN LATERAL unnest({", ".join(f"g.{name}" for name in ROW)}) AS a ({", ".join(ROW)})
    CROSS JOIN LATERAL unnest({", ".join(f"g.{name}" for name in ROW)}) AS b ({", ".join(ROW)})
    WHERE a.dialed_on = g.day AND CASE
        WHEN b.dialed_on = a.dialed_on THEN a.leg < b.leg AND (
            (a.leg = 0 AND b.leg = 1) OR (a.in_a <> b.in_a AND a.in_b <> b.in_b)
        )
        ELSE greatest(a.leg, 1) = greatest(b.leg, 1)
            AND b.dialed_at - a.dialed_at BETWEEN interval '-14 hours' AND interval '14 hours'
            AND (a.in_a, a.in_b) <> (b.in_a, b.in_b)
    END
    UNION ALL
    SELECT c.dialed_on, c.source, c.call_ref, 'day in the lake', c.dialed_on, c.leg, c.dialed_at, NULL, NULL, NULL
    FROM (
        SELECT source, call_ref, loaded_at, ((dialed_at + interval '12 hours') AT TIME ZONE 'UTC')::date AS nearest,
            {OF_ROW}
        FROM cdrs
    ) c
    WHERE NOT (c.in_a AND c.in_b)
        AND c.dialed_at - c.nearest::timestamp AT TIME ZONE 'UTC'
            BETWEEN interval '-10 seconds' AND interval '10 seconds'
        AND c.loaded_at > (
            SELECT x.dropped_at FROM exports x
            WHERE x.dataset = 'cdrs'
                AND x.day = CASE c.dialed_on WHEN c.nearest THEN c.nearest - 1 WHEN c.nearest - 1 THEN c.nearest END
            ORDER BY x.revision DESC LIMIT 1
        )
) t"""

COUNTED = "When they were counted: by each `etl rollup`, and nightly"
TWINS_OF_DAY = (
    "Calls that look like one call in two rows, the first of them on this day, by the last nightly or other whole"
    " rollup: see reporting.twins. Null: not counted yet"
)


def upgrade() -> None:
    before = context.script.get_revision("0006").module
    _calls(before)
    _kept(before)
    _history_and_audit(before)
    _twins(before)


def downgrade() -> None:
    raise NotImplementedError("there is no way back to 0.1: restore the backup that was made before the upgrade")


def _calls(before: ModuleType) -> None:
    _replace("calls_unmasked", before.CALLS | SECONDS | before.NEXT_DAY | ABSURD, before.CALLS_FROM)
    masked = {"absurd_durations": ("c.absurd_durations", ABSURD["absurd_durations"][1])}
    _replace("calls", before.MASKED | masked, "FROM reporting.calls_unmasked c")
    for view in ("calls_unmasked", "calls"):
        _tell(view, SECONDS | ABSURD)


def _kept(before: ModuleType) -> None:
    for table, columns in (
        ("campaign_figures", ABSURD_KEPT | TALK_KEPT),
        ("agent_call_figures", ABSURD_KEPT | TALK_KEPT | HOLD_KEPT),
    ):
        added = ", ".join(f"ADD COLUMN {column} integer NOT NULL DEFAULT 0" for column in columns)
        _execute(f"ALTER TABLE reporting.{table} {added}")
        _tell(table, columns)
    agents = _swap(before.AGENTS_FROM, "sum(unclosed) AS unclosed,", f"sum(unclosed) AS unclosed, {AGENT_SUMS},")
    kept = "absurd_durations, talk_unknown, hold_unknown"
    agents = _swap(agents, "0 AS unclosed, refreshed_at", f"0 AS unclosed, refreshed_at, {kept}")
    agents = _swap(agents, "unclosed, refreshed_at\n        FROM", "unclosed, refreshed_at, 0, 0, 0\n        FROM")
    campaigns = "FROM reporting.campaign_figures f WHERE f.hour IS "
    for period, hour, which in (("days", {}, "NULL"), ("hours", {"hour": ("f.hour", "")}, "NOT NULL")):
        columns = before.CAMPAIGN_KEY | hour | before.CAMPAIGN_FIGURES | CAMPAIGN_AVERAGE | CAMPAIGN_MORE
        _replace(f"campaign_{period}", columns, campaigns + which)
        _tell(f"campaign_{period}", CAMPAIGN_AVERAGE | CAMPAIGN_MORE)
        columns = before.AGENT_KEY | hour | before.AGENT_FIGURES | AGENT_AVERAGE | AGENT_MORE
        _replace(f"agent_{period}", columns, agents.format(which=which))
        _tell(f"agent_{period}", AGENT_AVERAGE | AGENT_MORE)


def _history_and_audit(before: ModuleType) -> None:
    """Which have the seconds from cdrs themselves, or moments that are as little to be trusted."""
    listed = before._listed
    history = _swap(before.HISTORY_FROM, listed(before.CALLS), listed(before.CALLS | SECONDS))
    _replace("contact_history", before.HISTORY, history)
    states, comment = before.AUDIT["agent_states"]
    states = _swap(states, "coalesce(c.ended_at,", f"coalesce({_after_dialing('c.ended_at', 'c.dialed_at')},")
    _replace("call_audit", before.AUDIT | {"agent_states": (states, comment)}, before.AUDIT_FROM)
    connected = ", ".join(_after_dialing(moment, "dialed_at") for moment in ("connected_at", "ended_at"))
    unmatched = _swap(before.UNMATCHED_FROM, "coalesce(connected_at, ended_at,", f"coalesce({connected},")
    _replace("unmatched_calls", before.UNMATCHED, unmatched)
    for view, columns in (("contact_history", ("talk_seconds",)), ("call_audit", tuple(SECONDS))):
        _tell(view, {name: SECONDS[name] for name in columns})


def _after_dialing(moment: str, dialed_at: str) -> str:
    return f"CASE WHEN {moment} BETWEEN {dialed_at} AND {dialed_at} + {LATEST} THEN {moment} END"


def _twins(before: ModuleType) -> None:
    _execute(f"CREATE VIEW reporting.twins AS\nSELECT\n    {before._listed(TWINS)}\n{TWINS_FROM}")
    _comment("VIEW reporting.twins", "Calls that look like one call in two rows. Of what Postgres has: not of the lake")
    _tell("twins", TWINS)
    _execute("ALTER TABLE reporting.rolled_up ADD COLUMN twins integer, ADD COLUMN twins_at timestamptz")
    _tell("rolled_up", {"twins": ("", f"Of cdrs: {TWINS_OF_DAY}"), "twins_at": ("", COUNTED)})
    # Whatever migration made it what it is by now.
    load_days = op.get_bind().exec_driver_sql("SELECT pg_get_viewdef('reporting.load_days'::regclass)").scalar_one()
    _execute(f"""CREATE OR REPLACE VIEW reporting.load_days AS
SELECT d.*, r.twins FROM ({load_days.rstrip(";")}) d
LEFT JOIN reporting.rolled_up r ON r.dataset = 'cdrs' AND r.day = d.day""")
    _tell("load_days", {"twins": ("", TWINS_OF_DAY)})
    _let_ask("twins", as_="load_days")


def _let_ask(view: str, as_: str) -> None:
    """Whoever may ask the one may ask the other, from now on and not only after roles.sql was run again."""
    _execute(f"""DO $$
DECLARE
    role oid;
BEGIN
    FOR role IN
        SELECT DISTINCT grantee FROM pg_class, aclexplode(relacl)
        WHERE pg_class.oid = 'reporting.{as_}'::regclass AND privilege_type = 'SELECT'
    LOOP
        EXECUTE format('GRANT SELECT ON reporting.{view} TO %s',
            CASE role WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(role)) END);
    END LOOP;
END
$$""")


def _replace(view: str, columns: Columns, body: str) -> None:
    listed = ",\n    ".join(f"{expression} AS {column}" for column, (expression, _) in columns.items())
    _execute(f"CREATE OR REPLACE VIEW reporting.{view} AS\nSELECT\n    {listed}\n{body}")


def _swap(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise ValueError(f"0006 has this {text.count(old)} times, and not once: {old}")
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
