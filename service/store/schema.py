"""Whether the database's schema is the one that this code speaks, and how it gets there."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, func, inspect, select, text

from service.domain.errors import BadInput
from service.store.engine import reading, writing
from service.store.tables import schema_release

if TYPE_CHECKING:  # Alembic takes 0.1 s to import: only where a schema is looked at
    from alembic.config import Config
    from alembic.script import ScriptDirectory


@dataclass(frozen=True)
class SchemaState:
    """What the database has, and what this code wants."""

    current: str | None  # Alembic revision; None: an empty database
    head: str
    is_acceptable: bool
    sentence: str


def check(engine: Engine) -> SchemaState:
    """Compare the schema; acceptable are our own, and one that is a single release newer.

    Raises:
        Unreachable: the database does not answer.
    """
    from alembic.runtime.migration import MigrationContext

    scripts = _scripts()
    head = scripts.get_current_head()
    assert head is not None
    with reading(engine) as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        release = _release(connection)
    if current == head:
        return SchemaState(current, head, True, "the schema is current")
    if current is None:
        return _refused(current, head, "the database has no schema")
    known = {script.revision for script in scripts.walk_revisions()}
    if current in known:
        return _refused(current, head, f"the schema is older ({current}) than this release's")
    ours = int(scripts.get_revision(head).module.RELEASE)
    if release is not None and release == ours + 1:
        return SchemaState(current, head, True, "the schema is one release newer")
    return SchemaState(
        current, head, False, f"the schema ({current}) is newer than this release knows; upgrade it"
    )


def _refused(current: str | None, head: str, sentence: str) -> SchemaState:
    return SchemaState(current, head, False, f"{sentence}; run `strata db upgrade`")


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the schema up to date; two at once are safe, the second finds it done.

    Raises:
        BadInput: the schema is newer than this release knows.
        Unreachable: the database does not answer.
    """
    from alembic import command
    from alembic.util import CommandError

    with _migrating(engine) as config:
        try:
            command.upgrade(config, revision)
        except CommandError as error:  # it knows no such revision
            raise BadInput(
                f"the schema is not one of this release's: {error}", remedy="upgrade Strata"
            ) from error


def downgrade(engine: Engine, revision: str) -> None:
    """Take the schema back to a revision; "base" is an empty database."""
    from alembic import command

    with _migrating(engine) as config:
        command.downgrade(config, revision)


@contextmanager
def _migrating(engine: Engine) -> Iterator["Config"]:
    config = _config()
    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(select(text("pg_advisory_xact_lock(hashtext('strata-schema'))")))
        config.attributes["connection"] = connection
        yield config


def _config() -> "Config":
    from alembic.config import Config

    spec = importlib.util.find_spec("migrations")
    assert spec is not None
    assert spec.origin is not None
    config = Config()
    config.set_main_option("script_location", str(Path(spec.origin).parent))
    return config


@cache
def _scripts() -> "ScriptDirectory":
    """Our migrations; they are code, and so are read once, though probes ask each few seconds."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config())


def _release(connection: Connection) -> int | None:
    """The release of the database's newest migration, of which we may have no script."""
    if not inspect(connection).has_table(schema_release.name):
        return None
    number: int | None = connection.scalar(select(func.max(schema_release.c.number)))
    return number
