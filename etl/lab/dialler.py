"""Plays the simulated dialler into the configured Redis: which message goes onto which list, and what is published, or
was heard by a simulated listener.

The words of a list's key decide which kind it takes, by the dialler's own names and without the decoder's rules.
"""

from collections.abc import Callable
from typing import NamedTuple

from etl.app.stores import stores
from etl.errors import ConfigurationError
from etl.inbox.producer import publish, push
from etl.keys import SPOOL
from etl.lab.heard import PastListener, refuse_others
from etl.lab.simulator import Message, Profile, SimulatorTally, play
from etl.settings import Settings, SourceSettings
from etl.store import schema
from etl.store.sessions import listened_to


class _Names(NamedTuple):
    system: str
    words: frozenset[str]  # of which one is in the key
    is_own: bool = False  # written to the dialler's own Redis, if there are two


_LISTS = {
    "campaigns": _Names("dialler", frozenset({"campaigns", "campaign"})),
    "cdrs": _Names("dialler", frozenset({"cdrs", "cdr"}), is_own=True),
    "pbx": _Names("dialler", frozenset({"pbx"}), is_own=True),
    "statuses": _Names("dialler", frozenset({"campaigns", "campaign"}), is_own=True),
    "cdr": _Names("click2dial", frozenset({"cdr", "cdrs"})),
}


def simulate(
    settings: Settings,
    profile: Profile,
    rate: float | None = None,
    progress: Callable[[int], None] | None = None,
    own: Settings | None = None,
    heard: bool = False,
) -> SimulatorTally:
    """Push and publish what `profile` describes, at `rate` messages a second; with `heard`, put what would be published
    on the spool, as heard in the simulated time.

    One dialler writes to two Redis servers: `settings` are those of the integrator's, which gets dialect A and what is
    published, `own` those of its own, which gets dialect B, the internal list and the statuses on lists. Without `own`
    all goes to one. Raises `Outage`, or `ConfigurationError` if no source list takes a kind of message, or if a
    simulated listener has no place here or in this time.
    """
    own = own or settings
    listener = PastListener(profile, settings) if heard else None
    lists = {kind: _list_for(kind, own if _LISTS[kind].is_own else settings) for kind in _kinds(profile)}
    with stores(settings) as clients, stores(own) as own_clients:

        def to_redis(kind: str, bodies: list[bytes]) -> None:
            client = own_clients.redis if _LISTS[kind].is_own else clients.redis
            push(client, lists[kind].key, bodies, lists[kind].take_from)

        def to_listeners(notices: list[Message]) -> None:
            publish(clients.redis, [(notice.channel, notice.body) for notice in notices])

        def to_spool(records: list[bytes]) -> None:
            if records:
                push(clients.redis, SPOOL, records)

        if listener is None:
            return play(profile, to_redis, rate=rate, progress=progress, publish=to_listeners)
        schema.check(clients.engine)
        refuse_others(settings.server, listened_to(clients.engine))
        to_spool(listener.subscribe())
        tally = play(
            profile, to_redis, rate, progress=progress, publish=lambda notices: to_spool(listener.hear(notices))
        )
        to_spool(listener.stop())
        return tally


def _kinds(profile: Profile) -> list[str]:
    wanted = {
        "campaigns": profile.dialect != "b",
        "cdrs": profile.dialect != "a",
        "pbx": profile.pbx,
        "statuses": profile.events > 0,
        "cdr": profile.click2dial > 0,
    }
    return [kind for kind, is_wanted in wanted.items() if is_wanted]


def _list_for(kind: str, settings: Settings) -> SourceSettings:
    """The list whose key names the kind, else the first one of the same system: all lists take all kinds."""
    names = _LISTS[kind]
    of_system = [source for source in settings.sources if source.source == names.system]
    if not of_system:
        raise ConfigurationError("ETL-905", f"no source list is configured for messages of {names.system}")
    named = [source for source in of_system if names.words & _words(source.key)]
    return (named or of_system)[0]


def _words(key: str) -> set[str]:
    words = {*key.split(":")}
    return {"pbx"} if "pbx" in words else words
