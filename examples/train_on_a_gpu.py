"""Training on a GPU, where there is one: what to move, and what to leave alone.

    python examples/train_on_a_gpu.py

A Tensor lies on one device, and operations need all their inputs on the same. So three things go to the GPU: the model
once, before the optimizer is made; each batch as it comes; and nothing else. Two habits keep the GPU busy:

- read numbers rarely: `loss.item()` makes the CPU wait until the GPU has computed it. Here the losses of an epoch are
  added up on the device and read once;
- let the loader's workers prepare batches while the GPU computes (`num_workers`).

Without a GPU, or without CuPy, the script says why and trains on the CPU: the code is the same.
"""

import math

import minires
from minires.data import DataLoader, Shapes, dataset_info
from minires.models import CifarResNet
from minires.nn import functional as F


def choose_device():
    """Return "cuda" if it can be used, else "cpu", with the reason."""
    if minires.cuda.is_available():
        return "cuda"
    try:
        minires.zeros(1, device="cuda")
    except RuntimeError as error:
        print(f"no GPU: {error}")
    return "cpu"


def main(count=2000, epochs=8, depth=8):
    """Train a small ResNet on shapes and return the mean loss of each epoch."""
    device = choose_device()
    minires.manual_seed(0)
    data = Shapes(transform=dataset_info("shapes").transform(train=True), size=count)
    loader = DataLoader(data, batch_size=64, shuffle=True, num_workers=1, drop_last=True)

    model = CifarResNet(depth).to(device)
    optimizer = minires.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    means = []
    for epoch in range(epochs):
        total = minires.zeros(1, device=device)
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            total = total + loss.detach()  # stays on the device
        means.append(total.item() / len(loader))  # the one time this epoch that the CPU waits
        print(f"epoch {epoch + 1} on {device}: mean loss {means[-1]:.3f}, by guessing {math.log(10):.3f}")
    return means


if __name__ == "__main__":
    main()
