"""Exceptions named for what the caller should do about them, whichever library found the trouble.

The docstring of each is the promise it makes to whoever catches it. A message that can't be understood is not an
exception of the job but a dead letter: see `etl.wire`.
"""

from collections.abc import Sequence


class EtlError(Exception):
    """Something went wrong that the operator should read about, in one line.

    `code` is `ETL-` and three digits, written out where the error is raised and explained in docs/errors.md. It has one
    meaning, whatever becomes of the wording in `text`, and is never given to another error: people search for it.
    """

    def __init__(self, code: str, text: str) -> None:
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"


class ConfigurationError(EtlError):
    """The operator must change something: waiting or trying again can't help. Exit code 2."""


class WrongSettings(ConfigurationError):
    """All that is wrong with the settings, a line each. `code` is the first one's."""

    def __init__(self, problems: Sequence[ConfigurationError]) -> None:
        super().__init__(problems[0].code, "\n".join(problem.text for problem in problems))
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


class NotLetIn(ConfigurationError):
    """This Redis can't be used with these settings at all, whatever the list: the way in is wrong."""


class Forbidden(ConfigurationError):
    """Redis' ACL denies this command, key or channel to our user."""


class Outage(EtlError):
    """Redis or Postgres is away or overloaded: wait, then do the same step again. Nothing took effect."""


class WrongClock(Outage):
    """This host's clock is wrong: wait until somebody has set it. Nothing took effect."""


class ClocksDisagree(Outage):
    """By Postgres' clock this can't be yet, and nobody knows which clock is wrong: wait until they agree. Nothing took
    effect."""


class Contention(Outage):
    """Another transaction is in the way, for a moment: the same step again will find it gone. Nothing took effect."""


class StatementRefused(Outage):
    """Postgres refuses a statement, and goes on serving: for want of something that may come back, or because of a row.
    Whoever writes rows can find out; for all others it's an outage. Nothing took effect."""

    def __init__(self, said: str, sqlstate: str) -> None:
        super().__init__("ETL-340", f"Postgres: {said} (SQLSTATE {sqlstate})")
        self.sqlstate = sqlstate


class Busy(EtlError):
    """Another etl does this just now: it needn't be done twice. Nothing took effect."""


class RowRefused(EtlError):
    """Postgres refuses the data itself: at least one row of this statement can never be stored as it is."""


class LeaseLost(EtlError):
    """Another worker holds this claim now, or it's gone: let go of it, whatever it holds is theirs."""


class MissingPartition(EtlError):
    """A row's day has no partition: make it, then do the same step again."""


class LakeError(EtlError):
    """A file of the lake can't be written, read or believed: somebody must look. What was in its place still is."""
