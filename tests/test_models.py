"""Models by name, and the shift robustness of the digits teacher."""

import pytest
import torch

from hardfast.data import load_digits, shift_images
from hardfast.distill import Trainer, TrainerConfig, accuracy
from hardfast.models import CNN, MLP, MODELS, ShiftRobustCNN, create_model

IMAGES = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_maps_digits_to_ten_logits_and_learns(name):
    images = torch.rand(3, 3, 32, 32) if name.endswith("_cifar") else IMAGES
    model = create_model(name)
    logits = model(images)
    assert logits.shape == (3, 10)
    logits.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(ValueError, match=r"\['cnn', 'mlp', .*'vit_digits'\]; got 'vgg'"):
        create_model("vgg")
    with pytest.raises(TypeError, match="depth"):
        create_model("mlp", depth=3)


@pytest.mark.parametrize("name", ["cnn", "mlp", "resnet18", "shift_robust_cnn", "vit_digits"])
def test_classes_and_channels_are_free(name):
    model = create_model(name, in_channels=3, num_classes=7)
    assert model(IMAGES.expand(3, 3, 28, 28)).shape == (3, 7)


def test_the_papers_networks_have_the_papers_sizes():
    mlp = [tuple(p.shape) for p in MLP().parameters() if p.dim() == 2]
    assert mlp == [(512, 784), (128, 512), (32, 128), (10, 32)]
    cnn = [tuple(p.shape) for p in CNN().parameters() if p.dim() == 4]
    assert cnn == [(128, 1, 3, 3), (64, 128, 3, 3), (64, 64, 3, 3)]
    # Pools of 1, 2 and 3 leave 28 // 2 // 3 positions a side before the global average.
    assert CNN().features(IMAGES).shape == (3, 64, 4, 4)
    vit = create_model("vit_digits")
    assert vit.patch_embed.num_patches == 16
    assert (vit.embed_dim, len(vit.blocks), vit.blocks[0].attn.num_heads) == (64, 6, 8)
    assert vit.blocks[0].mlp.fc1.out_features == 128


def test_the_robust_cnn_reads_digits_at_the_edge_that_it_saw_in_the_middle():
    """A tenth of the recipe's training is enough to tell; the MLP is the contrast."""
    splits = load_digits(0)
    edges = [(6, 6), (-6, 6), (6, -6), (-6, -6), (0, 6), (6, 0), (0, -6), (-6, 0), (3, -5)]
    shifted = {}
    for name in ("shift_robust_cnn", "mlp"):
        torch.manual_seed(0)
        model = create_model(name)
        config = TrainerConfig(steps=80, batch_size=64, learning_rate=2e-3, validate_every=80)
        summary = Trainer(model, splits.train, splits.validation, config).fit()
        assert summary.validation_accuracy > 0.8
        images, labels = splits.validation.images, splits.validation.labels
        shifted[name] = sum(accuracy(model, shift_images(images, *shift), labels) for shift in edges) / len(edges)
    assert shifted["shift_robust_cnn"] > 0.75
    assert shifted["mlp"] < 0.4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP((784,)), "widths must be at least inputs and classes"),
        (lambda: MLP((784, 0, 10)), "widths"),
        (lambda: CNN(widths=(8, 8), pools=(2,)), r"as many, at least one; got \(8, 8\) and \(2,\)"),
        (lambda: ShiftRobustCNN(widths=(8,)), "widths must be at least two"),
    ],
)
def test_bad_sizes_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()
