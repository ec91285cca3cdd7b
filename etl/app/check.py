"""The preflight, put together from settings. It opens the lake, and pyarrow comes with it: `etl.app` has neither."""

from collections.abc import Iterator
from urllib.parse import unquote

from etl import urls
from etl.app.database import engine_of
from etl.app.sources import decoders_of
from etl.errors import EtlError
from etl.inbox import connection as inbox
from etl.inbox.preflight import line
from etl.inbox.rights import List, Needs
from etl.jobs.findings import Finding, of_lake, unreachable
from etl.jobs.preflight_postgres import of_postgres
from etl.jobs.preflight_redis import of_redis
from etl.keys import SPOOL
from etl.lake.target import Target
from etl.settings import Settings


def check(settings: Settings) -> Iterator[Finding]:
    """Everything that can be looked at, one by one. Raises `ConfigurationError` if a URL is wrong in itself."""
    inbox.connect(settings.inbox_url).close()  # lazy: it looks at the URL only
    target = Target(settings.export_url)
    with engine_of(settings) as engine:
        yield from _of_redis(settings)
        yield from of_postgres(engine)
        yield of_lake(target.url, target.check)


def _of_redis(settings: Settings) -> Iterator[Finding]:
    url = settings.inbox_url
    try:
        client = inbox.connect(url, settings.redis_cluster)
    except EtlError as error:  # a cluster is asked for its slots at once
        yield unreachable("Redis", error, "ETL_REDIS_URL")
        return
    try:
        through_sentinel = urls.split(url).scheme in urls.SENTINEL_SCHEMES
        yield from of_redis(client, _needs(settings), _user(url), line(url), through_sentinel, decoders_of(settings))
    finally:
        client.close()


def _needs(settings: Settings) -> Needs:
    lists = [List(source.key, source.take_from, source.forward_to) for source in settings.sources]
    return Needs(lists, SPOOL, settings.listen_patterns)


def _user(url: str) -> str:
    """Only what stands before a password is a name: before nothing, a sentinel's URL has the password itself."""
    user, colon, _ = (urls.split(url).credentials or "").partition(":")
    return unquote(user) if colon and user else "default"
