"""A residual unit by hand: y = relu(x + F(x)) with F(x) = W2 relu(W1 x), and its gradient without any autograd.

    python examples/residual_unit.py

The backward pass of the skip connection is one addition: what arrives at the sum, dz, goes to x as it is, and once more
through the branch F. The script works it out with NumPy alone, then lets minires do it, and compares.
"""

import numpy as np

import minires
from minires.nn import functional as F


def by_hand(x, w1, w2, dy):
    """Return y and the gradients of sum(dy * y) by x (split into its two ways), w1 and w2; x is (batch, features)."""
    h = x @ w1.T
    a = np.maximum(h, 0)
    z = x + a @ w2.T  # the skip connection: x itself is a summand
    y = np.maximum(z, 0)

    dz = dy * (z > 0)
    through_identity = dz  # dz/dx of the first summand is 1
    da = dz @ w2
    dw2 = dz.T @ a
    dh = da * (h > 0)
    dw1 = dh.T @ x
    through_branch = dh @ w1
    return y, through_identity, through_branch, dw1, dw2


def by_minires(x, w1, w2, dy):
    """Return the same y and gradients, computed by the engine."""
    x, w1, w2 = (minires.tensor(array, requires_grad=True) for array in (x, w1, w2))
    y = F.relu(x + F.linear(F.relu(F.linear(x, w1)), w2))
    y.backward(minires.tensor(dy))
    return y.detach().numpy(), x.grad.numpy(), w1.grad.numpy(), w2.grad.numpy()


def main(features=4, batch=3, seed=0):
    """Print both gradients and return the largest difference between them."""
    rng = np.random.default_rng(seed)
    x, dy = rng.standard_normal((2, batch, features))
    w1, w2 = rng.standard_normal((2, features, features))
    y, identity, branch, dw1, dw2 = by_hand(x, w1, w2, dy)
    results = by_minires(x, w1, w2, dy)
    largest = max(
        np.abs(mine - theirs).max() for mine, theirs in zip((y, identity + branch, dw1, dw2), results, strict=True)
    )
    print("gradient of x through the identity:\n", identity.round(3))
    print("gradient of x through the branch:\n", branch.round(3))
    print(f"their sum and the weights' gradients differ from minires by at most {largest:.1e}")
    return largest


if __name__ == "__main__":
    main()
