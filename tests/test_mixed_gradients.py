"""Right gradients of mixed scales are equal, and those of rough functions ill-conditioned, in both modes."""

from __future__ import annotations

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
