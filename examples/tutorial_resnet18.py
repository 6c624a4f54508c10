"""A ResNet-18 and its training loop in PyTorch's own words: only the import lines differ.

    python examples/tutorial_resnet18.py

With `import torch` and `from torch...` in place of the four lines below, the same script runs on PyTorch (the tests do
just that). The blocks here are written the long way, with separate ReLU and `+=`; minires.models.resnet18 is the fused
one.

It learns its 256 images by heart in eight epochs. After one or two, its accuracy in evaluation mode is that of
guessing: the running averages of batch norm, which count there, still hold much of the values that they began with.
"""

import minires as torch
import minires.optim as optim
from minires import nn
from minires.data import DataLoader, TensorDataset


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x):
        """Add the shortcut to the branch."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return self.relu(out)


class ResNet18(nn.Module):
    """The 3x3-stem variant for small images."""

    def __init__(self, num_classes=10, width=64):
        super().__init__()
        self.in_channels = width
        self.conv1 = nn.Conv2d(3, width, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = self._make_layer(width, 2, stride=1)
        self.layer2 = self._make_layer(2 * width, 2, stride=2)
        self.layer3 = self._make_layer(4 * width, 2, stride=2)
        self.layer4 = self._make_layer(8 * width, 2, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * width, num_classes)

        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def _make_layer(self, out_channels, blocks, stride):
        layers = []
        for s in [stride] + [1] * (blocks - 1):
            layers.append(BasicBlock(self.in_channels, out_channels, s))
            self.in_channels = out_channels
        return nn.Sequential(*layers)

    def forward(self, x):
        """Images to logits."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)
        x = self.avgpool(x)
        x = torch.flatten(x, 1)
        return self.fc(x)


def main(epochs=8, images=256, width=16):
    """Train on random images whose label is their brightest colour, and return the loss of each step."""
    torch.manual_seed(0)
    device = "cpu"
    x = torch.randn(images, 3, 16, 16)
    labels = x.mean(dim=(2, 3)).argmax(dim=1)
    loader = DataLoader(TensorDataset(x, labels), batch_size=32, shuffle=True)

    model = ResNet18(num_classes=3, width=width).to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)

    losses = []
    for epoch in range(epochs):
        model.train()
        correct = 0
        for inputs, targets in loader:
            inputs, targets = inputs.to(device), targets.to(device)
            optimizer.zero_grad()
            outputs = model(inputs)
            loss = criterion(outputs, targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            correct += (outputs.argmax(dim=1) == targets).sum().item()
        scheduler.step()
        print(f"epoch {epoch + 1}: loss {losses[-1]:.3f}, accuracy {correct / images:.3f}")

    model.eval()
    with torch.no_grad():
        accuracy = (model(x).argmax(dim=1) == labels).float().mean().item()
    print(f"accuracy in evaluation mode: {accuracy:.3f}, by guessing {1 / 3:.3f}")
    return losses


if __name__ == "__main__":
    main()
