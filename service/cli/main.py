"""The `strata` command: its list of subcommands, and what becomes of everything that goes wrong.

A subcommand's module is imported when it is called, so that `--help` answers at once.
"""

import importlib
import sys
from collections.abc import Sequence

import click

from service.domain.errors import Refusal

INTERRUPTED = 130  # as a shell reports a process that SIGINT ended

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run:run", "Train a job, or a matrix of them, on this machine and watch."),
    "submit": ("run:submit", "Put a job, or a matrix of them, into the queue."),
    "jobs": ("jobs:jobs", "List jobs, newest first."),
    "status": ("jobs:status", "Show a job: stages, loss, checkpoint, why it waits."),
    "logs": ("jobs:logs", "Read what a job's processes wrote."),
    "events": ("jobs:events", "Everything that ever happened to a job."),
    "diagnose": ("diagnose:diagnose", "Say why a job is stuck, and show its layers."),
    "metrics": ("metrics:metrics", "Show what was measured of a job: its curves."),
    "profile": ("profile:profile", "Trace a running job's next steps: where their time goes."),
    "compare": ("compare:compare", "Put jobs beside each other: recipes, figures, curves."),
    "cancel": ("jobs:cancel", "End jobs for good."),
    "hold": ("jobs:hold", "Stop jobs at a checkpoint and keep them."),
    "release": ("jobs:release", "Let held jobs go on."),
    "checkpoints": ("checkpoints:checkpoints", "List, show and verify checkpoints."),
    "data": ("data:data", "Write samples as shards, for data larger than memory."),
    "nodes": ("jobs:nodes", "List agents and their nodes."),
    "spec": ("spec:spec", "The job file: its schema, and a check of one."),
    "up": ("local:up", "Run this machine's service in the foreground."),
    "down": ("local:down", "End this machine's service."),
    "doctor": ("doctor:doctor", "Find out what is wrong here, and what to do."),
    "server": ("server:server", "Run a server."),
    "agent": ("agent:agent", "Run an agent on a Ray cluster."),
    "db": ("admin:db", "The database's schema: upgrade, current, check."),
    "tokens": ("admin:tokens", "Make, list and revoke tokens."),
}

EPILOG = """\b
A JOB is an id, the end or the beginning of one, or @latest.
\b
Exit codes: 0 done, 1 the job failed, 2 bad input, 3 not found, 4 conflict,
5 server or database unreachable, 6 forbidden, 130 interrupted.
\b
Environment: STRATA_HOME, STRATA_URL, STRATA_TOKEN, STRATA_DATABASE_URL,
STRATA_REDIS_URL, STRATA_STORAGE_URL, STRATA_DATA_ROOTS, STRATA_HOST,
STRATA_PORT, STRATA_IDLE_SECONDS, STRATA_LOCAL_CPUS; docs/operations.md says what they mean.
"""


class LazyGroup(click.Group):
    """Knows its commands' names and help; imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of a user's first day."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command; `checkpoint` is as good as `checkpoints`."""
        known = COMMANDS.get(cmd_name) or COMMANDS.get(f"{cmd_name}s")
        if known is None:
            return None
        module, _, name = known[0].partition(":")
        command = getattr(importlib.import_module(f"service.cli.{module}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _show_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version  # takes longer than all of --help

        click.echo(f"strata {version('strata')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Strata: a distributed training service with a job queue."""


def main(words: Sequence[str] | None = None) -> None:
    """Run the command; every refusal is one line and an exit code."""
    try:
        code = cli.main(args=words, prog_name="strata", standalone_mode=False)
    except Refusal as refusal:
        click.echo(f"strata: {refusal}", err=True)
        sys.exit(refusal.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("strata: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # whoever reads us has enough
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)
