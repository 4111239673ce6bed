"""Classifiers by name: the papers' small ones, those of CIFAR, and all of timm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from hardfast.models.normalised import Normalised, create_timm_model, in_timm
from hardfast.models.small import CNN, MLP, ShiftRobustCNN

_CIFAR_MEAN, _CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def _mlp(in_channels: int = 1, num_classes: int = 10, image_size: int = 28) -> nn.Module:
    return MLP((in_channels * image_size**2, 512, 128, 32, num_classes))


def _small_mlp(in_channels: int = 1, num_classes: int = 10, image_size: int = 28) -> nn.Module:
    return MLP((in_channels * image_size**2, 256, 128, 32, num_classes))


def _resnet18(in_channels: int = 1, num_classes: int = 10) -> nn.Module:
    """timm's ResNet18, untrained."""
    import timm

    return timm.create_model("resnet18", pretrained=False, in_chans=in_channels, num_classes=num_classes)


def _vit(in_channels: int, num_classes: int, image_size: int, **size: Any) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(image_size, in_chans=in_channels, num_classes=num_classes, **size)


def _vit_digits(in_channels: int = 1, num_classes: int = 10, image_size: int = 28) -> nn.Module:
    """timm's vision transformer in the size of HARD's shift experiment."""
    size = {"patch_size": 7, "embed_dim": 64, "depth": 6, "num_heads": 8, "mlp_ratio": 2}
    return _vit(in_channels, num_classes, image_size, **size)


def _vit_cifar(in_channels: int = 3, num_classes: int = 10, image_size: int = 32) -> nn.Module:
    """timm's vision transformer in the size that is usual on CIFAR-10."""
    size = {"patch_size": 4, "embed_dim": 512, "depth": 6, "num_heads": 8, "mlp_ratio": 1}
    return _cifar(_vit(in_channels, num_classes, image_size, **size))


def _resnet_cifar(name: str, in_channels: int, num_classes: int) -> nn.Module:
    """A ResNet of timm that begins with a 3x3 convolution and no pooling, as is usual for images of 32x32 pixels."""
    import timm

    model: Any = timm.create_model(name, pretrained=False, num_classes=num_classes)
    model.conv1 = nn.Conv2d(in_channels, model.conv1.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return _cifar(model)


def _resnet18_cifar(in_channels: int = 3, num_classes: int = 10) -> nn.Module:
    return _resnet_cifar("resnet18", in_channels, num_classes)


def _resnet50_cifar(in_channels: int = 3, num_classes: int = 10) -> nn.Module:
    return _resnet_cifar("resnet50", in_channels, num_classes)


def _cifar(model: nn.Module) -> nn.Module:
    return Normalised(model, _CIFAR_MEAN, _CIFAR_STD)


#: Name -> function that makes the model; all map images ``[B, C, H, W]`` in [0, 1] to logits ``[B, num_classes]``.
MODELS: dict[str, Callable[..., nn.Module]] = {
    "cnn": CNN,
    "mlp": _mlp,
    "resnet18": _resnet18,
    "resnet18_cifar": _resnet18_cifar,
    "resnet50_cifar": _resnet50_cifar,
    "shift_robust_cnn": ShiftRobustCNN,
    "small_mlp": _small_mlp,
    "vit_cifar": _vit_cifar,
    "vit_digits": _vit_digits,
}
#: Those that are made for images of one size.
_SIZED = frozenset({"mlp", "small_mlp", "vit_cifar", "vit_digits"})


def create_model(name: str, **kwargs: Any) -> nn.Module:
    """Makes a model, with weights from PyTorch's global random state.

    Args:
        name: a key of :data:`MODELS`.
        kwargs: arguments of that model.

    Raises:
        ValueError: the name is unknown; the message lists the valid ones.
        TypeError: the model has no such argument.
    """
    if name not in MODELS:
        raise ValueError(f"name must be one of {sorted(MODELS)}; got {name!r}")
    return MODELS[name](**kwargs)


def check_network(argument: str, name: str) -> None:
    """Raises ``ValueError`` for names that :func:`create_network` does not know."""
    if name not in MODELS and not in_timm(name):
        raise ValueError(
            f"{argument} must be one of {sorted(MODELS)}, or a model of timm such as 'resnet50.a1_in1k'; got {name!r}"
        )


def check_timm_network(argument: str, name: str) -> None:
    """Raises ``ValueError`` for names that :func:`create_timm_network` does not know."""
    if not in_timm(name):
        raise ValueError(f"{argument} must be a model of timm such as 'resnet50.a1_in1k'; got {name!r}")


def create_network(
    name: str,
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    weights: str | Path | None = None,
    new_head: bool = False,
) -> nn.Module:
    """Makes a classifier of images in [0, 1], of this library or of timm.

    Args:
        name: a key of :data:`MODELS`, or a model of timm.
        image_shape: ``(C, H, W)``, H = W.
        classes: number of logits.
        weights: None for random ones from PyTorch's global random state; a file of weights (``.safetensors``), such as
            those of a run; of a model of timm also what :func:`create_timm_network` takes.
        new_head: as there.

    Raises:
        ValueError: the name is unknown, or the weights are of another network.
        FileNotFoundError: the weights are not on this computer; the message says how to get them.
    """
    check_network("name", name)
    if name not in MODELS:
        return create_timm_network(name, image_shape, classes, weights=weights, new_head=new_head)
    if weights == "hub":
        raise ValueError(
            f"weights of {name!r} must be a file: none are published; give a model of timm by a name that says which "
            "weights it has, such as 'resnet50.a1_in1k'; got 'hub'"
        )
    options = {"in_channels": image_shape[0], "num_classes": classes}
    network = create_model(name, **options, **({"image_size": image_shape[1]} if name in _SIZED else {}))
    return network if weights is None else load_weights(network, Path(weights))


def create_timm_network(
    name: str,
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    weights: str | Path | None = None,
    new_head: bool = False,
) -> nn.Module:
    """Makes a classifier of timm for images in [0, 1], also where this library has one of the same name.

    Args:
        name: of timm.
        image_shape: ``(C, H, W)``, H = W.
        classes: number of logits.
        weights: None for random ones from PyTorch's global random state; ``"hub"`` for timm's published ones from the
            hub's cache; a file of such (``.safetensors``, ``.pth``), or of those of a run (``.safetensors``).
        new_head: whether published weights for another number of classes are taken, and the last layer stays random.

    Raises:
        ValueError: the name is unknown, or the weights are of another network.
        FileNotFoundError: the weights are not on this computer; the message says how to get them.
    """
    options: dict[str, Any] = {"image_size": image_shape[1], "in_channels": image_shape[0]}
    if weights is not None and _of_a_run(Path(weights)):
        return load_weights(create_timm_model(name, classes, **options), Path(weights))
    return create_timm_model(name, classes, weights=weights, new_head=new_head, **options)


def load_weights(network: nn.Module, path: Path) -> nn.Module:
    """Loads a network's weights from a safetensors file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or of another network; the message names it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(f"weights file {path} is missing; give one that a run wrote, such as last.safetensors")
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} must hold the weights of the network that is asked for, got: {error}") from error
    return network


def _of_a_run(path: Path) -> bool:
    """Whether a file has the names of a network with its normalisation, and not those of timm."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(path, "pt") as file:
            return all(key.startswith("model.") for key in file.keys())  # noqa: SIM118 - it is no mapping
    except SafetensorError:
        return False
