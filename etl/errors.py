"""Exceptions named for what the caller should do about them, whichever library found the trouble.

The docstring of each is the promise it makes to whoever catches it. A message that can't be understood is not an
exception of the job but a dead letter: see `etl.wire`.
"""


class EtlError(Exception):
    """Something went wrong that the operator should read about, in one line."""


class ConfigurationError(EtlError):
    """The operator must change something: waiting or trying again can't help. Exit code 2."""


class Forbidden(ConfigurationError):
    """Redis knows us, and doesn't let this user do it."""


class Outage(EtlError):
    """Redis or Postgres is away or overloaded: wait, then do the same step again. Nothing took effect."""


class Contention(Outage):
    """Another transaction is in the way, for a moment: the same step again will find it gone. Nothing took effect."""


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
