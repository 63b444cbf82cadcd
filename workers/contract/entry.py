"""Loads a callable of the user's own, which a recipe names under some `import:`."""

import importlib
from typing import Any

from workers.contract.outcome import ConfigFailure


def called(entry: str, key: str, *arguments: Any, **options: Any) -> Any:
    """Call what `package.module:callable` names; return what it returns.

    Args:
        entry: the name.
        key: where the recipe has it, as `model`.
        arguments: ours.
        options: the recipe's.

    Raises:
        ConfigFailure: it can't be imported, or does not take these.
    """
    module, _, name = entry.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigFailure(
            f"{key}.import: {entry} can't be imported ({error}); is it in the folder that `code:` "
            "names, or installed on the workers?"
        ) from error
    if not callable(found):
        raise ConfigFailure(f"{key}.import: {entry} is no callable")
    try:
        return found(*arguments, **options)
    except TypeError as error:
        raise ConfigFailure(
            f"{key}.import: {entry} can't be called with {len(arguments)} arguments and "
            f"options {', '.join(options) or '(none)'}: {error}"
        ) from error
