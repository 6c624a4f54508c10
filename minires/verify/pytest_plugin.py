"""The pytest fixture ``gradcheck``: a gradient check in one line of a test.

    def test_my_op(gradcheck):
        gradcheck(my_op, (x, w))

pytest finds it by itself where minires is installed. A check that does not pass fails the test with the report.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from minires.verify import Result


@pytest.fixture
def gradcheck() -> Callable[..., Result]:
    """Return a function that fails the test unless every gradient is right, and returns the result.

    ``gradcheck(fn, inputs, ...)`` for Tensors, ``gradcheck(fn, inputs, vjp=vjp)`` for a pair of plain NumPy functions;
    ``second_order=True`` checks second derivatives as well. Other arguments are those of `minires.verify.gradcheck`.
    """
    return _check


def _check(
    fn: Callable[..., Any], inputs: Any, *, vjp: Any = None, second_order: bool = False, **options: Any
) -> Result:
    __tracebackhide__ = True
    from minires import verify

    options["raise_exception"] = False
    if vjp is not None and second_order:
        raise ValueError("gradcheck: second derivatives need Tensors: leave out vjp or second_order")
    if vjp is not None:
        result = verify.gradcheck_numpy(fn, vjp, inputs, **options)
    else:
        result = verify.gradcheck(fn, inputs, **options)
    _fail_unless(result)
    if second_order:
        second = verify.gradgradcheck(fn, inputs, **options)
        _fail_unless(second)
    return result


def _fail_unless(result: Result) -> None:
    __tracebackhide__ = True
    if not result:
        from rich.console import Console

        console = Console(width=120, color_system=None)
        with console.capture() as captured:
            console.print(result)
        pytest.fail(f"gradcheck: {result}\n{captured.get()}", pytrace=False)
