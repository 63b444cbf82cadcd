"""Runs the migrations on the connection that it is given, in the caller's transaction."""

from alembic import context

from service.store.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=connection.dialect.name == "sqlite",  # SQLite can't alter columns in place
)
context.run_migrations()
