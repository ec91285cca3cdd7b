"""Which days are closed, and which Postgres may drop, by the time and the settings."""

from datetime import UTC, date, datetime, timedelta

from etl.settings import Settings


def first_open_day(settings: Settings) -> date:
    """The earliest day that isn't closed. A day is closed `export_grace_minutes` after its midnight UTC."""
    return (datetime.now(UTC) - timedelta(minutes=settings.export_grace_minutes)).date()


def last_day_to_drop(keep_days: int) -> date:
    """Postgres keeps this many days before today."""
    return datetime.now(UTC).date() - timedelta(days=keep_days + 1)
