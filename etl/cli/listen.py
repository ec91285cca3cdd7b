"""`etl listen`: the audit trail of PubSub."""

from etl import logs
from etl.app import load, threads
from etl.cli import Config, app, configured


@app.command(epilog="Example: [bold]etl listen[/bold] beside [bold]etl run --follow --no-listen[/bold] elsewhere")
def listen(config: Config = None) -> None:
    """Record the dialler's PubSub events onto the spool in Redis, until SIGTERM or Ctrl-C. A loader brings them in."""
    settings = configured(config)
    logs.configure()
    load.listen(settings, threads.stop_on_signals())
