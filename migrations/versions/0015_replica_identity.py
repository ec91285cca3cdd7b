"""Every table can be published: whoever replicates changes must be able to name the row that was deleted. And a
revision of other books can be taken over with one entry in the ledger."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

# Under a publication of all tables Postgres refuses UPDATE and DELETE on a table without a replica identity. A primary
# key is one; kept figures have none, since their hour is null in the row of the whole day. The whole old row is one as
# well, and costs nothing until somebody publishes: no index, and no rewrite. Partitions have their parent's key.
KEYLESS = ("campaign_figures", "agent_call_figures", "agent_state_figures")


def upgrade() -> None:
    for name in KEYLESS:
        op.get_bind().exec_driver_sql(f"ALTER TABLE reporting.{name} REPLICA IDENTITY FULL")
    op.add_column(
        "exports",
        sa.Column(
            "entries_then",
            sa.Integer(),
            comment="Entries by the books that the file was exported under, if these took it over; null: they are the"
            " same",
        ),
    )


def downgrade() -> None:
    raise NotImplementedError("there is no way back to 0.1: restore the backup that was made before the upgrade")
