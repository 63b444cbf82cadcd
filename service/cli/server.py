"""`strata server`: one of the replicas of a grown-up service, or a state folder's own."""

import logging

import click

from service.settings import read_settings


@click.command()
@click.option("--embedded", is_flag=True, help="Serve the state folder; `strata run` does this.")
def server(embedded: bool) -> None:
    """Run a server on STRATA_HOST:STRATA_PORT with STRATA_DATABASE_URL and STRATA_STORAGE_URL."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    settings = read_settings()
    if embedded:
        from service.cli.embedded import serve

        serve(settings, ends_when_idle=True)
        return
    from service.bootstrap import build
    from service.http.server import Server, bind

    service = build(settings)
    listener = bind(settings.host, settings.port)
    service.start()
    logging.getLogger(__name__).info("serving at %s:%d", *listener.getsockname()[:2])
    try:
        Server(service.app).run([listener])
    finally:
        service.close()
