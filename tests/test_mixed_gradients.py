"""Gradients of mixed scales and of rough functions, in both modes.

Right ones of mixed scales are equal, those of rough functions ill-conditioned. One wrong element, however small beside
the others, is found.
"""

from __future__ import annotations

import numpy as np
import pytest
from mixed_gradients import MIXED, ROUGH, draw

from minires.verify import Verdict, gradcheck_numpy

MODES = ["full", "directions"]
CHUNK = 250


def assert_no_alarm(seed: int, mode: str) -> None:
    case = draw(seed)
    result = gradcheck_numpy(case.fn, case.vjp, case.inputs, raise_exception=False, seed=seed, mode=mode)
    expected = Verdict.ILL_CONDITIONED if case.is_rough else Verdict.EQUAL
    assert result.verdict is expected, f"case {seed}, {case.name}: {result}"


def assert_found(seed: int, mode: str) -> None:
    case = draw(seed)
    rng = np.random.default_rng(1_000_000 + seed)
    number, factor = int(rng.integers(len(case.inputs))), rng.choice([0, -1, 2, 0.5, 1.01, 1.001])
    element = int(rng.integers(case.inputs[number].size))

    def wrong(inputs, dy):
        gradients = [np.array(g) for g in case.vjp(inputs, dy)]
        gradients[number].flat[element] *= factor
        return gradients

    result = gradcheck_numpy(case.fn, wrong, case.inputs, raise_exception=False, atol=0, seed=seed, mode=mode)
    assert result.verdict is Verdict.DIFFERENT, f"case {seed}, {case.name}, {factor=}: {result}"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(0, 4 * len(MIXED), 2))
def test_one_wrong_element_is_found(seed, mode):
    assert_found(seed, mode)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("first", range(0, 2000, CHUNK))
def test_one_wrong_element_of_a_thousand_cases_is_found(first, mode):
    for seed in range(first, first + CHUNK, 2):
        assert_found(seed, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(2 * max(len(MIXED), len(ROUGH))))
def test_cases_of_each_kind(seed, mode):
    assert_no_alarm(seed, mode)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("first", range(0, 2000, CHUNK))
def test_two_thousand_cases(first, mode):
    for seed in range(first, first + CHUNK):
        assert_no_alarm(seed, mode)
