"""Fine-tuning with two learning rates: a small one for the trained body, a large one for the new head.

    python examples/finetune.py

A small ResNet learns five of the ten classes of the built-in shapes, then gets a new head for the other five. The body
keeps what it learnt about edges and colours; only the head starts from nothing.
"""

import numpy as np

import minires
from minires import nn
from minires.data import DataLoader, Shapes, Subset
from minires.data.transforms import Compose, Normalize, ToTensor
from minires.models import CifarResNet
from minires.nn import functional as F


def loader_of(classes, count, seed):
    """Batches of the shapes of the given classes."""
    to_tensor = Compose([ToTensor(), Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))])
    shapes = Shapes(train=True, size=count, transform=to_tensor)
    chosen = np.flatnonzero(np.isin(shapes.targets, classes))
    return DataLoader(Subset(shapes, chosen), batch_size=32, shuffle=True, seed=seed)


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
        trained = run(model, loader_of(range(5), count, epoch), optimizer, first_class=0)
    print(f"classes 0 to 4, from scratch: loss {trained:.3f}")

    model.fc = nn.Linear(64, 5)
    body = [parameter for name, parameter in model.named_parameters() if not name.startswith("fc.")]
    optimizer = minires.optim.SGD(
        [{"params": body, "lr": 0.01}, {"params": model.fc.parameters(), "lr": 0.1}], momentum=0.9
    )
    for epoch in range(epochs):
        tuned = run(model, loader_of(range(5, 10), count, epoch), optimizer, first_class=5)
    print(f"classes 5 to 9, body at lr 0.01 and new head at lr 0.1: loss {tuned:.3f}")
    return trained, tuned


if __name__ == "__main__":
    main()
