"""By what events and dead letters of lists are known when they are claimed again, and which claims may be."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

UNCHANGED = "CDRs that said nothing new; events and dead letters of the list that an earlier claim had brought"


def upgrade() -> None:
    op.create_table(
        "list_identities",
        sa.Column(
            "identity",
            sa.Uuid,
            primary_key=True,
            comment="Digest (SHA-256, shortened) of Redis server, list, running number in that list, and message",
        ),
        sa.Column("batch_id", sa.Uuid, nullable=False, comment="The claim that brought it first; see load_batches"),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=False, comment="When that was"),
        comment="Events and dead letters of lists, for 30 days: one that is claimed again after a fail-over of Redis is"
        " known by it. Not those of claims that an etl before 0.2 made or loaded",
    )
    # Rows come in the order of time: an index that takes next to nothing finds the old ones.
    op.create_index("list_identities_claimed_idx", "list_identities", ["claimed_at"], postgresql_using="brin")
    op.add_column(
        "load_batches",
        sa.Column(
            "may_repeat",
            sa.Boolean,
            nullable=False,
            server_default=sa.text("false"),
            comment="Not all of Redis' replicas had the claim when it was loaded: after a fail-over it may come again",
        ),
    )
    op.create_index(
        "load_batches_may_repeat_idx", "load_batches", ["committed_at"], postgresql_where=sa.text("may_repeat")
    )
    op.alter_column("load_batches", "unchanged", comment=UNCHANGED, existing_comment="CDRs that said nothing new")
    _let_loaders()


def downgrade() -> None:
    raise NotImplementedError("there is no way back to 0.1: restore the backup that was made before the upgrade")


def _let_loaders() -> None:
    """Whoever may enter claims needs this too, from now on and not only after roles.sql was run again."""
    connection = op.get_bind()
    roles = sa.text(
        "SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END"
        " FROM pg_class, aclexplode(relacl)"
        " WHERE pg_class.oid = to_regclass('load_batches') AND privilege_type = 'INSERT'"
    )
    for role in connection.scalars(roles).all():
        connection.exec_driver_sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON list_identities TO {role}")
