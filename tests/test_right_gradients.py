"""Right gradients at and near kinks: not one false alarm."""

from __future__ import annotations

import pytest
from right_gradients import DRAWS, draw

from minires.verify import gradcheck

CHUNK = 500


def assert_no_alarm(seed: int, **options) -> None:
    name, fn, inputs = draw(seed)
    result = gradcheck(fn, inputs, raise_exception=False, allow_unused=True, seed=seed, **options)
    assert result, f"case {seed}, {name}: {result}"


@pytest.mark.parametrize("name", DRAWS)
def test_two_cases_of_each_kind(name):
    for seed in range(list(DRAWS).index(name), 2 * len(DRAWS), len(DRAWS)):
        assert_no_alarm(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 10_000, CHUNK))
def test_ten_thousand_cases(first):
    for seed in range(first, first + CHUNK):
        assert_no_alarm(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(10_000, 12_000, CHUNK))
def test_two_thousand_cases_along_directions(first):
    for seed in range(first, first + CHUNK):
        assert_no_alarm(seed, mode="directions")
