"""The names of the layers of our ResNet in other libraries of Linen models."""

from __future__ import annotations

from collections.abc import Callable

from linsey.models import ResNet


def linen_names(model: ResNet) -> dict[str, dict[str, str]]:
    """Return the names of layers in flaxmodels and in jax-resnet.

    Args:
        model: our model.

    Returns:
        For each library, its path of each layer by our path.

    Example:
        >>> from linsey import models
        >>> names = linen_names(models.resnet18())
        >>> [names[library]["layer2_0/downsample_0"] for library in names]
        ['BasicBlock_2/Conv_2', 'layers_4/ResNetSkipConnection_0/ConvBlock_0/Conv_0']
    """
    depth = 3 if model.is_bottleneck else 2
    kind = "Bottleneck" if model.is_bottleneck else "BasicBlock"
    of_flaxmodels = {"conv1": "Conv_0", "bn1": "BatchNorm_0", "fc": "Dense_0"}
    count = sum(model.stage_sizes)
    of_jax_resnet = {
        "conv1": "layers_0/ConvBlock_0/Conv_0",
        "bn1": "layers_0/ConvBlock_0/BatchNorm_0",
        "fc": f"layers_{count + 3}",
    }
    blocks = [
        f"layer{stage + 1}_{index}"
        for stage, size in enumerate(model.stage_sizes)
        for index in range(size)
    ]
    for number, block in enumerate(blocks):
        inside, skip = f"{kind}_{number}", f"layers_{number + 2}"
        for index in range(depth):
            for ours, theirs in (("conv", "Conv"), ("bn", "BatchNorm")):
                path = f"{block}/{ours}{index + 1}"
                of_flaxmodels[path] = f"{inside}/{theirs}_{index}"
                of_jax_resnet[path] = f"{skip}/ConvBlock_{index}/{theirs}_0"
        for index, theirs in enumerate(("Conv", "BatchNorm")):
            path = f"{block}/downsample_{index}"
            of_flaxmodels[path] = f"{inside}/{theirs}_{depth}"
            of_jax_resnet[path] = (
                f"{skip}/ResNetSkipConnection_0/ConvBlock_0/{theirs}_0"
            )
    return {"flaxmodels": of_flaxmodels, "jax-resnet": of_jax_resnet}


def linen_tables(module: object) -> list[Callable[[str], str]]:
    """Return, for each library, a function from our path of an array to the library's.

    The list is empty unless the module is a `ResNet`.
    """
    if not isinstance(module, ResNet):
        return []

    def table(names: dict[str, str]) -> Callable[[str], str]:
        def name_of(path: str) -> str:
            collection, _, rest = path.partition("/")
            layer, _, leaf = rest.rpartition("/")
            return f"{collection}/{names.get(layer, layer)}/{leaf}"

        return name_of

    return [table(names) for names in linen_names(module).values()]
