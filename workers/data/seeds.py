"""Every random number of a job comes from its one seed and the words that say what it is for."""

import hashlib

SEED_BITS = 63  # torch takes a signed 64-bit seed


def derived_seed(seed: int, *what_for: str | int) -> int:
    """Return a seed for one purpose, such as `derived_seed(0, "order", stage, epoch)`.

    Different words give unrelated seeds: neighbouring seeds of some generators are correlated.
    """
    text = "/".join(str(word) for word in (seed, *what_for))
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - SEED_BITS)
