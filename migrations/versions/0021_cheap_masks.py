"""What masks cost: the same masks as in 0020, in the same columns, for a fraction of the time.

Whether a reference has a number in it is told by one regular expression, if the reference has one run of digits and the
number nothing else, as nearly all have. All others go to functions that are called, and not put into the query, where
each would be there several times for every partition. And the history of contacts plans three walks over the calls
instead of eight.
"""

from types import ModuleType

from alembic import context, op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

# At most: a digit may have two or three octets.
SIX_DIGITS = "octet_length(reference) - length(translate(reference, '0123456789', '')) >= 6"
# Of regular expressions each state costs, and each value starts from none: this has two. Nothing but digits follows the
# first digit of a reference, nor is there anything else in the end of the number; and no sign that stands for another.
PLAINLY = r"""coalesce(strpos(number, '%'), 0) = 0
AND reference || coalesce(right(number, 10), '') !~ '[0-9][^0-9]|[^ -$&-*,-\u005b\u005d-~]'"""
# Of such a reference: whether the number is in it; and whether it ends in 0 and eight digits or more, as a number does.
HAS = """coalesce(octet_length(number) >= 6 AND strpos(reference, right(number, 7)) > 0
AND strpos('0123456789', right(reference, 1)) > 0, false)"""
LOOKS = """octet_length(reference) >= 9 AND strpos('0123456789', left(right(reference, 9), 1)) > 0
AND strpos('123456789', left(reference, 1)) = 0 AND reference ~ '(?:^|[^0-9])0'"""
# Not concat_ws and no IMMUTABLE: what calls a STABLE function may say that it's immutable, but is then never put into
# the query, which costs four times the hash.
HASH = "encode(sha256(convert_to(key || ' ' || reference, 'UTF8')), 'hex')"


def _functions(before: ModuleType) -> dict[str, str]:
    """Signature → expression, of those that are put into the query."""
    plain = before.PLAIN.replace("{0}", "value")
    return {
        "may_tell(reference text)": "octet_length(reference) >= 6",
        "mask_text(value text)": f"""CASE WHEN octet_length(value) < 6 THEN value
WHEN {plain} THEN regexp_replace(value, '[0-9](?:[^0-9A-Za-z]*[0-9]){{5,}}', '******', 'g')
ELSE reporting.mask_spelled_text(value) END""",
        "has_number(reference text, number text)": f"""CASE
WHEN octet_length(reference) >= 6 AND octet_length(number) >= 6 THEN
    CASE WHEN {PLAINLY} THEN {HAS} ELSE reporting.has_spelled_number(reference, number) END
ELSE false END""",
        "tells_number(reference text, number text)": f"""coalesce(octet_length(reference) >= 6, false) AND CASE
WHEN {PLAINLY} THEN {HAS} OR {LOOKS}
ELSE reporting.tells_spelled_number(reference, number) END""",
    }


def _called(before: ModuleType) -> dict[str, tuple[str, str, str]]:
    """Signature → type, expression as 0020 had it, comment."""
    old = {signature.partition("(")[0]: expression for signature, (_, expression, _) in before.FUNCTIONS.items()}
    _, _, spelled = old["mask_text"].partition("ELSE ")
    return {
        "mask_spelled_text(value text)": (
            "text",
            spelled.removesuffix(" END"),
            "As mask_text, of a text that may have digits in other spellings",
        ),
        "has_spelled_number(reference text, number text)": (
            "boolean",
            old["has_number"],
            "As has_number, of whatever spellings",
        ),
        "tells_spelled_number(reference text, number text)": (
            "boolean",
            "reporting.has_six_digits(reference) AND "
            + old["tells_number"].replace("reporting.has_number(reference, number)", old["has_number"]),
            "As tells_number, of whatever spellings",
        ),
    }


# Windows go by open_reference for contacts none of whose rows is masked: so what is asked of contact_ref comes to the
# index. Those of the others, if there are any, go by what is the same for all rows of a contact.
CONTACT_CALLS = """
CREATE OR REPLACE VIEW reporting.contact_calls AS
SELECT {columns}, CASE WHEN {sees} OR {open} IS NOT NULL THEN c.contact_ref
        ELSE reporting.masked_reference(c.contact_ref, {key}) END AS contact_ref,
    {contact_key} AS contact_key, {open} IS NULL AS contact_masked, {open} AS open_reference
FROM reporting.calls_unmasked c WHERE c.contact_ref <> ''
"""
OPEN = "reporting.open_reference(c.contact_ref, c.number)"
OPEN_REFERENCE = "contact_ref as it is, and null if it tells a number: what contacts are looked up by"
HISTORY = """
WITH masked AS MATERIALIZED (
    SELECT DISTINCT {same} FROM {calls} c WHERE {days} AND c.open_reference IS NULL
)
SELECT * FROM (
    SELECT {of_open} {from_open}
    UNION ALL
    SELECT {of_masked} {from_masked}
) AS history
"""
HISTORY_FROM = """
FROM (
    SELECT *, dense_rank() OVER (PARTITION BY {by} ORDER BY {number}) AS number_rank
    FROM {calls} c WHERE {days} AND {which}
) c
WINDOW contact AS (PARTITION BY c.{by}),
    so_far AS (PARTITION BY c.{by} ORDER BY c.dialed_at, c.source, c.call_ref, c.leg)"""
AMONG_MASKED = "c.{same} IN (SELECT {same} FROM masked)"
OF_OPEN = f"c.open_reference IS NOT NULL AND (NOT EXISTS (SELECT FROM masked) OR NOT {AMONG_MASKED})"
OF_MASKED = f"EXISTS (SELECT FROM masked) AND {AMONG_MASKED}"

# Windows keep what is asked of a day from excluding any: so without the branches of business days.
OF_ALL_DAYS = (
    "(SELECT (t.dialed_at AT TIME ZONE (SELECT zone FROM reporting.settings))::date AS day, t.*"
    " FROM cdrs t WHERE contact_ref <> '')"
)

Columns = dict[str, tuple[str, str]]  # name → expression, comment


def upgrade() -> None:
    first, later, days, before = (
        context.script.get_revision(number).module for number in ("0006", "0011", "0017", "0020")
    )
    for signature, (returns, expression, comment) in _called(before).items():
        how = "" if signature.startswith("tells") else "STRICT"  # what looks like a number needs none to be known
        _execute(
            f"CREATE FUNCTION reporting.{signature} RETURNS {returns} LANGUAGE plpgsql {how} IMMUTABLE PARALLEL SAFE"
            f" SET search_path = pg_catalog, pg_temp AS $$ BEGIN RETURN {expression}; END $$"
        )
        before._comment(f"FUNCTION reporting.{signature}", comment)
    _inline("has_six_digits(reference text)", "boolean", SIX_DIGITS)
    before._comment("FUNCTION reporting.has_six_digits(text)", "False if there are fewer digits in the reference")
    for signature, expression in _functions(before).items():
        _inline(signature, before.FUNCTIONS[signature][0], expression)
    key = f"CASE WHEN reporting.may_tell(reference) THEN {HASH} ELSE reference END"
    _inline("reference_key(reference text, key text)", "text", key, "STABLE")
    _inline("masked_reference(reference text, key text)", "text", f"'masked:' || left({HASH}, 16)", "STABLE")
    for view in ("campaign_days", "campaign_hours"):  # where little else is known of figures of 0.1
        words = before._definition(f"reporting.{view}").replace("reporting.may_tell(", "reporting.has_six_digits(")
        _execute(f"CREATE OR REPLACE VIEW reporting.{view} AS {words}")
    # Without this no query of a masked column has more than one process.
    _execute("ALTER FUNCTION reporting.sees_numbers() PARALLEL SAFE")
    _contact_calls(first, later, before)
    _history(first, later, before)
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    _twins(first, days, later)
    _execute("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA reporting FROM PUBLIC")
    name = f"{schema}.cdrs".replace("'", "''")
    _execute(before.LET_CALL.replace("{cdrs}", f"to_regclass('{name}')"))
    comment = "How many rows reporting.twins_on has for a UTC day, by the references as they are"
    before._comment("FUNCTION reporting.twins_counted(date)", comment)
    for role in before._grantees(f"{schema}.load_batches", "INSERT"):
        _execute(f"GRANT EXECUTE ON FUNCTION reporting.twins_counted(date) TO {role}")


def downgrade() -> None:
    raise NotImplementedError("there is no way back to 0.1: restore the backup that was made before the upgrade")


def _inline(signature: str, returns: str, expression: str, volatility: str = "IMMUTABLE") -> None:
    _execute(
        f"CREATE OR REPLACE FUNCTION reporting.{signature} RETURNS {returns} LANGUAGE sql {volatility} PARALLEL SAFE"
        f" BEGIN ATOMIC SELECT {expression}; END"
    )


def _contact_calls(first: ModuleType, later: ModuleType, before: ModuleType) -> None:
    known = first.MASKED | later.SECONDS | {"number_key": ("c.number_key", ""), "dialed_on": ("c.dialed_on", "")}
    of_calls = {name: known[name] for name in before.HISTORY_COLUMNS} | {"talk_seconds": ("c.talk_seconds", "")}
    view = CONTACT_CALLS
    for word, meaning in {
        "columns": before._listed(before._masked(of_calls, before.MASKS)),
        "contact_key": before._key("c.contact_ref"),
        "sees": before.SEES,
        "key": before.KEY,
        "open": OPEN,
    }.items():
        view = view.replace(f"{{{word}}}", meaning)
    _execute(view)
    before._tell("contact_calls", {"open_reference": OPEN_REFERENCE})


def _history(first: ModuleType, later: ModuleType, before: ModuleType) -> None:
    """The view reads with its owner's rights, and goes by the true reference; functions read the masked views."""
    calls = f"""(
        SELECT c.*, {OPEN} AS open_reference
        FROM (SELECT {before._listed(first.CALLS | later.SECONDS)} {first._calls_from(OF_ALL_DAYS)}) c
    )"""
    view = _written(before._masked(first.HISTORY, before.MASKS), calls, "contact_ref", "number", "true", before)
    _execute(f"CREATE OR REPLACE VIEW reporting.contact_history AS {view}")
    plain = {name: (f"c.{name}" if name in {*before.HISTORY_COLUMNS, "contact_ref"} else expression, comment)
        for name, (expression, comment) in first.HISTORY.items()}  # fmt: skip
    body = _written(plain, "reporting.contact_calls", "contact_key", "number_key", before.OF_DAYS, before)
    _execute(
        "CREATE OR REPLACE FUNCTION reporting.contact_history_between(from_day date, until_day date)"
        f" RETURNS SETOF reporting.contact_history LANGUAGE sql STABLE BEGIN ATOMIC {body}; END"
    )


def _written(columns: Columns, calls: str, same: str, number: str, days: str, before: ModuleType) -> str:
    words = {
        "from_open": HISTORY_FROM.replace("{by}", "open_reference").replace("{which}", OF_OPEN),
        "from_masked": HISTORY_FROM.replace("{by}", same).replace("{which}", OF_MASKED),
        "of_open": before._listed(columns | {"contact_ref": ("c.open_reference", "")}),
        "of_masked": before._listed(columns),
        "calls": calls,
        "same": same,
        "number": number,
        "days": days,
    }
    history = HISTORY
    for word, meaning in words.items():
        history = history.replace(f"{{{word}}}", meaning)
    return history


def _twins(first: ModuleType, days: ModuleType, later: ModuleType) -> None:
    """For who keeps their number every night: by keys and masked references it took thrice the time, and sorting two
    days thrice that of counting by a hash. The planner knows little of how many there are, so it may not choose a join
    that would take hours if there are many."""
    body = days._twins(first, later).replace("reporting.calls ", "reporting.calls_unmasked ").replace("$2", "$1")
    before, rest = body.split("SELECT *, count(*) OVER (PARTITION BY day, source, call_ref) AS rows")
    calls, after = rest.split("        ) counted\n        WHERE rows > 1\n")
    several = f"SELECT source, call_ref {calls} GROUP BY source, call_ref HAVING count(*) > 1"
    body = f"{before}SELECT * {calls}) calls WHERE (source, call_ref) IN ({several})\n{after}"
    _execute(
        "CREATE FUNCTION reporting.twins_counted(day date) RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE"
        f" SET enable_nestloop = off BEGIN ATOMIC SELECT count(*) FROM ({body}) AS twins; END"
    )


def _execute(statement: str) -> None:
    """As it stands: no colon or percent sign in it names a parameter."""
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))
