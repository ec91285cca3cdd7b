"""`etl serve`: the wall's application with an HTTP server around it, and what it asks the stores. Needs the extra
`web`.

It only looks: its transactions in Postgres are read-only, whatever its role may do, and end what takes long.
"""

import asyncio
import contextlib
import errno
import socket
import threading
from collections.abc import Callable, Iterator, Mapping

import uvicorn

from etl import logs
from etl.app.database import engine_of
from etl.app.listening import Impatient, Refusals
from etl.app.sources import let_in, sources
from etl.app.stores import Stores
from etl.app.threads import run_in_threads
from etl.errors import ConfigurationError, EtlError
from etl.inbox import connection as inbox
from etl.inbox.watch import Watch
from etl.reporting.deadline import bounded, within
from etl.reporting.web.app import Site, application
from etl.settings import Settings
from etl.store.connection import Engine
from etl.store.pinned import PATIENT

# No request costs Postgres more than this, whatever number of statements it takes, or waits for a lock. A session whose
# process is gone, or frozen, holds back nothing for longer than that either.
REQUEST_SECONDS = 5
LOOKING: Mapping[str, str] = {
    **PATIENT,
    "statement_timeout": f"{REQUEST_SECONDS}s",
    "lock_timeout": "1s",
    "idle_in_transaction_session_timeout": "10s",
}
REDIS_SECONDS = 2.0
# More at a time are told to come again: each has a socket, and a little memory.
MOST_CONNECTIONS = 200
# For answers that are under way when it's told to end.
END_SECONDS = 2
END_POLL_SECONDS = 0.2

log = logs.get()


@contextlib.contextmanager
def reading(settings: Settings) -> Iterator[Engine]:
    """Postgres, for whoever only looks. Each transaction is read-only by itself: what a session sets stays with a
    pooler's connection, and the next who gets that wants to write."""
    with engine_of(settings.of_the_wall, LOOKING) as engine:
        yield bounded(engine, REQUEST_SECONDS).execution_options(postgresql_readonly=True)


def serve(settings: Settings, stop: threading.Event) -> None:
    """Until `stop` is set. Raises `EtlError` if another program has the address, `ConfigurationError` if there's no
    such; the stores may be away."""
    with reading(settings) as engine, _bound(settings.web_address) as listening:
        token = settings.web_token.get_secret_value() if settings.web_token else None
        app = application(engine, _waiting(settings, engine), Site(settings.web_names, token))
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http=Impatient,
            ws="none",
            lifespan="off",
            interface="asgi3",
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_config=None,
            # Whatever anybody sends is answered, and nothing to log; what breaks is told by the application itself, and
            # at the end requests are broken off.
            log_level="critical",
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=END_SECONDS,
        )
        host, port = listening.getsockname()[:2]
        log.info("serving_wall", host=host, port=port)
        # Not in the main thread, whose signals Uvicorn would take.
        run_in_threads({"wall": lambda ended: asyncio.run(_until(ended, config, listening))}, [], stop)


async def _until(ended: threading.Event, config: uvicorn.Config, listening: socket.socket) -> None:
    asyncio.get_running_loop().set_exception_handler(Refusals())
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listening]))
    while not ended.is_set() and not serving.done():
        await asyncio.wait([serving], timeout=END_POLL_SECONDS)
    server.should_exit = True
    await serving


def _bound(address: tuple[str, int]) -> socket.socket:
    host, port = address
    try:
        family, *_, sockaddr = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(sockaddr[:2], family=family)
    except OSError as error:
        problem = f"can't serve the wall at {host}:{port}: {error.strerror}"
        if error.errno == errno.EADDRINUSE:
            raise EtlError("ETL-928", f"{problem}: another program has it; set ETL_WEB to another port") from error
        raise ConfigurationError("ETL-929", f"{problem}: set ETL_WEB to an address of this host") from error


def _waiting(settings: Settings, engine: Engine) -> Callable[[], Mapping[str, int | None]]:
    """Messages that wait, by list: one round trip, on a connection that is kept."""
    client: inbox.Client | None = None

    def look() -> Mapping[str, int | None]:
        nonlocal client
        client = client or inbox.connect(settings.inbox_url, settings.redis_cluster, REDIS_SECONDS)
        lists = sources(settings, Stores(client, within(engine)))
        answers = Watch(client, lists).waiting()
        let_in(answers)
        numbers = (answer if isinstance(answer, int) else None for answer in answers)
        return dict(zip([each.key for each in lists], numbers, strict=True))

    return look
