"""The ledger tells at once when the last CDR was loaded, though a year of events has come after it."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "load_batches_cdrs_idx",
        "load_batches",
        ["committed_at"],
        postgresql_where=sa.text("inserted + updated + unchanged > 0"),
    )


def downgrade() -> None:
    op.drop_index("load_batches_cdrs_idx", table_name="load_batches")
