"""Plays the simulated dialler into the configured Redis: which message goes onto which list, and what is published."""

from collections.abc import Callable

from etl import app
from etl.devtools.simulator import Profile, Tally, play
from etl.errors import ConfigurationError
from etl.inbox.producer import publish, push
from etl.settings import Settings, Source
from etl.wire.envelope import kind_and_reference

_SYSTEM_OF = {"campaigns": "dialler", "cdrs": "dialler", "cdr": "click2dial"}


def simulate(
    settings: Settings, profile: Profile, rate: float | None = None, progress: Callable[[int], None] | None = None
) -> Tally:
    """Push and publish what `profile` describes, at `rate` messages a second.

    Raises `Outage`, or `ConfigurationError` if no source list takes a kind of message that it asks for.
    """
    lists = {kind: _list_for(kind, settings) for kind in _kinds(profile)}
    with app.stores(settings) as clients:

        def to_redis(kind: str, bodies: list[bytes]) -> None:
            push(clients.redis, lists[kind].key, bodies, lists[kind].take_from)

        def to_listeners(notices: list[tuple[str, bytes]]) -> None:
            publish(clients.redis, notices)

        return play(profile, to_redis, rate=rate, progress=progress, publish=to_listeners)


def _kinds(profile: Profile) -> set[str]:
    kinds = {"a": {"campaigns"}, "b": {"cdrs"}, "both": {"campaigns", "cdrs"}}[profile.dialect]
    return kinds | ({"cdr"} if profile.click2dial else set())


def _list_for(kind: str, settings: Settings) -> Source:
    """The list whose key names the kind, else the first one of the same system: all lists take all kinds."""
    of_system = [source for source in settings.sources if source.source == _SYSTEM_OF[kind]]
    if not of_system:
        raise ConfigurationError(f"no source list is configured for messages of {_SYSTEM_OF[kind]}")
    named = [source for source in of_system if kind_and_reference(source.key)[0].startswith(kind)]
    return (named or of_system)[0]
