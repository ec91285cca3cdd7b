"""What `etl check` looks at, from settings: Redis, Postgres and the export target. pyarrow comes with the last."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from urllib.parse import unquote
from uuid import UUID

from etl import urls
from etl.app.database import looking
from etl.app.sources import decoders_of, forget_key
from etl.app.stores import redis_of
from etl.errors import ConfigurationError, EtlError, LakeError
from etl.findings import Finding, RecallWindow, asked, unreachable
from etl.inbox import connection as inbox
from etl.inbox import preflight as inbox_preflight
from etl.inbox.preflight_lists import Dead
from etl.inbox.rights import Needs, SourceList
from etl.jobs.clocks import compared
from etl.jobs.loader import Decode
from etl.keys import SPOOL
from etl.lake.target import Target
from etl.settings import Settings
from etl.store import connection as store
from etl.store import preflight as store_preflight
from etl.store.connection import Engine
from etl.store.receipts import count as receipts_of
from etl.text import size
from etl.wire.faults import DeadLetter
from etl.wire.packed import is_built, packer, why_none


def check(settings: Settings) -> Iterator[Finding]:
    """Everything that can be looked at, one by one. Raises `ConfigurationError` if a URL is wrong in itself."""
    inbox.connect(settings.inbox_url).close()  # lazy: it looks at the URL only
    target = Target(settings.export_url, settings.lake_file_mode)
    with looking(settings) as engine:
        yield from _of_redis(settings)
        yield from _of_postgres(settings, engine)
        yield from asked("people forgotten", lambda: [*_of_receipts(settings, engine)])
        yield from _of_clocks(settings, engine)
        yield _of_lake(target)
        yield _of_decoder(settings)


def _of_postgres(settings: Settings, engine: Engine) -> Iterator[Finding]:
    with ExitStack() as stack:
        lake = stack.enter_context(looking(settings.of_the_lake)) if settings.lake_database_url else None
        yield from store_preflight.findings(engine, _window(settings), lake)


def _window(settings: Settings) -> RecallWindow:
    if settings.recall_bytes is None:
        return RecallWindow(settings.recall_hours, "256 MiB or a tenth of Redis' maxmemory")
    return RecallWindow(settings.recall_hours if settings.recall_bytes else 0, size(settings.recall_bytes))


def _of_redis(settings: Settings) -> Iterator[Finding]:
    url = settings.inbox_url
    try:
        client = inbox.connect(url, settings.redis_cluster)
    except EtlError as error:  # a cluster is asked for its slots at once
        yield unreachable("Redis", error, "ETL_REDIS_URL")
        return
    through_sentinel = urls.split(url).scheme in urls.SENTINEL_SCHEMES
    # Python's decoder has the last word anyway, and is always there.
    by_python = settings.model_copy(update={"decoder": "python"})
    dead = {key: _dead(decode) for key, decode in decoders_of(by_python).items()}
    try:
        yield from inbox_preflight.findings(client, _needs(settings), _user(url), url, through_sentinel, dead)
    finally:
        client.close()


def _of_clocks(settings: Settings, engine: Engine) -> Iterator[Finding]:
    """Each store's is looked at by itself; only both together tell that it's this host's that is wrong."""
    with suppress(EtlError), redis_of(settings) as redis:  # which are told elsewhere
        ahead = compared(partial(inbox.unix_time, redis), partial(store.unix_time, engine))
        if ahead.is_host_wrong:
            advice = "let NTP keep it: until it's right nothing is loaded"
            yield Finding("clock of this host", "wrong", str(ahead.told()), advice)


def _of_receipts(settings: Settings, engine: Engine) -> Iterator[Finding]:
    """Nothing to say where nobody was forgotten, or where there is no schema yet."""
    if not (receipts := receipts_of(engine)):
        return
    about, number = "people forgotten", f"{receipts:,} receipts"
    if forget_key(settings):
        yield Finding(about, "fine", f"{number}; what still comes of them is erased on arrival")
        return
    says = f"{number}, and what still comes of them is loaded whole: ETL_FORGET_KEY isn't set here"
    yield Finding(about, "warning", says, "let loaders have the key of `etl forget`, or forget them once more")


def _dead(decode: Decode) -> Dead:
    def dead(messages: Sequence[bytes]) -> Sequence[DeadLetter]:
        return decode(messages, UUID(int=0), 0).finish().dead

    return dead


def _needs(settings: Settings) -> Needs:
    lists = [SourceList(source.key, source.take_from, source.forward_to) for source in settings.sources]
    return Needs(lists, SPOOL, settings.listen_patterns)


def _user(url: str) -> str:
    """Only what stands before a password is a name: before nothing, a sentinel's URL has the password itself."""
    user, colon, _ = (urls.split(url).credentials or "").partition(":")
    return unquote(user) if colon and user else "default"


def _of_lake(target: Target) -> Finding:
    about = "export target"
    try:
        target.check()
    except LakeError as error:
        advice = "let this user write there, or name another place in ETL_EXPORT_URL"
        return Finding(about, "wrong", error.text, advice, error.code)
    return Finding(about, "fine", f"{target.url} can be written and read back")


def _of_decoder(settings: Settings) -> Finding:
    """Python's is a warning where a compiled one is there, and of no use."""
    about, advice = "decoder", "install etl again where Rust's cargo is, or set ETL_DECODER=python"
    try:
        if packer(settings.decoder):
            return Finding(about, "fine", "the compiled one takes plain CDRs, and Python the rest")
    except ConfigurationError as error:
        return Finding(about, "wrong", error.text, advice, error.code)
    if settings.decoder == "python":
        return Finding(about, "fine", "Python's, by ETL_DECODER")
    says = f"Python's, for want of the compiled one: {why_none()}"
    return Finding(about, "warning", says, advice) if is_built() else Finding(about, "fine", says)
