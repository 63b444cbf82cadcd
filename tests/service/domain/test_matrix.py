"""A matrix becomes the jobs that one would write out by hand, or is refused with its line."""

import pytest

from service.domain.errors import BadInput
from service.domain.matrix import MATRIX_MAX, merged
from service.domain.spec import JobSpec
from service.domain.specfile import JobFile, read_jobs
from workers.contract.model_spec import MlpModel

BASE = """\
name: story
data: {source: digits}
model: {kind: mlp, hidden: [10], activation: sigmoid}
training:
  epochs: 5
  optimizer: {name: sgd, lr: 0.1, momentum: 0.9}
matrix:
"""
ARMS = """\
  seed: [0, 1]
  include:
    - name: shallow
    - name: deep
      model: {hidden: [10, 10]}
      training: {optimizer: {name: adam}}
"""


def mlp(spec: JobSpec) -> MlpModel:
    assert isinstance(spec.model, MlpModel)
    return spec.model


def read(matrix: str, base: str = BASE) -> JobFile:
    return read_jobs(base + matrix, "m.yaml")


def test_every_arm_meets_every_value_of_every_axis() -> None:
    file = read(ARMS)
    assert file.matrix == "story"
    assert [spec.name for spec in file.specs] == [
        "story-shallow-seed-0",
        "story-shallow-seed-1",
        "story-deep-seed-0",
        "story-deep-seed-1",
    ]
    assert [spec.seed for spec in file.specs] == [0, 1, 0, 1]
    assert [len(mlp(spec).hidden) for spec in file.specs] == [1, 1, 2, 2]


def test_an_arm_changes_what_it_names_and_keeps_the_rest() -> None:
    deep = read(ARMS).specs[2]
    assert mlp(deep).activation == "sigmoid"
    assert deep.training.epochs == 5


def test_another_kind_replaces_the_whole_mapping() -> None:
    """Adam has no momentum: what the base says of sgd would be refused."""
    assert read(ARMS).specs[2].training.optimizer.name == "adam"


def test_members_bear_the_matrix_and_their_arm_as_labels_beside_their_own() -> None:
    labels = [spec.labels for spec in read(ARMS, "labels: {team: a}\n" + BASE).specs]
    assert labels[1] == {"team": "a", "matrix": "story", "arm": "shallow"}
    assert labels[2] == labels[3] == {"team": "a", "matrix": "story", "arm": "deep"}


def test_an_axis_may_lie_deep_and_hold_lists() -> None:
    file = read("  training.optimizer.lr: [0.1, 0.01]\n  model.hidden: [[5], [5, 5]]\n")
    assert [(spec.training.optimizer.lr, mlp(spec).hidden) for spec in file.specs] == [
        (0.1, (5,)),
        (0.1, (5, 5)),
        (0.01, (5,)),
        (0.01, (5, 5)),
    ]
    assert file.specs[3].name == "story-lr-0.01-hidden-1"
    assert file.specs[0].training.optimizer == read(ARMS).specs[0].training.optimizer


def test_a_file_without_a_matrix_is_one_job() -> None:
    file = read_jobs(BASE.removesuffix("matrix:\n"), "m.yaml")
    assert file.matrix is None
    assert [spec.name for spec in file.specs] == ["story"]
    assert file.specs[0].labels == {}


@pytest.mark.parametrize(
    ("matrix", "refusal"),
    [
        ("  seed: 3\n", "m.yaml:8 matrix.seed: is a list of values; write `seed: [...]`"),
        ("  seed: []\n", "m.yaml:8 matrix.seed: is a list of values"),
        ("  {}\n", "m.yaml:7 matrix: is a mapping of axes to lists"),
        ("  include: [3]\n", "m.yaml:8 matrix.include.0: is a mapping"),
        ("  include: []\n", "m.yaml:8 matrix.include: is a list of arms"),
        ("  include:\n    - model: {hidden: [1]}\n", "m.yaml:9 matrix.include.0.name: is missing"),
        ("  include:\n    - {name: a}\n    - {name: a}\n", 'two jobs named "a"; give each arm'),
        ("  seed: [1, 1]\n", 'm.yaml:8 matrix.seed: makes two jobs named "seed-1"'),
        ("  name: [a, b]\n", "m.yaml:8 matrix.name: is made by the matrix"),
        ("  a..b: [1]\n", "m.yaml:8 matrix.a..b: is no key of a job"),
        ("  sede: [1]\n", "m.yaml:8 sede-1: sede: is not a known key; did you mean `seed`?"),
        ("  seed: [0, x]\n", 'm.yaml:8 seed-x: seed: is "x": input should be'),
        (
            "  include:\n    - name: odd\n      model: {hiden: [1]}\n",
            "m.yaml:10 odd: model.hiden: is not a known key; did you mean `hidden`?",
        ),
        (
            "  include:\n    - {name: ok}\n    - name: two words\n",
            'two words: name: is "story-two words"',
        ),
    ],
)
def test_a_wrong_matrix_gets_one_sentence_with_its_line(matrix: str, refusal: str) -> None:
    with pytest.raises(BadInput) as refused:
        read(matrix)
    assert refusal in str(refused.value)


def test_a_mistake_of_the_base_is_told_with_the_base_s_line() -> None:
    with pytest.raises(BadInput, match=r"m\.yaml:5 shallow-seed-0: training\.epochs: is -5"):
        read(ARMS, BASE.replace("epochs: 5", "epochs: -5"))


def test_the_matrix_s_own_labels_are_its_own() -> None:
    with pytest.raises(BadInput, match=r"m\.yaml:1 labels\.arm: is set by the matrix"):
        read(ARMS, "labels: {arm: x}\n" + BASE)


def test_a_matrix_has_a_largest_size_and_is_counted_before_it_is_made() -> None:
    seeds = ", ".join(map(str, range(MATRIX_MAX)))
    assert len(read(f"  seed: [{seeds}]\n").specs) == MATRIX_MAX
    wide = "".join(f"  training.axis{n}: [{seeds}]\n" for n in range(30))
    with pytest.raises(BadInput, match=f"jobs; {MATRIX_MAX} are allowed; shorten an axis"):
        read(wide)


def test_laying_one_mapping_over_another_touches_neither() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    change = {"a": {"c": 5}}
    assert merged(base, change) == {"a": {"b": 1, "c": 5}, "d": 3}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}
    assert change == {"a": {"c": 5}}
