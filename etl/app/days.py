"""Which days are closed, and which Postgres needn't keep: by the clock and the settings."""

from datetime import UTC, date, datetime, timedelta

from etl.settings import Settings


def first_open_day(settings: Settings) -> date:
    """The earliest day that isn't closed: every day ends at midnight UTC, and a little later for what is on its way."""
    return (datetime.now(UTC) - timedelta(minutes=settings.export_grace_minutes)).date()


def last_day_to_drop(keep_days: int) -> date:
    """Postgres keeps this many days before today."""
    return datetime.now(UTC).date() - timedelta(days=keep_days + 1)
