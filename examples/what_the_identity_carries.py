"""What the identity path carries: the gradient of a residual net, taken apart.

    python examples/what_the_identity_carries.py

A residual block computes y = x + F(x). Backward, dL/dx = dL/dy + F'(x)^T dL/dy: the first part came through the
identity, untouched, the second through the branch (He et al. 2016, "Identity Mappings in Deep Residual Networks",
equation 5). Three things to see, in any net made of minires modules, here in one with identity shortcuts throughout:

1. at each block, how large the two parts are and at which angle they stand;
2. from the loss to the input there are 2^n paths, one for each choice of identity or branch in n blocks. How much
   gradient comes over those that take k branches (Veit et al. 2016)?
3. the path that takes the identity in every block is one of these 2^n, and its gradient does not depend on the depth:
   no product of n matrices stands before it. That is what skips are for.
"""

import minires
from minires import nn
from minires.nn import functional as F
from minires.study import path_gradients, skip_decomposition


class Block(nn.Module):
    """y = x + W2 relu(W1 x), with the identity kept clear: no activation after the sum."""

    def __init__(self, features):
        super().__init__()
        self.first = nn.Linear(features, features, bias=False)
        self.second = nn.Linear(features, features, bias=False)

    def forward(self, x):
        """(N, features) -> (N, features)."""
        return x + self.second(F.relu(self.first(x)))


def build(blocks, features=16, classes=4):
    """Return a chain of blocks with a linear classifier."""
    minires.manual_seed(0)
    return nn.Sequential(*(Block(features) for _ in range(blocks)), nn.Linear(features, classes))


def main(blocks=8):
    """Print both decompositions; return that by blocks and that by paths."""
    net = build(blocks)
    minires.manual_seed(1)
    x, labels = minires.randn(32, 16), minires.randint(0, 4, (32,))

    split = skip_decomposition(net, x, labels)
    print("block   through the identity   through the branch   angle")
    for block in split.blocks:
        print(f"{block.block:5s}   {block.shortcut_norm:20.4f}   {block.branch_norm:18.4f}   {block.angle:5.0f}")

    paths = path_gradients(net, x, labels)
    print(f"\nbranches taken   paths   gradient of one   share of all {2**blocks} paths")
    for length in paths.lengths:
        print(f"{length.length:14d}   {length.paths:5d}   {length.mean_norm:15.2e}   {length.share:6.1%}")
    print(f"\nHalf of the gradient comes over paths of {paths.median_length} or fewer of the {blocks} branches.")
    return split, paths


if __name__ == "__main__":
    main()
