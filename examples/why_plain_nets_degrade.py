"""Why plain nets degrade: the same blocks, more of them, with and without skips, trained alike.

    python examples/why_plain_nets_degrade.py

A deeper net can represent whatever a shallower one can: let its extra layers be the identity. So its *training* loss
should not end higher. Without skips it does (He et al. 2015, "Deep Residual Learning", figure 1), and the reason is not
that gradients vanish: batch norm keeps their size. They become useless instead. The script shows both sides:

1. four small nets, plain and residual, shallow and deep, learn to tell ten shapes apart from the same images in the
   same order; look at the training loss, not at the test error: this is no overfitting. 256 images, seen twenty
   times, can be learnt by heart, and three of the nets do so: all but the deep plain one;
2. before training, how far one must move from an image until the autocorrelation of the gradient has fallen to one
   half (Balduzzi et al. 2017, "The Shattered Gradients Problem"). A step along the gradient is good advice only as far
   as the gradient stays the same.
"""

import minires
from minires.data import DataLoader, Shapes, TensorDataset, dataset_info
from minires.nn import functional as F
from minires.study import contestant, gradient_autocorrelation, train_alike
from minires.training import Recipe


def shapes(count):
    """Draw images of shapes, averaged down to 16 x 16 pixels so that the script is quick."""
    data = Shapes(transform=dataset_info("shapes").transform(train=False), size=count)
    images, labels = next(iter(DataLoader(data, batch_size=count)))
    return TensorDataset(F.avg_pool2d(images, 2), labels)


def main(depths=(8, 32), count=256, steps=160):
    """Print and return, by net, the training loss at the end and the autocorrelation length of the gradient before."""
    data = shapes(count)
    recipe = Recipe("example", steps=steps, batch_size=32, learning_rate=0.05)
    first, second = data[0][0], data[1][0]
    results = {}
    print("net           training loss   the gradient's autocorrelation halves within")
    for kind in ("plain", "residual"):
        for depth in depths:
            name = f"{kind}-{depth}"
            minires.manual_seed(0)
            found = gradient_autocorrelation(contestant(name), first, second, points=64)
            length = max(found.length, found.spacing)  # what happens between two points cannot be seen
            _, curve = train_alike(lambda name=name: contestant(name), data, None, recipe)
            results[name] = curve.final_train_loss, length
            print(f"{name:12s}  {curve.final_train_loss:13.3f}   {length:.1%} of the way to another image")
    return results


if __name__ == "__main__":
    main()
