"""`strata db` and `strata tokens`: what is done on the database itself."""

from typing import TYPE_CHECKING, TextIO

import click

from service.cli.render import output_option, print_json, print_table
from service.domain.errors import BadInput, Conflict, NotFound
from service.settings import make_home, read_settings

if TYPE_CHECKING:  # SQLAlchemy takes longer to import than --help may
    from sqlalchemy import Engine

ROLES = ("viewer", "submitter", "operator", "admin")


@click.group()
def db() -> None:
    """Look after the database's schema (STRATA_DATABASE_URL)."""


@db.command()
def upgrade() -> None:
    """Bring the schema up to this release; safe to run twice, or twice at once."""
    from service.store import schema

    engine = _engine()
    schema.upgrade(engine)
    click.echo(schema.check(engine).sentence)


@db.command()
@output_option
def current(output: str) -> None:
    """Show the schema's revision, and this release's."""
    from service.store import schema

    state = schema.check(_engine())
    if output == "json":
        print_json({"current": state.current, "head": state.head, "sentence": state.sentence})
    else:
        click.echo(f"{state.current or 'none'} (this release: {state.head}); {state.sentence}")


@db.command()
def check() -> None:
    """Exit with 2 unless a server of this release could work on the schema."""
    from service.store import schema

    state = schema.check(_engine())
    if not state.is_acceptable:
        raise BadInput(state.sentence, place="STRATA_DATABASE_URL")
    click.echo(state.sentence)


@click.group()
def tokens() -> None:
    """Make, list and revoke tokens, on the database itself."""


@tokens.command()
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), default="submitter", show_default=True)
@click.option("--project", help="Only this project's jobs; by default all.")
@click.option("--agent", "is_agent", is_flag=True, help="For the agent of this name.")
@click.option("--days", type=click.IntRange(1), help="Expires after so many days.")
@click.option(
    "--token-file",
    type=click.File(),
    help="Record the token in this file (- for standard input) instead of a new one.",
)
@output_option
def create(
    name: str,
    role: str,
    project: str | None,
    is_agent: bool,
    days: int | None,
    token_file: TextIO | None,
    output: str,
) -> None:
    """Make a token for NAME and show it, once.

    With --token-file the token is one that you made yourself, and is not shown; to record it again
    changes nothing, so that a script may repeat it.
    """
    from datetime import timedelta

    from service.domain.records import Role
    from service.http.auth import make_token
    from service.store.store import Store

    store = Store(_engine())
    now = store.now()
    text, token = make_token(
        name,
        now,
        role=Role(role),
        is_agent=is_agent,
        project=project,
        expires_at=now + timedelta(days=days) if days else None,
        text=None if token_file is None else token_file.read().strip(),
    )
    known = next((one for one in store.tokens() if one.sha256 == token.sha256), None)
    if known is None:
        with store.write() as tx:
            tx.add_token(token)
    elif (known.name, known.is_agent, known.revoked_at) != (name, is_agent, None):
        raise Conflict("this token is another's, or revoked", remedy="make a new one")
    if output == "json":
        print_json({"name": name, "token": text if token_file is None else None})
    elif token_file is None:
        click.echo(text)
    else:
        click.echo(f"the token of {name} is recorded")


@tokens.command("list")
@output_option
def list_tokens(output: str) -> None:
    """List tokens; they themselves are never stored."""
    from service.http.shapes import to_json
    from service.store.store import Store

    found = to_json(Store(_engine()).tokens())
    if output == "json":
        print_json({"tokens": found})
        return
    columns = ("name", "opens", "project", "created", "expires", "revoked")
    rows = [
        (
            one["name"],
            "agent" if one["is_agent"] else one["role"],
            one["project"],
            one["created_at"][:16],
            (one["expires_at"] or "")[:16],
            (one["revoked_at"] or "")[:16],
        )
        for one in found
    ]
    print_table(columns, rows)


@tokens.command()
@click.argument("name")
def revoke(name: str) -> None:
    """Revoke every token of NAME."""
    from service.store.store import Store

    with Store(_engine()).write() as tx:
        count = tx.revoke_token(name)
    if count == 0:
        raise NotFound(f"{name!r} has no token that could be revoked", remedy="strata tokens list")
    click.echo(f"revoked {count}")


def _engine() -> "Engine":
    from service.store.engine import open_engine

    settings = read_settings()
    if settings.database_url.startswith("sqlite:"):
        make_home(settings.home)
    return open_engine(settings.database_url)
