"""The networks of `nets` in PyTorch, and modules for its layers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.weights import nets

torch = pytest.importorskip("torch")
nn = torch.nn


def norm(channels: int, of: type = nn.BatchNorm1d) -> Any:
    return of(channels, eps=1e-5, momentum=0.2)


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.bn1 = nn.Linear(5, 8), norm(8)
        self.act1 = nn.ReLU(inplace=True)
        self.fc2, self.fc3 = nn.Linear(8, 8), nn.Linear(8, 3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        x = self.act1(self.bn1(self.fc1(x)))
        return self.fc3(self.drop(torch.relu(self.fc2(x))))


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = norm(6, nn.BatchNorm2d)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.pointwise = nn.Conv2d(6, 6, 1, bias=False)
        self.bn2 = norm(6, nn.BatchNorm2d)
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.pointwise(self.depthwise(x))))
        return self.fc(x.mean((2, 3)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn1 = norm(4, nn.BatchNorm2d)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = norm(4, nn.BatchNorm2d)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(y)))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.layer = nn.Sequential(Block(), Block())
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.layer(self.stem(x)).mean((2, 3)))


class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.bn1 = nn.Linear(5, 8), norm(8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.3, batch_first=True)
        self.ln, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x):
        x = self.fc1(x)
        x = self.bn1(x.flatten(0, 1)).reshape(x.shape)
        x = x + self.attention(x, x, x)[0]
        return self.fc2(self.ln(x)).mean(1)


PAIRS = {
    nets.Mlp: Mlp, nets.Cnn: Cnn, nets.ResNet: ResNet, nets.Attentive: Attentive
}  # fmt: skip


def randomize(model: Any) -> Any:
    """Give a module parameters and statistics that are not those of a new one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, array in model.state_dict().items():
            if name.endswith("num_batches_tracked"):
                array.fill_(7)
                continue
            drawn = 0.4 * torch.randn(array.shape, generator=generator)
            if name.endswith("running_var"):
                drawn = drawn.exp()
            elif name.endswith("running_mean"):
                drawn = drawn.abs() + 0.1
            elif array.ndim == 1:
                drawn = array + 0.3 * drawn
            array.copy_(drawn)
    return model
