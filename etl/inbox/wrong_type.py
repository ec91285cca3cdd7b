"""Redis' error WRONGTYPE doesn't name the key. Here it is found, with rights that the loader has anyway."""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from etl.errors import ConfigurationError, EtlError
from etl.inbox.connection import Client, translated

_CODE = "WRONGTYPE"
# For each kind of key a command that fails with WRONGTYPE if the key is of another kind.
_PROBES = {"list": "llen", "sorted set": "zcard", "string": "get"}


@contextmanager
def naming_wrong_types(client: Client, **keys: Sequence[str | None]) -> Iterator[None]:
    """As `translated`; and a WRONGTYPE names the first key that isn't of its kind. `keys` are given by kind: `list`,
    `sorted_set` or `string`; None is no key."""
    try:
        with translated():
            yield
    except ConfigurationError as error:
        if _CODE in str(error) and (named := _wrong_key(client, keys)):
            raise ConfigurationError("ETL-206", f"Redis can't do what it was asked: {_CODE}: {named}") from error
        raise


def _wrong_key(client: Client, keys: dict[str, Sequence[str | None]]) -> str | None:
    for kind, names in keys.items():
        what = kind.replace("_", " ")
        for key in filter(None, names):
            if _is_wrong(client, _PROBES[what], key):
                return f"the key {key} holds something else than a {what}"
    return None


def _is_wrong(client: Any, probe: str, key: str) -> bool:
    # A key that can't be read now can't be named either.
    with contextlib.suppress(EtlError):
        try:
            with translated():
                getattr(client, probe)(key)
        except ConfigurationError as error:
            return _CODE in str(error)
    return False
