"""`strata data`: bring samples into the form that jobs read best."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from service.cli.render import output_option, print_json
from service.cli.workers_side import workers_side
from service.domain.errors import BadInput, Unreachable
from service.settings import read_settings

MEGABYTE = 2**20
SHARD_MEGABYTES_MAX = 4096


@click.group()
def data() -> None:
    """Write samples as a stream."""


@data.command("shard")
@click.argument("x", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("y", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("to")
@click.option(
    "--part",
    type=click.Choice(["train", "validation", "test"]),
    default="train",
    show_default=True,
    help="Which part of the stream the samples are.",
)
@click.option(
    "--shard-megabytes",
    type=click.IntRange(1, SHARD_MEGABYTES_MAX),
    default=64,
    show_default=True,
    help="About how large a shard becomes.",
)
@output_option
def shard(x: Path, y: Path, to: str, part: str, shard_megabytes: int, output: str) -> None:
    """Write the samples X.npy (n, ...) with the labels Y.npy (n,) as shards below TO.

    TO is a path below the storage, or a URL below it or a data root; a job reads it as `data:
    {source: stream, path: TO}`. X may be larger than memory.
    """
    settings = read_settings()
    module, failures = workers_side("workers.data.shards", "writing shards")
    try:
        index = module.shard_files(
            x,
            y,
            f"{to}/{part}",
            (settings.storage_url, settings.data_roots),
            shard_megabytes * MEGABYTE,
            _counting,
        )
    except failures.ConfigFailure as error:
        raise BadInput(str(error)) from error
    except failures.StorageFailure as error:
        raise Unreachable(str(error), remedy="is STRATA_STORAGE_URL right?") from error
    shards, shape = len(index.shards), list(index.shape)
    if output == "json":
        told = {"path": f"{to}/{part}", "samples": index.num_samples, "shape": shape}
        print_json({**told, "dtype": index.dtype, "shards": shards, "classes": index.num_classes})
        return
    click.echo(
        f"{to}/{part}: {index.num_samples} samples of the shape {shape} in "
        f"{shards} shard{'s' * (shards > 1)}, {index.num_classes} classes"
    )


@contextmanager
def _counting(num_samples: int) -> Iterator[Callable[[int], None]]:
    """Show how far it is on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(
        length=num_samples, label="writing shards", file=sys.stderr, show_pos=True
    ) as bar:
        yield bar.update
