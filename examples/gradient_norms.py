"""Hooks that print how large the gradient is at each block, in a residual net and in the same net without skips.

    python examples/gradient_norms.py

A forward hook on each block hangs a hook on its output Tensor; the backward pass calls it with the gradient. Both nets
start with the same weights.
"""

import numpy as np

import minires
from minires.models import BasicBlock, CifarResNet
from minires.nn import functional as F


def gradient_norms(model, images, labels):
    """Return the norm of the loss gradient at the output of each block, first block first."""
    norms = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, BasicBlock):

            def watch(module, inputs, output, name=name):
                def record(gradient):
                    norms[name] = float(np.linalg.norm(gradient.numpy()))

                output.register_hook(record)

            handles.append(module.register_forward_hook(watch))
    F.cross_entropy(model(images), labels).backward()
    for handle in handles:
        handle.remove()
    return {name: norms[name] for name, _ in model.named_modules() if name in norms}


def main(depth=56, batch=8):
    """Print both nets' norms side by side and return them."""
    minires.manual_seed(0)
    images, labels = minires.randn(batch, 3, 32, 32), minires.randint(0, 10, (batch,))
    residual = CifarResNet(depth)
    plain = CifarResNet(depth, residual=False)
    shared = plain.state_dict()
    plain.load_state_dict({name: value for name, value in residual.state_dict().items() if name in shared})
    with_skips, without = gradient_norms(residual, images, labels), gradient_norms(plain, images, labels)
    print("block       residual   plain")
    for name in with_skips:
        print(f"{name:10s}  {with_skips[name]:.2e}   {without[name]:.2e}")
    return with_skips, without


if __name__ == "__main__":
    main()
