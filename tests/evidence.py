"""What docs/verify.md reports. Run from tests/, in parts if need be:

    python -m evidence bugs 0 1000 > found       for each bug, who finds it
    python -m evidence right 0 10000             how right gradients at and near kinks are judged
    python -m evidence along 0 6000              the same along one random direction
    python -m evidence mixed 0 2000              how right gradients of mixed scales and rough functions are judged
    python -m evidence table < found             the table of the page
    python -m evidence cost                      processor time of checks of every op and of two nets

PyTorch's gradcheck is run with its default tolerances on the same functions.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter
from importlib import import_module

import mixed_gradients
import numpy as np
import torch
from gradient_bugs import BUGS, MODULES
from gradient_bugs.base import Op
from right_gradients import draw
from test_gradcheck_ops import SMOOTH, functions
from test_gradient_bugs import as_minires, torch_passes

import minires
from minires import models
from minires.autograd import Tensor, grad
from minires.verify import Verdict, gradcheck, gradcheck_numpy, verify_model


def family(op: Op) -> str:
    return next(name for name in MODULES if op in import_module(f"gradient_bugs.{name}").OPS)


CHECKS = ("NumPy", "engine", "directions", "diagnosed", "PyTorch")


def bugs(first: int, last: int) -> None:
    """Print, for the bugs from ``first`` to ``last``, 1 for every check that finds it."""
    for op, bug in BUGS[first:last]:
        vjp = op.wrong(bug)
        tensors = [Tensor(x, requires_grad=True) for x in op.inputs]
        through_engine = gradcheck(as_minires(op.fn, vjp), tensors, raise_exception=False)
        found = (
            gradcheck_numpy(op.fn, vjp, op.inputs, raise_exception=False).verdict is Verdict.DIFFERENT,
            through_engine.verdict is Verdict.DIFFERENT,
            not gradcheck_numpy(op.fn, vjp, op.inputs, raise_exception=False, mode="directions"),
            any(block.diagnoses for block in through_engine.blocks),
            not torch_passes(op.fn, vjp, op.inputs),
        )
        print(family(op), *map(int, found), f"{op.name}: {bug.name}", sep="\t", flush=True)


def table() -> None:
    """Print the table from what `bugs` has printed, and what each check misses."""
    lines = [line.rstrip("\n").split("\t") for line in sys.stdin]
    print("| bugs of | seeded |", " | ".join(CHECKS), "|")
    print("|---|" + "---:|" * (1 + len(CHECKS)))
    for name in [*MODULES, "all"]:
        counted = [line for line in lines if name in (line[0], "all")]
        sums = (sum(int(line[1 + k]) for line in counted) for k in range(len(CHECKS)))
        print("|", " | ".join(map(str, (name, len(counted), *sums))), "|")
    for k, check in enumerate(CHECKS):
        print(f"missed by {check}:", "; ".join(line[-1] for line in lines if line[1 + k] == "0") or "nothing")


def along(first: int, last: int) -> None:
    """Print how the right gradients of the cases from ``first`` to ``last`` are judged along one random direction."""
    verdicts, failures = Counter(), []
    for seed in range(first, last):
        name, fn, inputs = draw(seed)
        options = {"raise_exception": False, "allow_unused": True, "seed": seed}
        result = gradcheck(fn, inputs, mode="directions", directions=1, **options)
        verdicts.update(
            [str(result.verdict), *(["redrawn"] if result.redrawn else []), *(["nudged"] if result.nudged else [])]
        )
        if not result:
            failures.append(f"{seed} {name}: {result}")
    print(dict(verdicts), *failures, sep="\n")


def right(first: int, last: int) -> None:
    """Print how the right gradients of the cases from ``first`` to ``last`` are judged, in full and by PyTorch."""
    ours, theirs, failures = Counter(), Counter(), []
    seconds = 0.0
    for seed in range(first, last):
        name, fn, inputs = draw(seed)
        begin = time.perf_counter()
        result = gradcheck(fn, inputs, raise_exception=False, allow_unused=True, seed=seed)
        seconds += time.perf_counter() - begin
        ours.update([str(result.verdict), *(["nudged"] if result.nudged else [])])
        if not result:
            failures.append(f"{seed} {name}: {result}")

        def value(*arrays, fn=fn):
            return fn(*(Tensor(a) for a in arrays)).numpy()

        def vjp(arrays, dy, fn=fn):
            leaves = [Tensor(a, requires_grad=True) for a in arrays]
            found = grad(fn(*leaves), leaves, Tensor(np.array(dy)), allow_unused=True, materialize_grads=True)
            return [g.numpy() for g in found]

        passed = torch_passes(value, vjp, [x.detach().numpy() for x in inputs])
        theirs["passed" if passed else "failed"] += 1
    print(f"ours {dict(ours)} in {seconds:.0f} s; PyTorch {dict(theirs)}")
    print(*failures, sep="\n")


def mixed(first: int, last: int) -> None:
    """Print how right gradients of mixed scales, and of rough functions, are judged in both modes and by PyTorch."""
    found, failures = Counter(), []
    for seed in range(first, last):
        case = mixed_gradients.draw(seed)
        kind = "rough" if case.is_rough else "mixed"
        for mode in ("full", "directions"):
            result = gradcheck_numpy(
                case.fn, case.vjp, case.inputs, raise_exception=False, allow_unused=True, seed=seed, mode=mode
            )
            found[kind, mode, str(result.verdict)] += 1
            if result.verdict is not (Verdict.ILL_CONDITIONED if case.is_rough else Verdict.EQUAL):
                failures.append(f"{seed} {case.name}: {result}")
        with np.errstate(all="ignore"):
            found[kind, "PyTorch", "passed" if torch_passes(case.fn, case.vjp, case.inputs) else "failed"] += 1
    print(*(f"{' '.join(key)}: {count}" for key, count in sorted(found.items())), *failures, sep="\n")


def cost() -> None:
    """Print the processor time, of all threads, of the dearest full check of an op and of checks of whole nets."""
    taken = []
    for name in SMOOTH:
        for number, (fn, leaves) in enumerate(functions(name)):
            begin = time.process_time()
            result = gradcheck(fn, leaves, raise_exception=False, allow_unused=True)
            taken.append((time.process_time() - begin, f"{name}, sample {number}, {sum(result.counts().values())}"))
            if not result:
                print(name, number, result)
    print(f"{len(taken)} samples of ops in {sum(seconds for seconds, _ in taken):.0f} s; the dearest:")
    print(*(f"{seconds:.2f} s {what} derivatives" for seconds, what in sorted(taken)[:-6:-1]), sep="\n")
    for name, side in (("resnet20", 16), ("resnet20", 32), ("resnet50", 64)):
        minires.manual_seed(0)
        net, rng = models.get_model(name), np.random.default_rng(0)
        images, labels = rng.standard_normal((2, 3, side, side)), rng.integers(0, 10, 2)
        begin, clock = time.process_time(), time.perf_counter()
        checks = verify_model(net, images, labels)
        print(
            f"{name}, two images of {side}x{side} pixels: {len(checks)} parameters, "
            f"{sum(check.passed for check in checks)} of them equal, {time.process_time() - begin:.1f} s of processor "
            f"time, {time.perf_counter() - clock:.1f} s by the clock",
            flush=True,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    command, *numbers = sys.argv[1:]
    {"bugs": bugs, "right": right, "along": along, "mixed": mixed, "table": table, "cost": cost}[command](
        *map(int, numbers)
    )
