"""Whose fault it is that Postgres refuses rows: each is merged alone, in the server.

A row is refused only if Postgres takes the same statements without it, and goes on writing. So after a row that fails a
row that is known to be good is written, then the row again, then the good one again: only who fails twice between two
successes is refused. The good row is a copy of what its list stored last, under another reference. If not even that can
be written, whatever Postgres says of it, it's an outage.

All of it happens in one statement for many rows, since that takes a fraction of a millisecond for each, and we would
take many. Each try is a subtransaction. Those of `refused`, and all that fail, are rolled back: never are two open, and
none keeps a lock, or an entry of the few that a session may have without slowing others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from etl.errors import Outage, RowRefused
from etl.store.connection import IN_THE_WAY
from etl.store.copy import copy_rows
from etl.store.merge import PG_TEMP, WAIT_MS, Merged
from etl.store.tables import CDR_KEY, cdr_revisions, cdrs, day_column, load_batch_days, load_batches

# So many rows are tried in one statement: a fraction of a second, unless a trigger is slow.
PART = 100
# Among so many latest claims a list's last is looked for; and in so many of them, for a row that is there still.
LATEST_CLAIMS = 10_000
LOOKED_INTO = 10

# What is no row's fault, though the statement may succeed without it: another transaction is in its way, or the row's
# partition is lacking. (A trigger may raise that state too, but then no table is named.)
_NOBODYS = f"state IN {IN_THE_WAY} OR state = '23514' AND violated = '' AND of_table <> ''"
# A copy that is in the way of its own original: somebody else's unique index has no room for both.
_ITS_OWN = "state IN ('23505', '23P01') AND of_table <> ''"
_SHORT = "state LIKE '53___'"


@dataclass(frozen=True, slots=True)
class Tried:
    """The rows to try: of `table`, in the order of `columns`, for `staging`, from where `merging` merges a single one:
    it gives PL/pgSQL, for a record of a name."""

    table: sa.Table
    columns: Sequence[str]
    staging: sa.Table
    merging: Callable[[str], str]


class Trial:
    """Of a claim's rows, within its transaction. `source_key` is its list's; calls `alive` now and then.

    Its methods raise `Outage` if Postgres refuses the good row too, `ConfigurationError` if then only the operator can
    help, and whatever else is no row's fault.
    """

    def __init__(
        self, connection: sa.Connection, tried: Tried, source_key: str, rows: Sequence[Any], alive: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._tried = tried
        self._table = tried.table
        self._columns = tried.columns
        self._rows = rows
        self._alive = alive
        self._doubtful = _temporary("doubtful", tried.table, tried.columns)
        self._good = _temporary("good", tried.table, tried.columns)
        for table in (self._doubtful, self._good, _REFUSED, _MERGED, tried.staging):
            connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
        _empty(connection, self._doubtful, self._good, _REFUSED)  # an earlier piece of the claim may have had them
        connection.execute(sa.text(f"SET LOCAL lock_timeout = {WAIT_MS}"))
        self._send(range(len(rows)))
        self._stage_good(source_key)
        self._merge_one = self._merging_one()
        self._write_good = self._writing_good()

    def check(self) -> None:
        """Whether Postgres takes the good row now."""
        self._execute(f"""DO $trial$
DECLARE
    good record; fresh uuid := gen_random_uuid(); of_table text;
BEGIN
    SELECT * INTO good FROM {self._good.fullname};
    IF NOT FOUND THEN -- nothing is stored, and no row can be sent
        RETURN;
    END IF;
    BEGIN
        {self._write_good}
        RAISE SQLSTATE 'ETLOK';
    EXCEPTION
        WHEN SQLSTATE 'ETLOK' THEN
            NULL;
        WHEN unique_violation OR exclusion_violation THEN
            GET STACKED DIAGNOSTICS of_table = TABLE_NAME;
            IF of_table = '' THEN
                RAISE;
            END IF;
    END;
END $trial$""")  # noqa: S608  (words of our own)

    def refused(self, places: Sequence[int], alone: bool = False) -> dict[int, str]:
        """Of each of the rows at `places` that Postgres refuses by itself, its place, and Postgres' words. Nothing is
        stored.

        Of insufficient resources (class 53) no row is guilty whose transaction has stored others: that raises
        `StatementRefused`. If it has stored none, say `alone`.
        """
        return self._run(places, keep=False, alone=alone)

    def store(self, places: Sequence[int]) -> tuple[Merged, dict[int, str]]:
        """Store them one after the other, but for those that Postgres refuses."""
        refused = self._run(places, keep=True, alone=False)
        merged = Merged()
        for day, inserted, updated in self._connection.execute(sa.select(*_MERGED.c)):
            merged.inserted[day] += inserted
            merged.updated[day] += updated
        return merged, refused

    def _run(self, places: Sequence[int], keep: bool, alone: bool) -> dict[int, str]:
        _empty(self._connection, self._doubtful, _REFUSED, _MERGED)
        self._send(places)
        for first in range(0, len(places), PART):
            part = places[first : first + PART]
            self._alive()
            # What was staged and rolled back is dead, and would be scanned.
            _empty(self._connection, self._tried.staging)
            self._execute(self._block(part[0], part[-1], keep, alone))
        return dict(self._connection.execute(sa.select(_REFUSED.c.place, _REFUSED.c.words)).all())

    def _execute(self, block: str) -> None:
        try:
            self._connection.exec_driver_sql(block, execution_options={"no_parameters": True})
        except RowRefused as refusal:  # of the good row
            raise Outage("ETL-341", f"Postgres refuses what it took before: {refusal.text}") from refusal

    def _send(self, places: Sequence[int]) -> None:
        """Into a table that takes all that can be sent. What can't is refused."""
        numbered = [(place, *self._rows[place]) for place in places]
        try:
            self._copy(numbered)
        except RowRefused:
            for each in numbered:
                try:
                    self._copy([each])
                except RowRefused as refusal:
                    self._connection.execute(sa.insert(_REFUSED).values(place=each[0], words=refusal.text))

    def _copy(self, numbered: Sequence[Sequence[Any]]) -> None:
        with self._connection.begin_nested():
            copy_rows(self._connection, self._doubtful, ["place", *self._columns], numbered)

    def _stage_good(self, source_key: str) -> None:
        """A copy of a row that the list stored last; else of another list's; else what a row must have, and no more."""
        day = day_column(self._table)
        for claim in self._connection.execute(_LATEST, {"key": source_key, "dataset": self._table.name}).all():
            stored = sa.select(*(self._table.c[name] for name in self._columns)).limit(1)
            of_the_claim = stored.where(day == sa.bindparam(None, claim.day, sa.Date, literal_execute=True))
            of_the_claim = of_the_claim.where(self._table.c.batch_id == claim.batch_id)
            staging = sa.insert(self._good).from_select(self._columns, of_the_claim)
            if self._connection.execute(staging.execution_options(preserve_rowcount=True)).rowcount:
                return
        needed = {name: self._least(name) for name in self._columns if not self._table.c[name].nullable}
        least = sa.select(*needed.values()).order_by(self._doubtful.c.place).limit(1)
        self._connection.execute(sa.insert(self._good).from_select([*needed], least))

    def _least(self, name: str) -> sa.ColumnElement[Any]:
        is_json = isinstance(self._table.c[name].type, JSONB)
        return sa.literal_column("'{}'::jsonb") if is_json else self._doubtful.c[name]

    def _block(self, first: int, last: int, keep: bool, alone: bool) -> str:
        return f"""DO $trial$
#variable_conflict use_column
DECLARE
    one record; good record; each record;
    fresh uuid := gen_random_uuid(); state text; words text; refusal text; violated text; of_table text;
BEGIN
    SELECT * INTO good FROM {self._good.fullname};
    FOR one IN SELECT * FROM {self._doubtful.fullname} WHERE place >= {first} AND place <= {last} ORDER BY place LOOP
        FOR step IN 1..4 LOOP
            BEGIN
                IF step IN (1, 3) THEN
                    {self._merge_one}
                    {"EXIT" if keep else "RAISE SQLSTATE 'ETLOK'"};
                ELSE
                    {self._write_good}
                    RAISE SQLSTATE 'ETLOK';
                END IF;
            EXCEPTION
                WHEN SQLSTATE 'ETLOK' THEN
                    EXIT WHEN step IN (1, 3);
                WHEN OTHERS OR assert_failure THEN
                    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, words = MESSAGE_TEXT,
                        violated = CONSTRAINT_NAME, of_table = TABLE_NAME;
                    IF step IN (2, 4) AND {_ITS_OWN} THEN
                        NULL;
                    ELSIF step IN (2, 4) OR {_NOBODYS} OR {not alone} AND {_SHORT} THEN
                        RAISE;
                    ELSE
                        refusal := words;
                    END IF;
            END;
            IF step = 4 THEN
                INSERT INTO {_REFUSED.fullname} VALUES (one.place, refusal);
            END IF;
        END LOOP;
    END LOOP;
END $trial$"""  # noqa: S608  (words of our own)

    def _merging_one(self) -> str:
        values = [_as_value("one", self._table.c[name]) for name in self._columns]
        more = [name for name in ("position", "round") if name in self._tried.staging.c]
        return f"""DELETE FROM {self._tried.staging.fullname};
{_insert(self._tried.staging, [*self._columns, *more], [*values, *("0" for _ in more)])};
{self._tried.merging("one")}"""  # noqa: S608  (words of our own)

    def _writing_good(self) -> str:
        """All that merging does: insert, keep the version before, and update."""
        # Another reference makes a copy another row.
        fresh = {"call_ref": "fresh::text"} if self._table is cdrs else {"event_id": "fresh"}
        values = [fresh.get(name, f"good.{name}") for name in self._columns]
        inserted = _insert(self._table, self._columns, values)
        if self._table is not cdrs:
            return f"{inserted};"
        kept = _insert(cdr_revisions, [*self._columns, "loaded_at", "replaced_by"], [*values, "now()", "good.batch_id"])
        updates = ", ".join(f"{name} = excluded.{name}" for name in self._columns if name not in CDR_KEY)
        return f"{inserted}; {kept}; {inserted} ON CONFLICT ({', '.join(CDR_KEY)}) DO UPDATE SET {updates};"


def _temporary(kind: str, table: sa.Table, columns: Sequence[str]) -> sa.Table:
    """Columns as the table has them; of `doubtful` ones, JSON as it was sent, which Postgres may refuse to read. Empty
    at the start of every transaction."""
    as_sent = [sa.Column("place", sa.Integer, primary_key=True)] if kind == "doubtful" else []
    return sa.Table(
        f"{kind}_{table.name}",
        sa.MetaData(schema=PG_TEMP),
        *as_sent,
        *(
            sa.Column(name, sa.LargeBinary if as_sent and isinstance(table.c[name].type, JSONB) else table.c[name].type)
            for name in columns
        ),
        prefixes=["TEMPORARY"],
        postgresql_on_commit="DELETE ROWS",
    )


def _result(name: str, *columns: sa.Column[Any]) -> sa.Table:
    return sa.Table(
        name, sa.MetaData(schema=PG_TEMP), *columns, prefixes=["TEMPORARY"], postgresql_on_commit="DELETE ROWS"
    )


_REFUSED = _result("refused_rows", sa.Column("place", sa.Integer), sa.Column("words", sa.Text))
_MERGED = _result(
    "merged_rows", sa.Column("day", sa.Date), sa.Column("inserted", sa.Integer), sa.Column("updated", sa.Integer)
)


def _empty(connection: sa.Connection, *tables: sa.Table) -> None:
    connection.execute(sa.text(f"TRUNCATE {', '.join(table.fullname for table in tables)}"))


def _as_value(record: str, column: sa.Column[Any]) -> str:
    value = f"{record}.{column.name}"
    return f"convert_from({value}, 'UTF8')::jsonb" if isinstance(column.type, JSONB) else value


def _insert(table: sa.Table, columns: Sequence[str], values: Sequence[str]) -> str:
    return f"INSERT INTO {table.fullname} ({', '.join(columns)}) VALUES ({', '.join(values)})"  # noqa: S608  (of our own)


_latest = (
    sa.select(load_batches.c.batch_id, load_batches.c.source_key)
    .order_by(load_batches.c.batch_id.desc())
    .limit(LATEST_CLAIMS)
    .subquery()
)
_LATEST = (
    sa.select(load_batch_days.c.day, load_batch_days.c.batch_id)
    .join_from(_latest, load_batch_days, load_batch_days.c.batch_id == _latest.c.batch_id)
    .where(
        load_batch_days.c.dataset == sa.bindparam("dataset"),
        load_batch_days.c.inserted + load_batch_days.c.updated > 0,
    )
    .order_by((_latest.c.source_key == sa.bindparam("key")).desc(), _latest.c.batch_id.desc())
    .limit(LOOKED_INTO)
)
