"""Recipes as people write them: the shortest one, and changes of it."""

from typing import Any

PLAIN: dict[str, Any] = {
    "data": {"source": "digits"},
    "model": {"kind": "mlp", "hidden": [32, 16, 8], "activation": "sigmoid"},
}
DAE = {"method": "denoising_autoencoder"}
RBM = {"method": "rbm"}
GREEDY = {"method": "greedy_supervised"}


def written(*changes: tuple[str, Any]) -> dict[str, Any]:
    """`PLAIN` with the values at some dotted paths replaced."""
    root: dict[str, Any] = {name: dict(part) for name, part in PLAIN.items()}
    for path, value in changes:
        *parents, last = path.split(".")
        part = root
        for parent in parents:
            part = part.setdefault(parent, {})
        part[last] = value
    return root
