"""Architectures for which pretrained weights exist, as Linen modules.

Each is made by a function, such as `resnet18(num_classes=10)`. The module is called
with images (batch, height, width, channels) of any size and `train`. Layers and their
names are those of torchvision, with an underscore before an index:
`layer1.0.conv1.weight` is `params/layer1_0/conv1/kernel` here.
"""

from linsey.models.architecture import Architecture as Architecture
from linsey.models.batch_norm import BatchNormOptions as BatchNormOptions
from linsey.models.densenet import DenseNet as DenseNet
from linsey.models.densenet import densenet121 as densenet121
from linsey.models.densenet import densenet169 as densenet169
from linsey.models.efficientnet import EfficientNet as EfficientNet
from linsey.models.efficientnet import efficientnet_b0 as efficientnet_b0
from linsey.models.efficientnet import efficientnet_b1 as efficientnet_b1
from linsey.models.efficientnet import efficientnet_b2 as efficientnet_b2
from linsey.models.efficientnet import efficientnet_b3 as efficientnet_b3
from linsey.models.mobilenet_v3 import MobileNetV3 as MobileNetV3
from linsey.models.mobilenet_v3 import mobilenet_v3_large as mobilenet_v3_large
from linsey.models.mobilenet_v3 import mobilenet_v3_small as mobilenet_v3_small
from linsey.models.names import torch_name as torch_name
from linsey.models.registry import MODELS as MODELS
from linsey.models.registry import by_name as by_name
from linsey.models.resnet import ResNet as ResNet
from linsey.models.resnet import resnet18 as resnet18
from linsey.models.resnet import resnet34 as resnet34
from linsey.models.resnet import resnet50 as resnet50
from linsey.models.resnet import resnet101 as resnet101
from linsey.models.resnet import resnet152 as resnet152
from linsey.models.vit import VisionTransformer as VisionTransformer
from linsey.models.vit import vit_b_16 as vit_b_16
from linsey.models.vit import vit_s_16 as vit_s_16
