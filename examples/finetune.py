"""Fine-tuning with two learning rates: a small one for the trained body, a large one for the new head.

    python examples/finetune.py

A small ResNet learns to tell stripes of five directions apart, then gets a new head for five other directions. The body
keeps what it learnt about edges; only the head starts from nothing.
"""

import numpy as np

import minires
from minires import nn
from minires.data import DataLoader, TensorDataset
from minires.models import CifarResNet
from minires.nn import functional as F


def stripes(classes, count, seed, pixels=16, noise=0.5):
    """Batches of noisy stripes; class k of ten runs at k * 18 degrees, at a random phase."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, count)
    angles = labels[:, None, None] * np.pi / 10
    row, column = np.mgrid[:pixels, :pixels]
    waves = np.sin(column * np.cos(angles) + row * np.sin(angles) + rng.uniform(0, 2 * np.pi, (count, 1, 1)))
    images = waves[:, None] + noise * rng.standard_normal((count, 3, pixels, pixels))
    data = TensorDataset(minires.from_numpy(images.astype(np.float32)), minires.from_numpy(labels))
    return DataLoader(data, batch_size=32, shuffle=True, seed=seed)


def run(model, loader, optimizer, first_class):
    """Train for one epoch and return the mean loss of its last quarter."""
    model.train()
    losses = []
    for images, labels in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels - first_class)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses[-max(1, len(losses) // 4) :]))


def main(count=2000, epochs=2):
    """Return the losses after training and after fine-tuning."""
    minires.manual_seed(0)
    model = CifarResNet(8, num_classes=5)
    optimizer = minires.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(epochs):
        trained = run(model, stripes(range(5), count, epoch), optimizer, first_class=0)
    print(f"five directions, from scratch: loss {trained:.3f}")

    model.fc = nn.Linear(64, 5)
    body = [parameter for name, parameter in model.named_parameters() if not name.startswith("fc.")]
    optimizer = minires.optim.SGD(
        [{"params": body, "lr": 0.01}, {"params": model.fc.parameters(), "lr": 0.1}], momentum=0.9
    )
    for epoch in range(epochs):
        tuned = run(model, stripes(range(5, 10), count, epoch), optimizer, first_class=5)
    print(f"five others, body at lr 0.01 and new head at lr 0.1: loss {tuned:.3f}")
    return trained, tuned


if __name__ == "__main__":
    main()
