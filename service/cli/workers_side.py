"""What a command needs of the workers: loaded by name when it is called."""

import importlib
from typing import Any

from service.domain.errors import BadInput


def workers_side(name: str, what: str) -> tuple[Any, Any]:
    """Return a module of the workers, and the module of the failures that it raises.

    Raises:
        BadInput: what it needs is not installed here.
    """
    try:
        return importlib.import_module(name), importlib.import_module("workers.contract.outcome")
    except ModuleNotFoundError as error:
        raise BadInput(
            f"{what} needs {error.name}", remedy="pip install 'strata[worker]'"
        ) from error
