"""What a command needs of the workers: loaded by name when it is called."""

import importlib
from typing import Any

from service.domain.errors import BadInput


def workers_side(name: str, what: str, extra: str = "worker") -> tuple[Any, Any]:
    """Return a module of the workers, and the module of the failures that it raises.

    `extra` names the set of packages that has what it needs.

    Raises:
        BadInput: what it needs is not installed here.
    """
    try:
        return importlib.import_module(name), importlib.import_module("workers.contract.outcome")
    except ModuleNotFoundError as error:
        raise BadInput(
            f"{what} needs {error.name}", remedy=f"pip install 'strata[{extra}]'"
        ) from error
