"""A file of weights by our names in shared storage: what an import writes, and `init_from` reads.

It is safetensors, which holds numbers only: nothing in it can run.
"""

import hashlib
from collections.abc import Mapping

from torch import Tensor

from workers.contract.outcome import ConfigFailure, StorageFailure
from workers.contract.paths import resolve_data


def write_weights(
    path: str,
    weights: Mapping[str, Tensor],
    origin: Mapping[str, str],
    storage_url: str,
    data_roots: tuple[str, ...],
) -> str:
    """Write tensors, and return the SHA-256 of the file, which appears when it is whole.

    Args:
        path: below the storage root, or a URL below it or a data root.
        weights: by our names.
        origin: what is said of them in the file.
        storage_url: the storage root.
        data_roots: other places that jobs may read from.

    Raises:
        ConfigFailure: the path lies outside, or there is a file already: jobs may begin from it.
        StorageFailure: storage refused it.
    """
    from fsspec.core import url_to_fs
    from safetensors.torch import save

    url = _url(path, storage_url, data_roots)
    content = save(
        {name: tensor.contiguous() for name, tensor in weights.items()},
        metadata={"format": "pt", **origin},
    )
    try:
        files, inside = url_to_fs(url)
        if files.exists(inside):
            raise ConfigFailure(f"{url} is there already, and jobs may begin from it; name another")
        files.makedirs(inside.rpartition("/")[0], exist_ok=True)
        with files.transaction, files.open(inside, "wb") as stream:
            stream.write(content)
    except (ImportError, ValueError) as error:  # an unknown protocol, or its package is missing
        raise ConfigFailure(f"{url} can't be opened: {error}") from error
    except OSError as error:
        raise StorageFailure(f"{url} can't be written: {error}") from error
    return hashlib.sha256(content).hexdigest()


def read_weights(
    path: str, sha256: str | None, storage_url: str, data_roots: tuple[str, ...]
) -> dict[str, Tensor]:
    """Return the tensors of a file by name, on the CPU.

    Args:
        path: below the storage root, or a URL below it or a data root.
        sha256: of the file's bytes, where it must be a certain one.
        storage_url: the storage root.
        data_roots: other places that jobs may read from.

    Raises:
        ConfigFailure: the path lies outside, there is no file, or it is another than was said.
        StorageFailure: storage can't be read.
    """
    import fsspec
    from safetensors import SafetensorError
    from safetensors.torch import load

    url = _url(path, storage_url, data_roots)
    try:
        with fsspec.open(url, "rb") as stream:
            content: bytes = stream.read()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise ConfigFailure(f"init_from.weights: there is no file {url}") from error
    except (ImportError, ValueError) as error:  # an unknown protocol, or its package is missing
        raise ConfigFailure(f"init_from.weights: {url} can't be opened: {error}") from error
    except OSError as error:
        raise StorageFailure(f"{url} can't be read: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, found):
        raise ConfigFailure(
            f"init_from.sha256: {url} has the SHA-256 {found}, not {sha256}: it was changed; put "
            "the old one back, or say that you mean the new one"
        )
    try:
        return load(content)
    except SafetensorError as error:
        raise ConfigFailure(
            f"init_from.weights: {url} is no safetensors file ({error}); bring weights in by "
            "`strata checkpoints import`"
        ) from error


def _url(path: str, storage_url: str, data_roots: tuple[str, ...]) -> str:
    url = resolve_data(path, storage_url, data_roots)
    if url is None:
        roots = ", ".join((storage_url, *data_roots))
        raise ConfigFailure(f"{path} lies outside of what jobs may read ({roots})")
    return url
