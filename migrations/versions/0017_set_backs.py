"""What Postgres forgot, and what of it came back."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0013"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "set_backs",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True, comment="Order of noticing"),
        sa.Column("noticed_at", _TIME, nullable=False, server_default=sa.text("now()"), comment="When it was noticed"),
        sa.Column("source_key", sa.Text, nullable=False, comment="Redis key of the list"),
        sa.Column("server", sa.Text, nullable=False, comment="Redis server of the list, by its name"),
        sa.Column("first_claimed_at", _TIME, nullable=False, comment="When the first of the claims was made"),
        sa.Column("last_claimed_at", _TIME, nullable=False, comment="When the last of the claims was made"),
        sa.Column("recalled_claims", sa.BigInteger, nullable=False, comment="Claims that were loaded again"),
        sa.Column("recalled_messages", sa.BigInteger, nullable=False, comment="Messages of these"),
        sa.Column("lost_claims", sa.BigInteger, nullable=False, comment="Claims that Redis didn't keep any more"),
        sa.Column("lost_messages", sa.BigInteger, nullable=False, comment="Messages of these"),
        comment="Acknowledged claims that Postgres had forgotten, after a fail-over or a restored backup",
    )


def downgrade() -> None:
    raise NotImplementedError("there is no way back to 0.1: restore the backup that was made before the upgrade")
