"""Which Redis server something came from, and what was set aside: columns that an etl of 0.1 leaves null."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nullable, without a default: no table is rewritten, and loaders of 0.1 go on."""
    _add(
        "load_batches",
        "server",
        sa.Text(),
        "The Redis server it was taken from, by its name; empty: from none; null: by an etl before 0.2",
    )
    _add(
        "load_batches",
        "set_aside",
        JSONB(none_as_null=True),
        "Values that were set aside in extra, counted by field; or null",
    )
    _add(
        "dead_letters",
        "server",
        sa.Text(),
        "The Redis server it came from, by its name; null: loaded by an etl before 0.2",
    )
    _add(
        "listener_sessions",
        "server",
        sa.Text(),
        "The Redis server that was listened to, by its name; null: by an etl before 0.2",
    )
    _add(
        "listener_sessions",
        "patterns",
        ARRAY(sa.Text()),
        "The PubSub patterns it was subscribed to; null: by an etl before 0.2",
    )


def downgrade() -> None:
    raise NotImplementedError("there is no way back to 0.1: restore the backup that was made before the upgrade")


def _add(table: str, name: str, kind: "sa.types.TypeEngine[Any]", comment: str) -> None:
    op.add_column(table, sa.Column(name, kind, nullable=True, comment=comment))
