"""A job's lines as series."""

import math

from service.control.series import Line, chosen, series_of


def line(step: int, stage: int = 0, attempt: int = 1, **values: float | None) -> Line:
    return Line(
        attempt, stage, step, float(step), {k.replace("__", "."): values[k] for k in values}
    )


def steps(lines: list[Line]) -> list[int]:
    [series] = series_of(lines)
    return [point.step for point in series.points]


def test_each_stage_and_name_is_a_series_with_its_extremes() -> None:
    found = series_of([line(1, loss=3.0), line(2, loss=1.0, lr=0.1), line(3, stage=1, loss=2.0)])
    assert [(one.stage_index, one.name) for one in found] == [(0, "loss"), (0, "lr"), (1, "loss")]
    assert (found[0].last, found[0].lowest, found[0].highest) == (1.0, 1.0, 3.0)


def test_a_step_that_was_repeated_counts_as_it_was_told_last() -> None:
    first = [line(step, loss=1.0) for step in (10, 20, 30, 40)]
    again = [line(step, attempt=2, loss=2.0) for step in (25, 40, 50)]
    [series] = series_of([*first, *again])
    assert [(point.step, point.value) for point in series.points] == [
        (10, 1.0),
        (20, 1.0),
        (25, 2.0),
        (40, 2.0),
        (50, 2.0),
    ]


def test_what_goes_back_twice_still_rises() -> None:
    assert steps([line(step, loss=0.0) for step in (5, 9, 3, 7, 2, 4)]) == [2, 4]


def test_what_is_no_number_is_no_point() -> None:
    assert steps([line(1, loss=None), line(2, loss=math.inf), line(3, loss=0.5)]) == [3]


def test_names_are_patterns_and_a_layer_has_its_own() -> None:
    found = series_of(
        [
            line(1, loss=1.0, grad_norm=1.0, grad_norm__a=1.0, code_sd__a=1.0),
            line(2, stage=1, loss=1.0),
        ]
    )
    assert [one.name for one in chosen(found, ["grad_norm.*"], None)] == ["grad_norm.a"]
    assert [one.name for one in chosen(found, ["grad_norm"], None)] == ["grad_norm"]
    assert [one.name for one in chosen(found, [], "a")] == ["grad_norm.a", "code_sd.a"]
    assert [one.name for one in chosen(found, ["code_sd"], "a")] == ["code_sd.a"]
    assert [one.name for one in chosen(found, [], None)][:2] == ["loss", "loss"]
