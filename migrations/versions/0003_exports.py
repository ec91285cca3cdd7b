"""The books of the lake."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "exports",
        sa.Column("dataset", sa.Text(), nullable=False, comment="Table: cdrs or audit_events"),
        sa.Column("day", sa.Date(), nullable=False, comment="The partition's day"),
        sa.Column("revision", sa.Integer(), nullable=False, comment="From 1; the day's latest is the one in the lake"),
        sa.Column("rows", sa.BigInteger(), nullable=False, comment="Rows in the file"),
        sa.Column("bytes", sa.BigInteger(), nullable=False, comment="Length of the file"),
        sa.Column("sha256", sa.Text(), nullable=False, comment="Of the file's bytes, hexadecimal"),
        sa.Column(
            "schema_fingerprint",
            sa.Text(),
            nullable=False,
            comment="Of the columns' names and types, hexadecimal",
        ),
        sa.Column(
            "first_time",
            sa.DateTime(timezone=True),
            comment="Earliest time of a row; null if there are none",
        ),
        sa.Column("last_time", sa.DateTime(timezone=True), comment="Latest time of a row; null if there are none"),
        sa.Column(
            "entries",
            sa.Integer(),
            nullable=False,
            comment="Ledger entries (load_batch_days) that the file contains",
        ),
        sa.Column("url", sa.Text(), nullable=False, comment="Where the lake was when it was published"),
        sa.Column(
            "exported_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.now(),
            comment="When it was written and read back",
        ),
        sa.Column(
            "published_at",
            sa.DateTime(timezone=True),
            comment="When it was in its place; null if that was never confirmed",
        ),
        sa.Column(
            "dropped_at",
            sa.DateTime(timezone=True),
            comment="When Postgres forgot the day, on the proof of this revision; null if not",
        ),
        sa.PrimaryKeyConstraint("dataset", "day", "revision"),
        comment="The lake's books: one row per dataset, day and revision",
    )


def downgrade() -> None:
    op.drop_table("exports")
