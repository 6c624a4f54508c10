"""Learning H(x) = 0.5 x with a plain layer and with a residual one, from the same small weights.

    python examples/half_of_the_input.py

The plain layer must find the map W = 0.5 I itself. The residual layer computes x + W x and has to find only what is
missing, W = -0.5 I: "if an identity mapping were optimal, it would be easier to push the residual to zero" is the
paper's hypothesis (He et al. 2015, section 3.1). At the start the plain layer outputs almost nothing, the residual one
almost the input; both are equally far from the target, and with depth the difference grows: a stack of plain layers
shrinks its signal with each layer, a stack of residual ones starts as the identity.
"""

import minires
from minires import nn
from minires.nn import functional as F


class Stack(nn.Module):
    """``depth`` linear layers, each with a skip connection around it or without."""

    def __init__(self, features, depth, residual):
        super().__init__()
        self.residual = residual
        self.layers = nn.ModuleList(nn.Linear(features, features, bias=False) for _ in range(depth))
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=0.02)

    def forward(self, x):
        """(batch, features) -> (batch, features)."""
        for layer in self.layers:
            x = x + layer(x) if self.residual else layer(x)
        return x


def train(residual, features=8, depth=4, steps=300, lr=0.05, seed=0):
    """Return the loss after each step."""
    minires.manual_seed(seed)
    model = Stack(features, depth, residual)
    optimizer = minires.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        x = minires.randn(64, features)
        loss = F.mse_loss(model(x), 0.5 * x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main(steps=300):
    """Print both losses along the way and return the last ones, plain and residual."""
    plain, residual = train(False, steps=steps), train(True, steps=steps)
    print("step   plain      residual")
    for step in sorted({0, steps // 10, steps // 3, steps - 1}):
        print(f"{step + 1:4d}   {plain[step]:.2e}   {residual[step]:.2e}")
    return plain[-1], residual[-1]


if __name__ == "__main__":
    main()
