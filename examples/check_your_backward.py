"""Checking a backward pass that you wrote yourself.

    python examples/check_your_backward.py

Writing a backward pass is easy to get nearly right. Take swish(x) = x sigmoid(x) (Ramachandran et al. 2017): by the
product rule its derivative is s + x s (1 - s) with s = sigmoid(x). Whoever forgets that x stands in both factors
returns s alone: right at x = 0, right for large x, and wrong between, where no one looks. Such a net trains, a little
worse than it should, and says nothing.

`gradcheck` computes the derivatives a second time from values of the function alone and compares. Three habits make it
find more:

- check in float64: in float32 rounding hides small mistakes;
- check at several points, random ones, not at 0, where many mistakes cancel;
- check what surrounds your operation too: here a residual block that uses it.
"""

import minires
from minires import nn
from minires.autograd import Function
from minires.verify import gradcheck


class Swish(Function):
    """y = x sigmoid(x); dx = dy (s + x s (1 - s)), s = sigmoid(x)."""

    def forward(self, x):
        """Compute the value; x is an array."""
        self.save(x)
        return x * minires.sigmoid(minires.Tensor(x)).array

    def backward(self, dy):
        """Compute the gradient; x and dy are Tensors, so that second derivatives follow from the same text."""
        (x,) = self.saved
        s = minires.sigmoid(x)
        return dy * (s + x * s * (1 - s))


class HalfForgotten(Swish):
    """The same with half of the product rule."""

    def backward(self, dy):
        """Forget that sigmoid depends on x as well."""
        (x,) = self.saved
        return dy * minires.sigmoid(x)


class Block(nn.Module):
    """y = x + W swish(x)."""

    def __init__(self, features):
        super().__init__()
        self.linear = nn.Linear(features, features, dtype=minires.float64)

    def forward(self, x):
        """(N, features) -> (N, features)."""
        return x + self.linear(Swish()(x))


def main():
    """Check all three and return whether each is right."""
    minires.manual_seed(0)
    x = minires.randn(3, 4, dtype=minires.float64, requires_grad=True)
    subjects = {
        "swish": lambda x: Swish()(x),
        "swish with half of the product rule": lambda x: HalfForgotten()(x),
        "a residual block with swish": Block(4),
    }
    verdicts = {}
    for name, function in subjects.items():
        verdicts[name] = bool(gradcheck(function, x, raise_exception=False))
        print(f"{name}: {'right' if verdicts[name] else 'WRONG'}")
    return verdicts


if __name__ == "__main__":
    main()
