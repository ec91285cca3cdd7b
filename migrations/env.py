"""What Alembic runs: the migrations of `versions/`, on a connection that `etl.store.schema` hands over."""

from alembic import context

from etl.store import tables

config = context.config

context.configure(connection=config.attributes["connection"], target_metadata=tables.metadata)
with context.begin_transaction():
    context.run_migrations()
