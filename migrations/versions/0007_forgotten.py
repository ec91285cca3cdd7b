"""The receipts of `etl forget`."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

REWRITTEN = ("cdrs", "cdr_revisions", "audit_events", "dead_letters")


def _count(name: str, comment: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False, server_default=sa.text("0"), comment=comment)


def upgrade() -> None:
    op.create_table(
        "forgotten",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment="Order of requests"),
        sa.Column("subject", sa.Text(), nullable=False, comment="What the person was asked for by: number or contact"),
        sa.Column(
            "hash",
            sa.Text(),
            nullable=False,
            comment="What stands in the place of that value now; the value is nowhere",
        ),
        sa.Column("worker", sa.Text(), nullable=False, comment="Who did it"),
        sa.Column(
            "began_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.now(),
            comment="When it began",
        ),
        sa.Column(
            "completed_at",
            sa.DateTime(timezone=True),
            comment="When nothing was left of the person; null if it never came so far",
        ),
        *(_count(name, f"Rows of {name} that were rewritten") for name in REWRITTEN),
        _count("files", "Files of the lake written anew"),
        sa.CheckConstraint("subject IN ('number', 'contact')", name=op.f("forgotten_subject_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("forgotten_pkey")),
        comment="People who were forgotten: the receipts, without a name in them",
    )


def downgrade() -> None:
    op.drop_table("forgotten")
