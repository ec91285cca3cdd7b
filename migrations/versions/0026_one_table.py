"""One table per dataset that every engine reads: Iceberg's catalog, as Java's JDBC catalog and pyiceberg have it, and
the names of the files that etl wrote for it."""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

SCHEMA, CATALOG, NAMESPACE = "iceberg", "etl", "lake"


def upgrade() -> None:
    op.execute(f"CREATE SCHEMA {SCHEMA}")
    op.execute(f"COMMENT ON SCHEMA {SCHEMA} IS 'Iceberg''s catalog of the lake: engines read it, etl alone writes it'")
    op.create_table(
        "iceberg_tables",
        sa.Column("catalog_name", sa.String(255), nullable=False, comment=f"The catalog's name: {CATALOG}"),
        sa.Column("table_namespace", sa.String(255), nullable=False, comment=f"The table's namespace: {NAMESPACE}"),
        sa.Column("table_name", sa.String(255), nullable=False, comment="The dataset"),
        sa.Column("metadata_location", sa.String(1000), comment="URI of the table's metadata: the pointer that moves"),
        sa.Column("previous_metadata_location", sa.String(1000), comment="The same before it moved last"),
        sa.Column("iceberg_type", sa.String(5), comment="TABLE, or VIEW"),
        sa.PrimaryKeyConstraint("catalog_name", "table_namespace", "table_name"),
        schema=SCHEMA,
        comment="Tables of Iceberg's catalogs, by the layout of its JDBC catalog",
    )
    namespaces = op.create_table(
        "iceberg_namespace_properties",
        sa.Column("catalog_name", sa.String(255), nullable=False, comment=f"The catalog's name: {CATALOG}"),
        sa.Column("namespace", sa.String(255), nullable=False, comment=f"The namespace: {NAMESPACE}"),
        sa.Column("property_key", sa.String(255), nullable=False, comment="exists, of a namespace that has no other"),
        sa.Column("property_value", sa.String(1000), comment="true"),
        sa.PrimaryKeyConstraint("catalog_name", "namespace", "property_key"),
        schema=SCHEMA,
        comment="Namespaces of Iceberg's catalogs, by the layout of its JDBC catalog",
    )
    there = {"catalog_name": CATALOG, "namespace": NAMESPACE, "property_key": "exists", "property_value": "true"}
    op.bulk_insert(namespaces, [there])
    time = sa.DateTime(timezone=True)
    op.create_table(
        "lake_table_files",
        sa.Column("name", sa.Text(), nullable=False, comment="Under the lake's root"),
        sa.Column("dataset", sa.Text(), nullable=False, comment="Table: cdrs or audit_events"),
        sa.Column(
            "began_at", time, nullable=False, server_default=sa.func.now(), comment="When it was about to be written"
        ),
        sa.Column("committed_at", time, comment="When the Iceberg table's pointer moved with it; null if it never did"),
        sa.Column("given_up_at", time, comment="From when on the pointer can't move with it any more; null if it can"),
        sa.PrimaryKeyConstraint("name"),
        comment="Metadata files of the Iceberg tables, entered before they are written",
    )


def downgrade() -> None:
    raise NotImplementedError("there is no way back to 0.1: restore the backup that was made before the upgrade")
