"""`etl serve`: the wall, in a browser."""

import threading
from collections.abc import Callable

from etl import logs
from etl.app.threads import stop_on_signals
from etl.cli import Config, app, configured
from etl.errors import ConfigurationError
from etl.settings import Settings

NEEDS = ("jinja2", "starlette", "uvicorn")
WEB = "'jinja2>=3.1.6' 'starlette>=1.10,<2' 'uvicorn>=0.54,<1'"


@app.command(epilog="Examples: [bold]etl serve[/bold] · [bold]ETL_WEB=127.0.0.1:8081 etl serve[/bold]")
def serve(config: Config = None) -> None:
    """Show how today goes in a browser: who is in which state, what came of the calls so far, what waits.

    Serves http://127.0.0.1:8080, or where ETL_WEB says, until SIGTERM or Ctrl-C, and only reads: the user etl_reporting
    is enough for it (ETL_WEB_DATABASE_URL).
    """
    settings = configured(config)
    show = wall()
    logs.configure()
    show(settings, stop_on_signals())


def wall() -> Callable[[Settings, threading.Event], None]:
    """What serves it until the event is set. Raises `ConfigurationError` if its libraries aren't installed."""
    try:
        from etl.app.serving import serve as show  # noqa: PLC0415 (its libraries are an extra)
    except ModuleNotFoundError as error:
        if error.name not in NEEDS:
            raise
        raise ConfigurationError(
            "ETL-927", f"{error.name} isn't installed: the extra `web`, which is pip install {WEB}"
        ) from None
    return show
