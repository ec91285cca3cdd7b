"""Figures by the trade's definitions, inbound and outbound apart; what isn't known is null. docs/reports.md has the
formula and the source of each.

Columns are only appended. Those that are kept are null in figures of an etl before: so what reads these views goes on,
and rollups of 0.1 do. Of waits the whole distribution is kept, as arrays beside each other: so the thresholds of
reporting.settings apply at once, and days can be taken together.
"""

from types import ModuleType

from alembic import context, op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

Columns = dict[str, tuple[str, str]]  # name → expression or type, comment

# -- settings

RATE = "CHECK ({} BETWEEN 0 AND 1)"
SETTINGS: Columns = {
    "service_level_seconds": (
        "integer NOT NULL DEFAULT 20 CHECK (service_level_seconds BETWEEN 0 AND 86400)",
        "Service level: within how many seconds an agent is to answer",
    ),
    "short_abandon_seconds": (
        "integer NOT NULL DEFAULT 5 CHECK (short_abandon_seconds BETWEEN 0 AND 86400)",
        "A short abandon: who hung up after waiting so many seconds or fewer",
    ),
    "target_service_level": (
        f"numeric {RATE.format('target_service_level')}",
        "Target: service_level, at least; null: none",
    ),
    "target_speed_of_answer": (
        "numeric CHECK (target_speed_of_answer >= 0)",
        "Target: average_speed_of_answer in seconds, at most; null: none",
    ),
    "target_inbound_abandon_rate": (
        f"numeric {RATE.format('target_inbound_abandon_rate')}",
        "Target: inbound_abandon_rate, at most; null: none",
    ),
    "target_outbound_abandon_rate": (
        f"numeric {RATE.format('target_outbound_abandon_rate')}",
        "Target: outbound_abandon_rate, at most; null: none. Regulators' limit is 0.03 in many countries",
    ),
    "target_occupancy": (f"numeric {RATE.format('target_occupancy')}", "Target: occupancy, at least; null: none"),
}

# -- calls

SAYS_MACHINE = "(machine|voice[ _-]?mail|answer[ _-]?phone)"
MACHINE = (
    "Whether a machine answered, as the disposition says: by reporting.end_reasons, else if there is machine, voicemail"
    " or answerphone in its name"
)


def _calls(later: ModuleType) -> Columns:
    """Of reporting.calls_unmasked, beside what it has."""
    reached = "((coalesce(r.answered, false) OR c.answered_at IS NOT NULL) AND c.extension IS NOT NULL)"
    hold, _ = later.SECONDS["hold_seconds"]
    until_the_end = f"({later._within(later._between('c.answered_at', 'c.ended_at'))})::integer"
    machine = f"coalesce(r.machine, c.end_reason ~* '{SAYS_MACHINE}', false)"
    return {
        "machine": (machine, MACHINE),
        "outcome_known": (
            f"r.end_reason IS NOT NULL OR {machine}",
            "Whether the disposition is in reporting.end_reasons, or says machine; of others nothing is guessed",
        ),
        "wait_seconds": (
            f"coalesce({hold}, CASE WHEN NOT {reached} THEN {until_the_end} END)",
            "From answering until an agent was there, or until the callee hung up; null if nobody told",
        ),
    }


# -- kept figures

COUNT = "integer"
KEPT: Columns = {
    "outbound_attempts": (COUNT, "Calls that were dialled"),
    "outbound_answered": (COUNT, "Of these, answered by the network, machines among them"),
    "outbound_machines": (COUNT, "Of outbound_attempts, those that a machine took, as the disposition says"),
    "outbound_reached": (COUNT, "Outbound calls that a person answered and an agent was on"),
    "outbound_dropped": (
        COUNT,
        "Abandoned calls of outbound dialling: a person answered, and no agent was on it; no machines",
    ),
    "outbound_unclear": (
        COUNT,
        "Outbound calls that were answered without an agent, by a person or a machine: the disposition isn't in"
        " reporting.end_reasons. In no rate of abandoned calls",
    ),
    "outbound_contacts": (COUNT, "Different callees that were dialled, by reference or, where there is none, number"),
    "outbound_contacts_reached": (COUNT, "Of these, those whom an agent talked to, machines left out"),
    "outbound_contact_attempts": (COUNT, "Of outbound_attempts, those whose callee is known"),
    "inbound_calls": (COUNT, "Calls that came in"),
    "inbound_offered": (COUNT, "Of these, those that came into the queue: answered by it"),
    "inbound_reached": (COUNT, "Of inbound_offered, those that an agent answered"),
    "unknown_dispositions": (COUNT, "Calls whose disposition isn't in reporting.end_reasons, and says no machine"),
    "waits": ("integer[]", "Waits in seconds, each once, from the shortest; the next three are beside it"),
    "waits_answered": ("integer[]", "How many inbound calls an agent answered after each of waits"),
    "waits_abandoned": ("integer[]", "How many inbound calls were given up after each of waits"),
    "waits_dropped": ("integer[]", "How many outbound calls of outbound_dropped ended after each of waits"),
}
CALLS_OF_AGENTS: Columns = {
    "outbound_calls": (COUNT, "Of calls, those that were dialled"),
    "inbound_calls": (COUNT, "Of calls, those that came in"),
}
PREVIEWS: Columns = {
    "day": ("date NOT NULL", "Business day"),
    "campaign_ref": ("text NOT NULL", "Campaign"),
    "contacts": ("integer NOT NULL", "Different callees that the dialler previewed (dial_preview), as far as heard"),
    "refreshed_at": ("timestamptz NOT NULL DEFAULT now()", "When it was computed"),
}

# -- views


def _ratio(part: str, whole: str, digits: int = 4) -> str:
    return f"round(({part})::numeric / nullif({whole}, 0), {digits})"


def _of_waits(expression: str) -> str:
    """Null where no waits are kept, and 0 where there were none."""
    return f"CASE WHEN f.waits IS NOT NULL THEN coalesce({expression}, 0) END"


LIVE = "(f.outbound_reached + f.outbound_dropped)"
ABANDONED = "(f.inbound_offered - f.inbound_reached)"
SHARE_KNOWN = "Of the offered calls whose wait is known"
FIGURES: Columns = {
    **{
        name: (f"f.{name}", KEPT[name][1])
        for name in ("outbound_attempts", "outbound_answered", "outbound_machines", "outbound_reached")
    },
    **{name: (f"f.{name}", KEPT[name][1]) for name in ("outbound_dropped", "outbound_unclear")},
    "outbound_short_dropped": (
        _of_waits("w.short_dropped"),
        "Of outbound_dropped, those within short_abandon_seconds of reporting.settings; they are in the rate too",
    ),
    "outbound_live": (LIVE, "Live answers: outbound_reached + outbound_dropped, without machines"),
    "outbound_asr": (
        _ratio("f.outbound_answered", "f.outbound_attempts"),
        "Answer-seizure ratio (ITU-T E.425): outbound_answered / outbound_attempts; a network's figure",
    ),
    "outbound_abandon_rate": (
        _ratio("f.outbound_dropped", LIVE),
        "Abandoned call rate (Ofcom; FTC 16 CFR 310.4; FCC 47 CFR 64.1200): outbound_dropped / outbound_live",
    ),
    **{name: (f"f.{name}", KEPT[name][1]) for name in KEPT if name.startswith("outbound_contact")},
    "outbound_contact_rate": (
        _ratio("f.outbound_contacts_reached", "f.outbound_contacts"),
        "outbound_contacts_reached / outbound_contacts. Whether it was the right party no CDR tells",
    ),
    "attempts_per_contact": (
        _ratio("f.outbound_contact_attempts", "f.outbound_contacts", 2),
        "outbound_contact_attempts / outbound_contacts",
    ),
    **{name: (f"f.{name}", KEPT[name][1]) for name in ("inbound_calls", "inbound_offered", "inbound_reached")},
    "inbound_abandoned": (ABANDONED, "inbound_offered - inbound_reached: left the queue without an agent"),
    "inbound_short_abandoned": (
        _of_waits("w.short_abandoned"),
        "Of inbound_abandoned, those within short_abandon_seconds of reporting.settings",
    ),
    "inbound_abandon_rate": (_ratio(ABANDONED, "f.inbound_offered"), "inbound_abandoned / inbound_offered"),
    "waits_known": (_of_waits("w.known"), "Of inbound_offered, those whose wait is known"),
    "answered_in_time": (
        _of_waits("w.in_time"),
        "Of inbound_reached, those within service_level_seconds of reporting.settings",
    ),
    "service_level": (
        _ratio(_of_waits("w.in_time"), "w.known"),
        f"{SHARE_KNOWN}: answered_in_time / waits_known, abandoned ones among them",
    ),
    "service_level_without_short": (
        _ratio(_of_waits("w.in_time"), "w.known - coalesce(w.short_abandoned, 0)"),
        f"{SHARE_KNOWN}, without short abandons: answered_in_time / (waits_known - inbound_short_abandoned)",
    ),
    "answer_waits_known": (_of_waits("w.answered"), "Of inbound_reached, those whose wait is known"),
    "answer_wait_seconds": (_of_waits("w.answer_wait"), "The waits of answer_waits_known, added up"),
    "average_speed_of_answer": (
        _ratio("w.answer_wait", "w.answered", 1),
        "ASA, in seconds: answer_wait_seconds / answer_waits_known",
    ),
    "longest_wait": ("w.longest", "The longest wait of an offered call, in seconds"),
    "wait_p80": (
        "w.p80",
        "80th percentile of the waits of offered calls, in seconds: so long or less waited 80 of 100",
    ),
    "wait_p95": ("w.p95", "95th percentile of the waits of offered calls, in seconds"),
    "unknown_dispositions": ("f.unknown_dispositions", KEPT["unknown_dispositions"][1]),
    **{name: (f"f.{name}", KEPT[name][1]) for name in KEPT if name.startswith("waits")},
}
PREVIEWED: Columns = {
    "contacts_previewed": (
        "p.contacts",
        "Different callees that the dialler previewed (dial_preview); null if nobody heard it do so",
    ),
    "list_penetration": (
        _ratio("f.outbound_contacts", "p.contacts"),
        "outbound_contacts / contacts_previewed; above 1 if previews weren't heard",
    ),
}
WAITS = """
CROSS JOIN reporting.settings s
CROSS JOIN LATERAL (
    SELECT sum(answered + abandoned) AS known, sum(answered) AS answered,
        sum(answered) FILTER (WHERE wait <= s.service_level_seconds) AS in_time,
        sum(abandoned) FILTER (WHERE wait <= s.short_abandon_seconds) AS short_abandoned,
        sum(dropped) FILTER (WHERE wait <= s.short_abandon_seconds) AS short_dropped,
        sum(wait::bigint * answered) AS answer_wait, max(wait) FILTER (WHERE answered + abandoned > 0) AS longest,
        min(wait) FILTER (WHERE answered + abandoned > 0 AND upto * 100 >= total * 80) AS p80,
        min(wait) FILTER (WHERE answered + abandoned > 0 AND upto * 100 >= total * 95) AS p95
    FROM (
        SELECT *, sum(answered + abandoned) OVER (ORDER BY wait) AS upto, sum(answered + abandoned) OVER () AS total
        FROM unnest(f.waits, f.waits_answered, f.waits_abandoned, f.waits_dropped)
            AS of_a_row (wait, answered, abandoned, dropped)
    ) heaped
) w
"""
OF_PREVIEWS = (
    "LEFT JOIN reporting.preview_figures p ON p.day = f.day AND p.campaign_ref = f.campaign_ref AND f.hour IS NULL\n"
)

WRAPPED = "CASE WHEN f.wrapup_seconds > 0 THEN f.calls ELSE 0 END"
WRAPUP = "coalesce(f.wrapup_seconds / nullif({calls}, 0), 0)"
OF_AGENTS: Columns = {
    **{name: (f"f.{name}", comment) for name, (_, comment) in CALLS_OF_AGENTS.items()},
    "states_known": (
        "f.logged_in_seconds > 0",
        "Whether events tell of the agent's states then; if not, the seconds of states are 0 since nobody knows them",
    ),
    "wrapped_calls": (WRAPPED, "calls, where events tell of wrap-up, else 0"),
    "average_wrapup_seconds": (
        _ratio("f.wrapup_seconds", WRAPPED, 1),
        "wrapup_seconds / wrapped_calls; null where events tell of none",
    ),
    "aht_seconds": (
        "round(f.talk_seconds::numeric / nullif(f.talked, 0) + coalesce(f.hold_seconds::numeric / nullif(f.held, 0), 0)"
        f" + {WRAPUP.format(calls=WRAPPED)}, 1)",
        "Average handling time (AHT): average talk + average hold + average wrap-up; what aht_of says",
    ),
    "aht_of": (
        "CASE WHEN f.talked > 0 THEN CASE WHEN f.wrapup_seconds > 0 THEN 'talk + hold + wrap-up' ELSE 'talk + hold' END"
        " END",
        "What aht_seconds is made of: talk + hold where events tell of no wrap-up",
    ),
}


def upgrade() -> None:
    first, later, masks = (context.script.get_revision(number).module for number in ("0006", "0011", "0020"))
    _settings(masks)
    _views_of_calls(first, later, masks)
    _kept(masks)
    _views_of_figures(first, later, masks)


def downgrade() -> None:
    raise NotImplementedError("there is no way back to 0.1: restore the backup that was made before the upgrade")


def _settings(masks: ModuleType) -> None:
    _add("settings", SETTINGS, masks)
    _add(
        "end_reasons", {"machine": ("boolean", "Whether it means that a machine answered; null: its name says")}, masks
    )
    # Of ours; a site's own may be named as a machine's.
    ours = ", ".join(f"'{end_reason}'" for end_reason, *_ in context.script.get_revision("0006").module.END_REASONS)
    _execute(f"UPDATE reporting.end_reasons SET machine = (end_reason = 'voicemail') WHERE end_reason IN ({ours})")


def _views_of_calls(first: ModuleType, later: ModuleType, masks: ModuleType) -> None:
    days = context.script.get_revision("0017").module
    number, _ = first.CALLS["number"]
    told = {
        "number_key": (days.NUMBER_KEY.format(number=f"({number})"), ""),
        "in_a": (later.IN_A, ""),
        "in_b": (later.IN_B, ""),
    }
    mine = _calls(later)
    known = first.CALLS | later.SECONDS | first.NEXT_DAY | later.ABSURD | told | mine
    quick = {name: (_quick(expression, later), comment) for name, (expression, comment) in known.items()}
    masks._replace("calls_unmasked", quick, first.CALLS_FROM)
    added = [*later.ABSURD, "number_key", "in_a", "in_b"]
    columns = first.MASKED | {name: (f"c.{name}", "") for name in added} | first.NEXT_DAY
    keys = {"call_key": (masks._key("c.call_ref"), ""), "contact_key": (masks._key("c.contact_ref"), "")}
    shown = {name: (f"c.{name}", "") for name in mine}
    masks._replace("calls", masks._masked(columns, masks.MASKS) | keys | shown, "FROM reporting.calls_unmasked c")
    for view in ("calls_unmasked", "calls"):
        masks._tell(view, {name: comment for name, (_, comment) in mine.items()})
        # Bound to the columns that there were.
        for name, arguments, select in (
            ("between", "from_day date, until_day date", f"SELECT * FROM reporting.{view} WHERE {masks.OF_DAYS}"),
            ("on", "day date", f"SELECT * FROM reporting.{view}_between($1, $1)"),
        ):
            _execute(
                f"CREATE OR REPLACE FUNCTION reporting.{view}_{name}({arguments}) RETURNS SETOF reporting.{view}"
                f" LANGUAGE sql STABLE BEGIN ATOMIC {select}; END"
            )


def _quick(expression: str, later: ModuleType) -> str:
    """The same; but of a moment that isn't there nothing is computed, which is most of what a row of dialect A cost."""
    for _, start, end in (*later.TOLD.values(), ("", "c.answered_at", "c.ended_at")):
        between = later._between(start, end)
        expression = expression.replace(between, f"CASE WHEN {end} IS NOT NULL THEN {between} END")
    return expression


def _kept(masks: ModuleType) -> None:
    _add("campaign_figures", KEPT, masks)
    _add("agent_call_figures", CALLS_OF_AGENTS, masks)
    listed = ",\n    ".join(f"{column} {kind}" for column, (kind, _) in PREVIEWS.items())
    _execute(f"CREATE TABLE reporting.preview_figures (\n    {listed}\n)")
    # As 0015 has it: no key, since a campaign's name may be longer than an index takes.
    _execute("ALTER TABLE reporting.preview_figures REPLICA IDENTITY FULL")
    _execute("CREATE INDEX preview_figures_day_idx ON reporting.preview_figures (day)")
    masks._comment(
        "TABLE reporting.preview_figures", "Kept figures of previews by campaign and business day, from events"
    )
    masks._tell("preview_figures", {name: comment for name, (_, comment) in PREVIEWS.items()})
    # Who keeps figures keeps these, from now on and not only after roles.sql was run again.
    for privilege in ("SELECT", "INSERT", "DELETE", "UPDATE"):
        for role in masks._grantees("reporting.campaign_figures", privilege):
            _execute(f"GRANT {privilege} ON reporting.preview_figures TO {role}")


def _views_of_figures(first: ModuleType, later: ModuleType, masks: ModuleType) -> None:
    reference = (
        f"CASE WHEN {masks.SEES} OR NOT reporting.has_six_digits(f.campaign_ref) THEN f.campaign_ref"
        " WHEN coalesce(f.tells_number, true) OR reporting.tells_number(f.campaign_ref, NULL)"
        f" THEN reporting.masked_reference(f.campaign_ref, {masks.KEY}) ELSE f.campaign_ref END"
    )
    agents = _agents_from(first, later)
    for period, hour, which in (("days", {}, "NULL"), ("hours", {"hour": ("f.hour", "")}, "NOT NULL")):
        columns = first.CAMPAIGN_KEY | {"campaign_ref": (reference, "")} | hour
        columns |= first.CAMPAIGN_FIGURES | later.CAMPAIGN_AVERAGE | later.CAMPAIGN_MORE
        new = FIGURES | (PREVIEWED if period == "days" else {})
        body = f"FROM reporting.campaign_figures f {WAITS} {OF_PREVIEWS if period == 'days' else ''}"
        masks._replace(f"campaign_{period}", columns | new, f"{body} WHERE f.hour IS {which}")
        masks._tell(f"campaign_{period}", {name: comment for name, (_, comment) in new.items()})
        columns = first.AGENT_KEY | hour | first.AGENT_FIGURES | later.AGENT_AVERAGE | later.AGENT_MORE
        masks._replace(f"agent_{period}", columns | OF_AGENTS, agents.format(which=which))
        masks._tell(f"agent_{period}", {name: comment for name, (_, comment) in OF_AGENTS.items()})


def _agents_from(first: ModuleType, later: ModuleType) -> str:
    sums = ", ".join(
        f"CASE WHEN bool_and({name} IS NOT NULL) THEN sum({name}) END AS {name}" for name in CALLS_OF_AGENTS
    )
    kept = "absurd_durations, talk_unknown, hold_unknown, outbound_calls, inbound_calls"
    agents: str = first.AGENTS_FROM
    for old, new in (
        ("sum(unclosed) AS unclosed,", f"sum(unclosed) AS unclosed, {later.AGENT_SUMS}, {sums},"),
        ("0 AS unclosed, refreshed_at", f"0 AS unclosed, refreshed_at, {kept}"),
        ("unclosed, refreshed_at\n        FROM", "unclosed, refreshed_at, 0, 0, 0, 0, 0\n        FROM"),
    ):
        agents = later._swap(agents, old, new)
    return agents


def _add(table: str, columns: Columns, masks: ModuleType) -> None:
    added = ", ".join(f"ADD COLUMN {column} {kind}" for column, (kind, _) in columns.items())
    _execute(f"ALTER TABLE reporting.{table} {added}")
    masks._tell(table, {name: comment for name, (_, comment) in columns.items()})


def _execute(statement: str) -> None:
    """As it stands: no colon or percent sign in it names a parameter."""
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))
