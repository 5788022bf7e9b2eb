"""The `resnet` of the command, as one would write it in PyTorch."""

from __future__ import annotations

import importlib
from typing import Any


def resnet(width: int, depth: int, classes: int) -> Any:
    """Return a stem and stages of two residual blocks, averaged over the image."""
    torch = importlib.import_module("torch")
    nn = torch.nn

    def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> Any:
        layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(outputs))

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.first = convolution(inputs, outputs, 3, stride)
            self.second = convolution(outputs, outputs, 3)
            is_same = inputs == outputs and stride == 1
            self.skip = (
                nn.Identity() if is_same else convolution(inputs, outputs, 1, stride)
            )

        def forward(self, x: Any) -> Any:
            y = self.second(torch.relu(self.first(x)))
            return torch.relu(self.skip(x) + y)

    layers = [convolution(3, width, 3), nn.ReLU()]
    inputs = width
    for stage in range(depth):
        outputs = width * 2**stage
        for block in range(2):
            layers.append(Block(inputs, outputs, 2 if stage and not block else 1))
            inputs = outputs
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2)
    return nn.Sequential(*layers, *head, nn.Linear(inputs, classes))
