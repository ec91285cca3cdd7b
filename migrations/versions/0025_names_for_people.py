"""Names for people: what an agent, a campaign or a number is called, beside its reference in every view that is asked.

Whoever may not see numbers gets none by a name: no name of a number, nor of a reference that tells one, and of others
what free text is masked to. That is kept beside each name, since to mask one costs more than the rest of its row. The
views join by the reference that they show.
"""

import re
from types import ModuleType

import sqlalchemy as sa
from alembic import context, op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

Columns = dict[str, tuple[str, str]]  # name → expression or type, comment

NAMES: Columns = {
    "kind": ("text NOT NULL CHECK (kind IN ('agent', 'campaign', 'number'))", "agent, campaign or number"),
    # What is longer doesn't fit into an index, whatever its characters are.
    "reference": (
        "text NOT NULL CHECK (length(reference) BETWEEN 1 AND 512)",
        "As the views show it: an agent's extension, a campaign's reference, a client's number",
    ),
    "name": ("text NOT NULL CHECK (length(name) BETWEEN 1 AND 200)", "What it is called"),
    "group": (
        'text CHECK (length("group") BETWEEN 1 AND 200)',
        "A team, a client or the like. Agents of the same name and group are one person with several extensions",
    ),
    "masked_name": ("text GENERATED ALWAYS AS (reporting.mask_text(name)) STORED", "name, as mask_text has it"),
    "masked_group": ('text GENERATED ALWAYS AS (reporting.mask_text("group")) STORED', "group, as mask_text has it"),
    "tells_number": (
        "boolean GENERATED ALWAYS AS (kind = 'number' OR reporting.tells_number(reference, NULL)) STORED",
        "Whether the reference is a number, or has what looks like one in it: then only who sees numbers sees the name",
    ),
    "open_reference": (
        "text GENERATED ALWAYS AS (CASE WHEN kind <> 'number' AND NOT reporting.has_six_digits(reference)"
        " THEN reference END) STORED",
        "The reference, null if it may tell a number: some views mask it, as its row knows",
    ),
}
KINDS = {"agent": "extension", "campaign": "campaign_ref", "number": "number"}  # → the column that names it
# Not those that these are made of.
VIEWS = (
    *("calls", "events", "agent_states", "campaign_days", "campaign_hours", "agent_days", "agent_hours"),
    *("contact_history", "call_audit", "unmatched_calls"),
)

SUMS = (
    *("calls", "outbound_calls", "inbound_calls", "talk_seconds", "hold_seconds", "logged_in_seconds"),
    *("available_seconds", "busy_seconds", "wrapup_seconds"),
)
WORKED = "sum(busy_seconds) + sum(wrapup_seconds)"
PERSONS: Columns = {
    "day": ("day", "Business day"),
    "person": ("coalesce(min(agent_name), min(extension))", "The agent's name; of one without a name, the extension"),
    "agent_group": ("min(agent_group)", "The agent's group in reporting.names"),
    "extensions": ("array_agg(extension ORDER BY extension)", "The extensions that had calls or states that day"),
    **{name: (f"sum({name})", f"Of all these extensions together: {name} of reporting.agent_days") for name in SUMS},
    "states_known": ("bool_and(states_known)", "Whether events tell of the states of all these extensions"),
    "occupancy": (
        f"round(({WORKED})::numeric / nullif(sum(available_seconds) + {WORKED}, 0), 4)",
        "(busy + wrap-up) / (available + busy + wrap-up), of all these extensions together",
    ),
}


def upgrade() -> None:
    masks = context.script.get_revision("0020").module
    listed = ", ".join(f'"{column}" {kind}' for column, (kind, _) in NAMES.items())
    _execute(f"CREATE TABLE reporting.names ({listed}, PRIMARY KEY (kind, reference))")
    masks._comment("TABLE reporting.names", "Names for people to read: `etl names import`, or plain SQL")
    _tell("names", NAMES, masks)
    _masked(masks)
    _channels(masks)
    for view in VIEWS:
        _name(view, masks)
    # By the names as they are: two may be masked alike.
    masks._replace(
        "person_days",
        PERSONS,
        "FROM reporting.agent_days d LEFT JOIN reporting.names n ON n.kind = 'agent' AND n.reference = d.extension"
        ' GROUP BY day, n.name, n."group", CASE WHEN n.name IS NULL THEN extension END',
    )
    masks._comment("VIEW reporting.person_days", "A person's day: agent_days added up by name and group")
    _tell("person_days", PERSONS, masks)
    for role in masks._grantees("reporting.agent_days", "SELECT"):
        _execute(f"GRANT SELECT ON reporting.person_days TO {role}")
    # The functions of views ask it with the rights of who asks them.
    for role in sorted({role for view in VIEWS for role in masks._grantees(f"reporting.{view}", "SELECT")}):
        _execute(f"GRANT SELECT ON reporting.names_masked TO {role}")


def downgrade() -> None:
    raise NotImplementedError("there is no way back to 0.1: restore the backup that was made before the upgrade")


def _masked(masks: ModuleType) -> None:
    # A barrier: no function of who asks sees a row that is left out. EXPLAIN says how many rows a condition left out,
    # and how many it is thought to leave: so what is hidden meets no condition, and has no statistics.
    _execute(
        "CREATE VIEW reporting.names_masked WITH (security_barrier) AS"
        ' SELECT kind, open_reference AS reference, masked_name AS name, masked_group AS "group" FROM reporting.names'
        f" WHERE open_reference IS NOT NULL AND NOT {masks.SEES}"
        f' UNION ALL SELECT kind, reference, name, "group" FROM reporting.names WHERE {masks.SEES}'
    )
    for column in ("reference", "name", '"group"', "tells_number"):
        _execute(f"ALTER TABLE reporting.names ALTER {column} SET STATISTICS 0")
    _execute("CREATE INDEX ON reporting.names (kind, open_reference) WHERE open_reference IS NOT NULL")
    masks._comment(
        "VIEW reporting.names_masked",
        "reporting.names; who may not see numbers sees those whose reference has fewer than six digits",
    )
    _tell("names_masked", {name: NAMES[name] for name in ("kind", "reference", "name", "group")}, masks)


def _shown(table: str, part: str, masks: ModuleType) -> str:
    return f'CASE WHEN {masks.SEES} THEN {table}."{part}" WHEN NOT {table}.tells_number THEN {table}.masked_{part} END'


def _channels(masks: ModuleType) -> None:
    """What a listener's channels begin with is a reference like any other."""
    masked = masks._reference("s.channels", "NULL")
    _execute(
        masks.STATUSES.replace("CREATE VIEW", "CREATE OR REPLACE VIEW").replace("s.channels", f"{masked} AS channels")
    )


def _name(view: str, masks: ModuleType) -> None:
    """Adds the names at the view's end, and to its functions, whose bodies are bound to the columns that there were."""
    before, between = masks._columns(view), _body(f"{view}_between(date, date)")
    there = {kind: column for kind, column in KINDS.items() if column in before}
    names = {
        (kind, part): f"The {part} of {column} in reporting.names"
        for kind, column in there.items()
        for part in ("name", "group")
    }
    listed = ", ".join(f"{_shown(kind, part, masks)} AS {kind}_{part}" for kind, part in names)
    joins = " ".join(
        f"LEFT JOIN reporting.names {kind} ON {kind}.kind = '{kind}' AND {kind}.reference = s.{column}"
        for kind, column in there.items()
    )
    words = masks._definition(f"reporting.{view}")
    options = sa.text("SELECT array_to_string(reloptions, ', ') FROM pg_class WHERE oid = to_regclass(:view)")
    given = op.get_bind().scalar(options, {"view": f"reporting.{view}"})  # a site's own
    with_options = f" WITH ({given})" if given else ""
    _execute(f"CREATE OR REPLACE VIEW reporting.{view}{with_options} AS SELECT s.*, {listed} FROM ({words}) s {joins}")
    _tell(view, {f"{kind}_{part}": ("", comment) for (kind, part), comment in names.items()}, masks)
    if between is None:
        return
    if view == "agent_states":  # which gaps are theirs isn't known of channels that are masked
        between, found = re.subn(r"(\w+\.channels) IS NULL", r"\1 IS NULL OR starts_with(\1, 'masked:')", between)
        if found != 1:
            raise ValueError(f"this isn't what asks for the gaps of channels: {between}")
    whole = re.sub(rf"(?s)^SELECT .*?\sFROM reporting\.{view}\b", f"SELECT * FROM reporting.{view}", between)
    # With the rights of who asks; a row at a time by the index, as nobody knows how many such a function will have.
    looked_up = ", ".join(
        f"(SELECT n.\"{part}\" FROM reporting.names_masked n WHERE n.kind = '{kind}' AND n.reference = s.{there[kind]})"
        for kind, part in names
    )
    named = f"SELECT s.*, {looked_up} FROM ({between}) s ({', '.join(before)})"
    for name, arguments, select in (
        ("between", "from_day date, until_day date", named if whole == between else whole),
        ("on", "day date", f"SELECT * FROM reporting.{view}_between($1, $1)"),
    ):
        _execute(
            f"CREATE OR REPLACE FUNCTION reporting.{view}_{name}({arguments}) RETURNS SETOF reporting.{view}"
            f" LANGUAGE sql STABLE BEGIN ATOMIC {select}; END"
        )


def _body(signature: str) -> str | None:
    query = sa.text("SELECT pg_get_function_sqlbody(to_regprocedure(:name))")
    body = op.get_bind().scalar(query, {"name": f"reporting.{signature}"})
    if body is None:
        return None
    return str(body).strip().removeprefix("BEGIN ATOMIC").removesuffix("END").strip().removesuffix(";")


def _tell(relation: str, columns: Columns, masks: ModuleType) -> None:
    for column, (_, comment) in columns.items():
        masks._comment(f'COLUMN reporting.{relation}."{column}"', comment)


def _execute(statement: str) -> None:
    """As it stands: no colon or percent sign in it names a parameter."""
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))
