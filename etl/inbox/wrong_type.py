"""Redis says WRONGTYPE and not of which key: here it is found out, with rights that the loader has anyway."""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from etl.errors import ConfigurationError, EtlError
from etl.inbox.connection import Client, translated

_CODE = "WRONGTYPE"
# By the kind that a key should be of: a command that reads it and fails of another kind.
_PROBES = {"list": "llen", "sorted set": "zcard", "string": "get"}


@contextmanager
def naming_wrong_types(client: Client, **keys: Sequence[str | None]) -> Iterator[None]:
    """Redis errors inside become ours, as by `translated`; a WRONGTYPE then names the first key that is of another kind
    than it should be. `keys` are given by kind: `list`, `sorted_set` or `string`; None is no key."""
    try:
        with translated():
            yield
    except ConfigurationError as error:
        if _CODE in str(error) and (named := _named(client, keys)):
            raise ConfigurationError("ETL-206", f"Redis can't do what it was asked: {_CODE}: {named}") from error
        raise


def _named(client: Client, keys: dict[str, Sequence[str | None]]) -> str | None:
    for kind, named in keys.items():
        what = kind.replace("_", " ")
        for key in filter(None, named):
            if _is_wrong(client, _PROBES[what], key):
                return f"the key {key} holds something else than a {what}"
    return None


def _is_wrong(client: Any, probe: str, key: str) -> bool:
    # What can't be asked now is none that could be named.
    with contextlib.suppress(EtlError):
        try:
            with translated():
                getattr(client, probe)(key)
        except ConfigurationError as error:
            return _CODE in str(error)
    return False
