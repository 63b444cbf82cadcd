"""Images look otherwise in each epoch, and the same in any batch, rank and process."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import Tensor

from workers.contract.data_spec import Augment, DataSpec
from workers.contract.outcome import ConfigFailure
from workers.data.augment import Augmented, augmented
from workers.data.dataset import Dataset, load_dataset
from workers.data.part import InMemory
from workers.data.sources import Places

ALL: dict[str, Any] = {"crop_padding": 2, "flip": 0.5, "noise": 0.1, "cutout": 3}
NUM = 200


def _part(seed: int = 0, is_unit: bool = True, **spec: Any) -> Augmented:
    x = torch.rand(NUM, 3, 8, 6, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    return augmented(InMemory(x, torch.arange(NUM)), Augment(**spec), seed, is_unit)


def _stored(part: Augmented) -> Tensor:
    return torch.cat(list(part.passes()))


def _all(part: Augmented, epoch: int = 0) -> Tensor:
    return part.rows(torch.arange(NUM), epoch)


def _num_different(images: Tensor) -> int:
    return len({tuple(image.flatten().tolist()) for image in images})


@given(
    st.permutations(range(NUM)),
    st.lists(st.integers(1, NUM), min_size=1, max_size=5),
    st.integers(0, 10_000),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=30, deadline=None)
def test_an_image_looks_the_same_whatever_it_is_asked_for_with(
    numbers: list[int], sizes: list[int], epoch: int, seed: int
) -> None:
    """It follows from (seed, epoch, its number) alone, not from the batch or what was before."""
    part = _part(seed, **ALL)
    whole = _all(part, epoch)
    order = torch.tensor(numbers)
    torch.manual_seed(sizes[0])  # another state of the process's own chance
    start = 0
    for size in sizes:
        rows_B = order[start : start + size]
        start += size
        assert torch.equal(part.rows(rows_B, epoch), whole[rows_B])
    assert torch.equal(_all(_part(seed, **ALL), epoch), whole)  # and not from the process


@pytest.mark.parametrize("key", ALL)
def test_images_change_with_the_epoch_the_seed_and_their_number(key: str) -> None:
    spec = {key: ALL[key]}
    base, other_seed = _all(_part(**spec)), _all(_part(seed=1, **spec))
    assert not torch.equal(base, _stored(_part(**spec)))
    assert not torch.equal(base, _all(_part(**spec), epoch=1))
    assert not torch.equal(base, other_seed)
    same = Augmented(
        InMemory(
            torch.full((NUM, 1, 9, 9), 0.5).index_fill(3, torch.arange(4), 0.2), torch.ones(NUM)
        ),
        Augment(**spec),
        0,
        is_unit=True,
    )
    assert _num_different(_all(same)) > 1


def test_nothing_asked_for_changes_nothing() -> None:
    part = _part()
    assert torch.equal(_all(part), _stored(part))


def test_half_of_the_images_are_mirrored() -> None:
    part = _part(flip=0.5)
    stored, seen = _stored(part), _all(part)
    is_same = (seen == stored).flatten(1).all(1)
    is_mirrored = (seen == stored.flip(3)).flatten(1).all(1)
    assert bool((is_same ^ is_mirrored).all())
    assert 0.35 * NUM < int(is_mirrored.sum()) < 0.65 * NUM
    assert torch.equal(_all(_part(flip=1.0)), stored.flip(3))
    epochs = torch.stack([_all(part, epoch)[0] for epoch in range(12)])
    assert _num_different(epochs) == 2


def test_a_crop_is_the_padded_image_seen_through_a_window_at_any_place() -> None:
    part = _part(crop_padding=2)
    padded = torch.nn.functional.pad(_stored(part), (2, 2, 2, 2))
    offsets = []
    for image, whole in zip(_all(part), padded, strict=True):
        found = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(image, whole[:, top : top + 8, left : left + 6])
        ]
        assert len(found) == 1
        offsets += found
    assert len(set(offsets)) == 25


def test_cutout_sets_one_square_to_zero() -> None:
    part = _part(cutout=3)
    stored, seen = _stored(part), _all(part)
    is_cut = seen == 0.0
    assert torch.equal(seen.masked_fill(is_cut, 1.0), stored.masked_fill(is_cut, 1.0))
    sizes = is_cut.sum((2, 3))
    assert bool((sizes == sizes[:, :1]).all())  # in all channels alike
    assert set(sizes.flatten().tolist()) == {4, 6, 9}  # at a corner, at an edge, inside
    assert bool(is_cut[:, 0].any(0).all())  # each place is met


def test_noise_is_gaussian_and_stays_in_the_unit_where_the_images_do() -> None:
    free = _part(is_unit=False, noise=0.1)
    noise = (_all(free) - _stored(free)) / 0.1
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1.0) < 0.02
    inside = [float((noise.abs() < width).float().mean()) for width in (1.0, 2.0)]
    assert inside == pytest.approx([0.683, 0.954], abs=0.01)
    neighbours = torch.corrcoef(noise.flatten(1)[:, :2].T)
    assert abs(float(neighbours[0, 1])) < 0.25
    limited = _all(_part(noise=0.5))
    assert (float(limited.min()), float(limited.max())) == (0.0, 1.0)


def _load(**spec: Any) -> Dataset:
    parsed: Any = TypeAdapter(DataSpec).validate_python(
        {"source": "digits", "image": True, "validation_fraction": 0.1, **spec}
    )
    return load_dataset(parsed, Places("/nowhere"), seed=3)


def test_only_the_training_part_is_augmented_and_all_are_normalized() -> None:
    plain = _load()
    data = _load(augment=ALL, normalize={"mean": [0.3], "std": [0.2]})
    assert plain.validation is not None
    assert data.validation is not None
    assert (plain.train.changes, data.train.changes, data.validation.changes) == (
        False,
        True,
        False,
    )
    rows = torch.arange(20)
    for part, base in ((data.validation, plain.validation), (data.train, plain.train)):
        torch.testing.assert_close(
            torch.cat(list(part.passes())), (torch.cat(list(base.passes())) - 0.3) / 0.2
        )
        assert part.digest() != base.digest()
    torch.testing.assert_close(
        data.validation.rows(rows, 0), (plain.validation.rows(rows, 0) - 0.3) / 0.2
    )
    assert not torch.allclose(data.train.rows(rows, 0), (plain.train.rows(rows, 0) - 0.3) / 0.2)
    assert torch.equal(data.flat().train.rows(rows, 0), data.train.rows(rows, 0).flatten(1))


def test_what_is_no_image_is_not_augmented(tmp_path: Any) -> None:
    np.savez(tmp_path / "set.npz", x=np.ones((20, 5)), y=np.arange(20) % 2)
    for key, value in (("augment", {"flip": 0.5}), ("normalize", {"mean": [0], "std": [1]})):
        spec: Any = TypeAdapter(DataSpec).validate_python(
            {"source": "npz", "path": "set.npz", key: value}
        )
        with pytest.raises(ConfigFailure, match=rf"data\.{key}: .* shape \(5,\)"):
            load_dataset(spec, Places(str(tmp_path)))
    with pytest.raises(ConfigFailure, match="2 values, but the images have 1"):
        _load(normalize={"mean": [0, 0], "std": [1, 1]})
