"""Samples of the user's own, from a callable that the recipe names."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from workers.contract.data_spec import CustomData
from workers.contract.entry import called
from workers.contract.outcome import ConfigFailure
from workers.data.divide import Parts, divided
from workers.data.rows import divided_by_row
from workers.data.sources import Array, Stored

ARRAYS = (2, 4)  # (x, y), or with a test part


def load_custom(spec: CustomData) -> Parts:
    """Call the user's callable and divide what it returns.

    Raises:
        ConfigFailure: it can't be imported, or gives something else than samples and labels.
    """
    given = called(spec.entry, "data", **spec.options)
    if not isinstance(given, Sequence) or len(given) not in ARRAYS:
        raise ConfigFailure(
            f"data.import: {spec.entry} must return (x, y) or (x, y, x_test, y_test), not "
            f"{type(given).__name__}"
        )
    x, y, *test = given
    labels = _array(y, spec)
    if not _is_by_row(x):
        x_test, y_test = (_array(one, spec) for one in test) if test else (None, None)
        return divided(Stored(spec.entry, _array(x, spec), labels, x_test, y_test), spec)
    own_test = (test[0], _array(test[1], spec)) if test else None
    stamp = hashlib.sha256(f"{spec.model_dump_json()} {labels.tobytes()!r}".encode()).hexdigest()
    return divided_by_row(x, labels, own_test, spec, stamp)


def _array(given: Any, spec: CustomData) -> Array:
    try:
        return np.asarray(given)
    except (ValueError, TypeError) as error:  # samples of several shapes, most often
        raise ConfigFailure(
            f"data.import: {spec.entry} returns what is no array: {error}; give all samples one "
            "shape"
        ) from error


def _is_by_row(x: Any) -> bool:
    """Whether the samples are to be read row by row: they are no array in memory."""
    if isinstance(x, np.memmap):
        return True
    is_array = isinstance(x, np.ndarray) or hasattr(x, "__array__")
    return not is_array and hasattr(x, "shape") and hasattr(x, "__getitem__")
