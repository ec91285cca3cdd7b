"""Numbers are masked in every spelling and wherever who asks reports may look; and no function looks for
anything in a schema of somebody else's.

The rules are those of docs/security.md. A reference is masked by the row's own number, so the same one may be masked in
one row and not in another: views join and group by a key, which is the true value's and tells it to nobody.
"""

import re
from types import ModuleType

import sqlalchemy as sa
from alembic import context, op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

Columns = dict[str, tuple[str, str]]  # name → expression, comment

# -- spellings

OTHER_DIGITS = "０１２３４５６７８９٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵۶۷۸۹"
ENCODED = r"(?:%(?:25)*(?:EF%(?:25)*BC%(?:25)*9|3)|\\u(?:FF1|003))"  # before the digit; also encoded twice
DIGIT = f"(?:[0-9{OTHER_DIGITS}]|{ENCODED}[0-9])"
BETWEEN = r"(?:[^0-9A-Za-z%]|%(?:25)*[0-9A-F]{2})*"
# Most texts have nothing encoded in them, and this costs a tenth.
PLAIN = r"octet_length({0}) = length({0}) AND strpos({0}, '%') = 0 AND strpos({0}, '\') = 0"
SPELLED_OUT = rf"""regexp_replace(regexp_replace(translate(regexp_replace({{0}}, '{ENCODED}([0-9])', '\1', 'gi'),
    '{OTHER_DIGITS}＋', '{"0123456789" * 3}+'),
    '%(?:25)*(?:2B|EF%(?:25)*BC%(?:25)*8B)|\\u(?:002B|FF0B)', '+', 'gi'), '%(?:25)*[0-9A-F]{{2}}', ' ', 'gi')"""  # noqa: RUF001

FUNCTIONS = {  # signature → returns, expression, comment
    "mask_text(value text)": (
        "text",
        f"""CASE WHEN octet_length(value) < 6 THEN value
WHEN {PLAIN.replace("{0}", "value")} THEN regexp_replace(value, '[0-9](?:[^0-9A-Za-z]*[0-9]){{5,}}', '******', 'g')
ELSE regexp_replace(value, '{DIGIT}(?:{BETWEEN}{DIGIT}){{5,}}', '******', 'gi') END""",
        "The text with stars for each run of six digits and more, however they are spelled",
    ),
    "may_tell(reference text)": (
        "boolean",
        f"""octet_length(reference) >= 6
AND (reference ~ '(?:[0-9].*){{6}}' OR NOT ({PLAIN.replace("{0}", "reference")}))""",
        "Whether a reference is long enough for a number: if not, nothing of it is ever masked",
    ),
    "spelled_out(value text)": (
        "text",
        f"CASE WHEN {PLAIN.replace('{0}', 'value')} THEN value ELSE {SPELLED_OUT.replace('{0}', 'value')} END",
        "The text with plain digits, whatever way they are written",
    ),
    "digits(value text)": (
        "text",
        "regexp_replace(reporting.spelled_out(value), '[^0-9]+', '', 'g')",
        "All digits of the text, and nothing else",
    ),
    "has_number(reference text, number text)": (
        "boolean",
        # The x is for the usual case, in which the number's length needn't be known.
        """coalesce(strpos(reporting.digits(reference), CASE
WHEN length(number) > 9 THEN right('x' || reporting.digits(number), 7)
WHEN length(reporting.digits(number)) >= 6 THEN right(reporting.digits(number), 7) END) > 0, false)""",
        "Whether the last seven digits of this number, or all six that it has, are in the reference",
    ),
    "tells_number(reference text, number text)": (
        "boolean",
        """coalesce(octet_length(reference) >= 6, false) AND (reporting.has_number(reference, number)
OR octet_length(reference) >= 9
AND reporting.spelled_out(reference) ~ '(?:\\+|(?<![0-9])0)(?:[^0-9A-Za-z]*[0-9]){8}')""",
        "Whether a reference has this number in it, or what looks like one: +, 00 or 0, then eight digits and more",
    ),
    "open_reference(reference text, number text)": (
        "text",
        """CASE WHEN coalesce(reference, '') = '' THEN ''
WHEN NOT reporting.tells_number(reference, number) THEN reference END""",
        "The reference, empty if there is none, and null if it tells a number; what contacts are looked up by",
    ),
    "reference_key(reference text, key text)": (
        "text",
        "CASE WHEN reporting.may_tell(reference)"
        " THEN encode(sha256(convert_to(concat_ws(' ', key, reference), 'UTF8')), 'hex') ELSE reference END",
        "The same for the same reference, another one for any other; of one that is long enough for a number a hash",
    ),
    "masked_reference(reference text, key text)": (
        "text",
        "'masked:' || left(encode(sha256(convert_to(concat_ws(' ', key, reference), 'UTF8')), 'hex'), 16)",
        "What stands in the place of a reference that tells a number: the same for the same one, and no other",
    ),
}

SEES = "(SELECT reporting.sees_numbers())"
KEY = "(SELECT key FROM reporting.secret)"


def _reference(column: str, number: str) -> str:
    return (
        f"CASE WHEN {SEES} OR NOT reporting.may_tell({column}) THEN {column}"
        f" WHEN reporting.tells_number({column}, {number}) THEN reporting.masked_reference({column}, {KEY})"
        f" ELSE {column} END"
    )


def _text(column: str, known: str = "false") -> str:
    """`known`: when it's one of our own words."""
    return f"CASE WHEN {SEES} OR {known} THEN {column} ELSE reporting.mask_text({column}) END"


# Column → how it is masked, of a call.
MASKS = {
    **{name: _reference(f"c.{name}", "c.number") for name in ("call_ref", "campaign_ref", "contact_ref", "uuid")},
    "recording_url": _text("c.recording_url"),
    "end_reason": _text("c.end_reason", "c.disposition IS NOT NULL"),
    "call_dir": _text("c.call_dir", "c.call_dir IN ('outbound', 'inbound')"),
    "dial_number": f"CASE WHEN {SEES} OR NOT reporting.has_number(c.dial_number, c.number) THEN c.dial_number"
    " ELSE '******' END",
}
# And of an event, whose own number, if it has one, is in its payload.
EVENT_MASKS = {
    **{name: _reference(f"e.{name}", "e.payload ->> 'number'") for name in ("campaign_ref", "call_ref")},
    **{name: _text(f"e.{name}") for name in ("kind", "event_type", "status")},
}
CALL_KEY = "The same for the same call_ref, whether that is masked or not: what calls and events are joined by"
CONTACT_KEY = "The same for the same contact_ref, whether that is masked or not"


def _key(column: str) -> str:
    return f"reporting.reference_key({column}, {KEY})"


# -- views

# A contact's rows by what it's looked up by, which has an index; and those whose reference tells a number, apart.
HISTORY_COLUMNS = (
    *("day", "dialed_on", "dialed_at", "source", "call_ref", "leg", "call_dir", "campaign_ref", "extension", "number"),
    *("end_reason", "disposition", "answered", "reached_agent", "voicemail", "talk_seconds", "number_key"),
)
CONTACT_CALLS = f"""
CREATE VIEW reporting.contact_calls AS
SELECT {{columns}}, reporting.open_reference(c.contact_ref, c.number) AS contact_ref,
    {_key("c.contact_ref")} AS contact_key, (SELECT false) AS contact_masked
FROM reporting.calls_unmasked c WHERE reporting.open_reference(c.contact_ref, c.number) <> ''
UNION ALL
SELECT {{columns}}, CASE WHEN {SEES} THEN c.contact_ref ELSE reporting.masked_reference(c.contact_ref, {KEY}) END,
    {_key("c.contact_ref")}, (SELECT true)
FROM reporting.calls_unmasked c WHERE reporting.open_reference(c.contact_ref, c.number) IS NULL
"""
# What is asked of contact_ref reaches the index through the windows of the first part; the second one has nobody's rows
# unless there are contacts whose reference tells a number in these days, all of whose rows it has.
OF_DAYS = "day BETWEEN $1 AND $2 AND dialed_on BETWEEN $1 - 1 AND $2 + 1"
MASKED_CONTACT = (
    "EXISTS (SELECT FROM reporting.contact_calls m WHERE m.contact_masked AND m.contact_key = c.contact_key"
    f" AND m.{OF_DAYS.replace('dialed', 'm.dialed')})"
)
HISTORY_FROM = f"""
FROM (
    SELECT *, dense_rank() OVER (PARTITION BY {{by}} ORDER BY number_key) AS number_rank
    FROM reporting.contact_calls c WHERE {OF_DAYS} AND {{which}}
) c
WINDOW contact AS (PARTITION BY c.{{by}}),
    so_far AS (PARTITION BY c.{{by}} ORDER BY c.dialed_at, c.source, c.call_ref, c.leg)"""
PARTS = (("contact_ref", f"NOT c.contact_masked AND NOT {MASKED_CONTACT}"), ("contact_key", MASKED_CONTACT))

STATUSES = f"""
CREATE VIEW reporting.statuses AS
SELECT s.day, s.extension, s.at, s.event_id, s.origin, {_text("s.status")} AS status,
    {_reference("s.campaign_ref", "NULL")} AS campaign_ref, s.server, s.channels
FROM reporting.status_changes s
"""

# The number of a call, as reporting.calls_unmasked has it: what its index is of must be the very same.
INDEX_CONTACTS = """
CREATE OR REPLACE FUNCTION reporting.index_contacts(day date) RETURNS void
LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    partition regclass := to_regclass(format('%I.%I', {literal}, {schema}.partition_name('cdrs', day)));
BEGIN
    IF partition IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_index
        WHERE indrelid = partition AND strpos(pg_get_expr(indexprs, indrelid), 'open_reference') > 0
    ) THEN
        EXECUTE format($statement$CREATE INDEX ON %s ((reporting.open_reference(contact_ref, {number})))$statement$,
            partition);
    END IF;
END
$$
"""

# As in roles.sql: whoever may ask a view, or one that reads it, may call its functions, and what it is made of; and who
# writes a day of cdrs what its index of contacts is made of.
LET_CALL = """
DO $$
DECLARE
    function regprocedure;
    role text;
BEGIN
    FOR function, role IN
        WITH RECURSIVE reads (view, base) AS ( -- a site's own views among them, wherever they are
            SELECT oid, oid FROM pg_class WHERE relnamespace = 'reporting'::regnamespace AND relkind = 'v'
            UNION
            SELECT rule.ev_class, reads.base FROM reads
            JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = reads.view
            JOIN pg_rewrite rule ON d.classid = 'pg_rewrite'::regclass AND d.objid = rule.oid
        ), asked (base, itself, owner, grantee, privilege) AS (
            SELECT reads.base, reads.view = reads.base, b.relowner, a.grantee, a.privilege_type FROM reads
            JOIN pg_class b ON b.oid = reads.base
            JOIN pg_class v ON v.oid = reads.view
            CROSS JOIN aclexplode(coalesce(v.relacl, acldefault('r', v.relowner))) a
            UNION
            SELECT v.oid, true, v.relowner, a.grantee, a.privilege_type FROM pg_class v
            JOIN pg_attribute c ON c.attrelid = v.oid
            CROSS JOIN aclexplode(c.attacl) a
            WHERE v.relnamespace = 'reporting'::regnamespace AND v.relkind = 'v'
            UNION
            SELECT oid, true, relowner, a.grantee, a.privilege_type FROM pg_class CROSS JOIN aclexplode(relacl) a
            WHERE oid = {cdrs}
        )
        SELECT DISTINCT f.oid::regprocedure,
            CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
        FROM pg_proc f
        CROSS JOIN asked a
        JOIN pg_class v ON v.oid = a.base
        WHERE f.pronamespace = 'reporting'::regnamespace AND f.proname NOT IN ('index_contacts', 'twins_counted')
        AND a.grantee <> a.owner
        AND a.privilege = CASE v.relkind WHEN 'v' THEN 'SELECT' ELSE 'INSERT' END
        AND (f.proname !~ '_(on|between)$' OR f.proname = 'gaps_between'
            OR a.itself AND f.proname IN (v.relname || '_on', v.relname || '_between'))
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', function, role);
    END LOOP;
END
$$
"""


def upgrade() -> None:
    first, days, later = (context.script.get_revision(number).module for number in ("0006", "0017", "0011"))
    quoted = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema()), quote_literal(current_schema())")
    schema, literal = quoted.one()
    for signature, (returns, expression, comment) in FUNCTIONS.items():
        _execute(
            f"CREATE FUNCTION reporting.{signature} RETURNS {returns} LANGUAGE sql IMMUTABLE PARALLEL SAFE"
            f" BEGIN ATOMIC SELECT {expression}; END"
        )
        _comment(f"FUNCTION reporting.{signature}", comment)
    _calls_and_events(first, later)
    _figures_and_states(first, later)
    _history(first, days, later)
    _joined(first, days, later)
    _index(first, schema, literal)
    _bind(first, days, later)
    _pin(schema)


def downgrade() -> None:
    raise NotImplementedError("there is no way back to 0.1: restore the backup that was made before the upgrade")


def _definition(view: str) -> str:
    words = op.get_bind().scalar(sa.text("SELECT pg_get_viewdef(to_regclass(:name))"), {"name": view})
    return str(words).strip().rstrip(";")


def _calls_and_events(first: ModuleType, later: ModuleType) -> None:
    _replace(
        "events",
        _masked(first.EVENTS | first.PREVIOUS_DAY, EVENT_MASKS) | {"call_key": (_key("e.call_ref"), CALL_KEY)},
        first.EVENTS_FROM,
    )
    added = [*later.ABSURD, "number_key", "in_a", "in_b"]
    columns = first.MASKED | {name: (f"c.{name}", "") for name in added} | first.NEXT_DAY
    keys = {"call_key": (_key("c.call_ref"), CALL_KEY), "contact_key": (_key("c.contact_ref"), CONTACT_KEY)}
    _replace("calls", _masked(columns, MASKS) | keys, "FROM reporting.calls_unmasked c")
    _tell("events", {"call_key": CALL_KEY})
    _tell("calls", {name: comment for name, (_, comment) in (keys | first.NEXT_DAY).items()})


def _masked(columns: Columns, masks: dict[str, str]) -> Columns:
    return {name: (masks.get(name, expression), comment) for name, (expression, comment) in columns.items()}


def _figures_and_states(first: ModuleType, later: ModuleType) -> None:
    """Kept figures know whether any of a campaign's calls had its number in the campaign's reference. Those of 0.1
    don't: then each reference is masked that is long enough for a number."""
    _execute("ALTER TABLE reporting.campaign_figures ADD COLUMN tells_number boolean")
    told = "Whether campaign_ref has the number of one of these calls in it; null: computed by an etl before 0.2"
    _tell("campaign_figures", {"tells_number": told})
    reference = (
        f"CASE WHEN {SEES} OR NOT reporting.may_tell(f.campaign_ref) THEN f.campaign_ref"
        " WHEN coalesce(f.tells_number, true) OR reporting.tells_number(f.campaign_ref, NULL)"
        f" THEN reporting.masked_reference(f.campaign_ref, {KEY}) ELSE f.campaign_ref END"
    )
    for period, hour, which in (("days", {}, "NULL"), ("hours", {"hour": ("f.hour", "")}, "NOT NULL")):
        columns = first.CAMPAIGN_KEY | {"campaign_ref": (reference, "")} | hour
        columns |= first.CAMPAIGN_FIGURES | later.CAMPAIGN_AVERAGE | later.CAMPAIGN_MORE
        _replace(f"campaign_{period}", columns, f"FROM reporting.campaign_figures f WHERE f.hour IS {which}")
    _execute(STATUSES)
    _comment(
        "VIEW reporting.statuses", "Agents' status events, as agent_states_between reads them: status_changes, masked"
    )
    for column in _columns("statuses"):
        query = sa.text("SELECT col_description(attrelid, attnum) FROM pg_attribute"
            " WHERE attrelid = 'reporting.status_changes'::regclass AND attname = :name")  # fmt: skip
        _tell("statuses", {column: str(op.get_bind().scalar(query, {"name": column}))})
    masks = {"campaign_ref": _reference("s.campaign_ref", "NULL"), "status": _text("s.status")}
    listed = ", ".join(f"{masks.get(column, f's.{column}')} AS {column}" for column in _columns("agent_states"))
    words = _definition("reporting.agent_states")
    _execute(f"CREATE OR REPLACE VIEW reporting.agent_states AS SELECT {listed} FROM ({words}) s")


def _history(first: ModuleType, days: ModuleType, later: ModuleType) -> None:
    columns = _masked(first.HISTORY, MASKS)
    unmasked = _listed(first.CALLS)
    history = days._swap(first.HISTORY_FROM, unmasked, _listed(first.CALLS | later.SECONDS))
    _replace("contact_history", columns, history)
    known = first.MASKED | later.SECONDS | {"number_key": ("c.number_key", ""), "dialed_on": ("c.dialed_on", "")}
    of_calls = {name: known[name] for name in HISTORY_COLUMNS} | {"talk_seconds": ("c.talk_seconds", "")}
    _execute(CONTACT_CALLS.replace("{columns}", _listed(_masked(of_calls, MASKS))))
    _comment("VIEW reporting.contact_calls", "Calls that have a contact: what contact_history_between is made of")
    told = {name: comment for name, (_, comment) in (first.CALLS | {"contact_key": ("", CONTACT_KEY)}).items()}
    told["number_key"] = "As in reporting.calls"
    told["contact_masked"] = "Whether contact_ref tells a number, and is masked for who may not see that"
    _tell("contact_calls", {column: told[column] for column in _columns("contact_calls")})


def _history_body(first: ModuleType) -> str:
    plain = {name: (f"c.{name}" if name in {*HISTORY_COLUMNS, "contact_ref"} else expression, comment)
        for name, (expression, comment) in first.HISTORY.items()}  # fmt: skip
    # In the first part both are the same, and contact_ref has the index.
    parts = (
        f"SELECT {_listed(plain)} {HISTORY_FROM.replace('{by}', by).replace('{which}', which)}" for by, which in PARTS
    )
    return f"SELECT * FROM ({' UNION ALL '.join(parts)}) AS history"


def _joined(first: ModuleType, days: ModuleType, later: ModuleType) -> None:
    """Views that bring calls and events together, or calls and calls: by their keys."""
    states, comment = first.AUDIT["agent_states"]
    states = days._swap(
        states, "coalesce(c.ended_at,", f"coalesce({later._after_dialing('c.ended_at', 'c.dialed_at')},"
    )
    states = days._swap(states, "ORDER BY s.state_from", days.IN_ORDER)
    _replace("call_audit", first.AUDIT | {"agent_states": (states, comment)}, _by_key(first.AUDIT_FROM))
    connected = ", ".join(later._after_dialing(moment, "dialed_at") for moment in ("connected_at", "ended_at"))
    unmatched = days._swap(first.UNMATCHED_FROM, "coalesce(connected_at, ended_at,", f"coalesce({connected},")
    unmatched = _by_key(unmatched.replace("reporting.calls_unmasked", "reporting.calls"))
    _replace("unmatched_calls", first.UNMATCHED, unmatched)
    twins = re.sub(r" WHERE dialed_on BETWEEN \$1 \+ \d AND \$2 \+ \d", "", days._twins(first, later))
    _execute(f"CREATE OR REPLACE VIEW reporting.twins AS {_by_key(twins)}")


def _by_key(body: str) -> str:
    body, grouped = re.subn(r"(PARTITION BY|GROUP BY) (day, (?:source, )?)call_ref\b", r"\1 \2call_key", body)
    body, listed = re.subn(
        r"\bcall_ref, (?=extension, campaign_ref, true|NULL, NULL, false)", "call_ref, call_key, ", body
    )
    body, called = re.subn(
        r"(NULL::jsonb AS event|'campaign_ref', campaign_ref\))(?=\s+FROM reporting\.)", r"\1, call_key", body
    )
    body, paired = re.subn(
        r"(dialed_on AS day|dialed_on - 1), source, call_ref,", r"\1, source, call_ref, call_key,", body
    )
    if paired:
        one = "coalesce(min(call_ref) FILTER (WHERE call_ref LIKE 'masked:%'), min(call_ref)) AS call_ref"
        body, ones = re.subn(r"SELECT day, source, call_ref, (?=array_agg)", f"SELECT day, source, {one}, ", body)
        paired = paired if ones == 1 else 0
    if not grouped or (listed, called, paired) not in ((6, 0, 0), (0, 3, 0), (0, 0, 2)):
        raise ValueError(f"this isn't what is grouped by key: {grouped}, {listed}, {called}, {paired}: {body}")
    return body


def _index(first: ModuleType, schema: str, literal: str) -> None:
    number, _ = first.CALLS["number"]
    number = number.replace("c.", "")
    _execute(INDEX_CONTACTS.format(schema=schema, literal=literal, number=number))
    _comment(
        "FUNCTION reporting.index_contacts(date)", "Gives a UTC day of cdrs the index by which contacts are looked up"
    )


def _bind(first: ModuleType, days: ModuleType, later: ModuleType) -> None:
    """A function with SET isn't put into the query, and would be planned for every partition there is. Of one with a
    body like this each name is looked up here, once."""
    bodies: dict[str, str] = days._bodies(first, later)
    bodies |= {view: _by_key(bodies[view]) for view in ("call_audit", "unmatched_calls", "twins")}
    bodies["contact_history"] = _history_body(first)
    bodies["agent_states"] = bodies["agent_states"].replace("reporting.status_changes", "reporting.statuses")
    for view, body in bodies.items():
        for name, arguments, select in (
            ("between", "from_day date, until_day date", body),
            ("on", "day date", f"SELECT * FROM reporting.{view}_between($1, $1)"),
        ):
            _execute(
                f"CREATE OR REPLACE FUNCTION reporting.{view}_{name}({arguments}) RETURNS SETOF reporting.{view}"
                f" LANGUAGE sql STABLE BEGIN ATOMIC {select.strip()}; END"
            )


# Of the archive's schema, where others may have functions of their own.
UNPINNED = ("hold_back_proofs()",)
FOR_ANYBODY = ("hold_back_proofs()", "has_partition(text, date)", "end_frozen(double precision)")


def _pin(schema: str) -> None:
    loaders = _grantees(f"{schema}.load_batches", "INSERT")
    for function in (*(f"{schema}.{name}" for name in UNPINNED), "reporting.sees_numbers()"):
        _execute(f"ALTER FUNCTION {function} SET search_path = pg_catalog, pg_temp")
    for function in FOR_ANYBODY:
        _execute(f"REVOKE ALL ON FUNCTION {schema}.{function} FROM PUBLIC")
    _execute("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA reporting FROM PUBLIC")
    for role in loaders:
        _execute(f"GRANT EXECUTE ON FUNCTION {schema}.end_frozen(double precision) TO {role}")
    for view, like in (("contact_calls", "contact_history"), ("statuses", "agent_states")):
        for role in _grantees(f"reporting.{like}", "SELECT"):
            _execute(f"GRANT SELECT ON reporting.{view} TO {role}")
    for role in {*_grantees("reporting.agent_states", "SELECT")} - {*_grantees("reporting.status_changes", "INSERT")}:
        _execute(f"REVOKE SELECT ON reporting.status_changes FROM {role}")
    name = f"{schema}.cdrs".replace("'", "''")
    _execute(LET_CALL.replace("{cdrs}", f"to_regclass('{name}')"))


def _grantees(relation: str, privilege: str) -> list[str]:
    roles = sa.text(
        "SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END"
        " FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = to_regclass(:relation) AND privilege_type = :privilege"
        " AND grantee <> relowner"
    )
    return [*op.get_bind().scalars(roles, {"relation": relation, "privilege": privilege})]


def _columns(relation: str) -> list[str]:
    query = sa.text(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped"
        " ORDER BY attnum"
    )
    return [*op.get_bind().scalars(query, {"name": f"reporting.{relation}"})]


def _replace(view: str, columns: Columns, body: str) -> None:
    _execute(f"CREATE OR REPLACE VIEW reporting.{view} AS\nSELECT\n    {_listed(columns)}\n{body}")


def _listed(columns: Columns) -> str:
    return ",\n    ".join(f"{expression} AS {column}" for column, (expression, _) in columns.items())


def _tell(relation: str, columns: dict[str, str]) -> None:
    for column, comment in columns.items():
        _comment(f"COLUMN reporting.{relation}.{column}", comment)


def _comment(subject: str, text: str) -> None:
    quoted = text.replace("'", "''")
    _execute(f"COMMENT ON {subject} IS '{quoted}'")


def _execute(statement: str) -> None:
    """As it stands: no colon or percent sign in it names a parameter."""
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))
