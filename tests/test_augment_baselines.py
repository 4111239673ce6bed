"""The fixed baselines: what they do to an image, and that every image gets its own draw."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms import v2

from hardfast.augment import (
    BASELINES,
    AugMix,
    AutoAugment,
    CropFlip,
    RandAugment,
    TrivialAugmentWide,
    make_baseline,
)

POLICIES = {
    "rand_augment": v2.RandAugment,
    "auto_augment": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
    "trivial_augment": v2.TrivialAugmentWide,
    "augmix": v2.AugMix,
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images_of(count: int, channels: int = 3, size=(16, 20)) -> torch.Tensor:
    return torch.rand(count, channels, *size, generator=seeded(count))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", BASELINES)
def test_baselines_keep_to_the_interface(name, channels):
    augmentor = make_baseline(name)
    images = images_of(6, channels)
    state = torch.get_rng_state()
    first, again, other = (augmentor(images, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, again)
    assert name == "none" or not torch.equal(first, other)
    assert first.shape == images.shape
    assert first.dtype == images.dtype
    assert 0 <= first.min() <= first.max() <= 1
    noise = augmentor.noise(images, seeded(1))
    assert all(len(value) == 6 for value in noise.values())
    assert torch.equal(augmentor.transform(images, noise), first)
    assert list(augmentor.parameters()) == []
    assert augmentor.state_dict() == augmentor.scalars() == augmentor.arrays() == {}
    assert set(augmentor.describe((16, 20))) <= {"share_percent"}
    assert augmentor(images[:0]).shape == (0, channels, 16, 20)
    assert augmentor.frozen()(images.double(), seeded(1)).dtype == torch.float64


@pytest.mark.parametrize("name", POLICIES)
def test_torchvisions_are_torchvisions_with_a_seed_an_image(name):
    augmentor, images = make_baseline(name, flip=False), images_of(8)
    noise = augmentor.noise(images, seeded(4))
    result = augmentor.transform(images, noise)
    for k, seed in enumerate(noise["seed"].tolist()):
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            expected = POLICIES[name]()((255 * images[k]).round().to(torch.uint8))
        torch.testing.assert_close(result[k], expected / 255)
    assert torch.equal(
        augmentor.transform(images[3:4], {key: value[3:4] for key, value in noise.items()})[0], result[3]
    )


@pytest.mark.parametrize("name", POLICIES)
def test_every_image_has_its_own_draw(name):
    image = images_of(1)
    results = make_baseline(name, flip=False)(image.expand(24, -1, -1, -1), seeded(3))
    assert len({result.numpy().tobytes() for result in results}) > 10


def test_images_are_rounded_to_levels_not_down():
    levels = torch.arange(256).view(1, 1, 16, 16)
    images = levels / 255
    unchanged = RandAugment(operations=0, flip=False)
    assert torch.equal(unchanged(images), images)
    torch.testing.assert_close(unchanged(images + 0.4 / 255), images.clamp(0, 1))
    torch.testing.assert_close(unchanged(images * 3 - 1), (images * 3 - 1).clamp(0, 1), atol=0.5 / 255, rtol=0)


@pytest.mark.parametrize("name", ["crop_flip", *POLICIES])
def test_flip_is_for_about_every_second_image_and_can_be_left_out(name):
    ramp = torch.linspace(0, 1, 8).expand(200, 1, 8, 8)
    flipped = {flip: make_baseline(name, flip=flip).noise(ramp, seeded(1))["flip"] < 0.5 for flip in (False, True)}
    assert 80 < flipped[True].sum() < 120
    if name != "crop_flip":
        augmentor = RandAugment(operations=0)
        turned = augmentor(ramp, seeded(1))[:, 0, 0, 0] > 0.5
        assert torch.equal(turned, flipped[True])
        assert torch.equal(RandAugment(operations=0, flip=False)(ramp[:5]), (255 * ramp[:5]).round() / 255)


@pytest.mark.parametrize("size", [(28, 28), (9, 32), (3, 224), (1, 1)])
@pytest.mark.parametrize("flip", [False, True])
def test_crop_flip_is_a_crop_of_the_padded_image(size, flip):
    augmentor = CropFlip(flip=flip)
    images = images_of(60, 2, size)
    images.requires_grad_()
    noise = augmentor.noise(images, seeded(1))
    result = augmentor.transform(images, noise)
    reach = [(length + 4) // 8 for length in size]
    padded = F.pad(images, (reach[1], reach[1], reach[0], reach[0]))
    tops, lefts = ((noise["crop"][:, 1 - axis] * (2 * reach[axis] + 1)).floor().long().tolist() for axis in (0, 1))
    mirrored = (noise["flip"] < 0.5).tolist()
    expected = []
    for k in range(60):
        left = lefts[k]
        crop = padded[k, :, tops[k] : tops[k] + size[0], left : left + size[1]]
        if flip and mirrored[k]:
            # The image is mirrored after the crop; the shift is read before it.
            crop = crop.flip(-1)
        expected.append(crop)
    assert torch.equal(result, torch.stack(expected))
    for axis in (0, 1):
        assert len(set((tops, lefts)[axis])) > reach[axis]
    (gradient,) = torch.autograd.grad(result.sum(), images)
    assert gradient.unique().tolist() in ([0, 1], [1])


def test_crop_flip_reaches_an_eighth_and_no_further():
    augmentor, images = CropFlip(flip=False), torch.zeros(2, 1, 32, 224)
    for number in (0.0, 1 - 2**-24):
        noise = {"crop": torch.full((2, 2), number), "flip": torch.ones(2)}
        theta = augmentor.variables(images, noise)["theta"]
        sign = -1 if number == 0 else 1
        torch.testing.assert_close(theta[0, :, 2], torch.tensor([sign * 28 * 2 / 224, sign * 4 * 2 / 32]))


def test_options_reach_the_transforms():
    assert make_baseline("auto_augment", policy="imagenet").policy.policy is v2.AutoAugmentPolicy.IMAGENET
    assert AutoAugment().policy.policy is v2.AutoAugmentPolicy.CIFAR10
    assert (RandAugment(operations=3, magnitude=5).policy.num_ops, RandAugment(magnitude=5).policy.magnitude) == (3, 5)
    assert AugMix(severity=7).policy.severity == 7
    assert "flip=False" in repr(TrivialAugmentWide(flip=False))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: make_baseline("cutout"), r"name must be one of \['none', 'crop_flip'"),
        (lambda: make_baseline("auto_augment", policy="svhn"), "policy must be one of"),
        (lambda: AutoAugment(policy="svhn"), "policy must be one of"),
        (lambda: RandAugment(magnitude=31), "magnitude must be at most 30, got 31"),
        (lambda: RandAugment(operations=-1), "operations"),
        (lambda: AugMix(severity=11), "severity must be at most 10, got 11"),
        (lambda: RandAugment()(torch.rand(2, 4, 8, 8)), r"\[B, 1 or 3, H, W\], got \[2, 4, 8, 8\]"),
    ],
)
def test_bad_arguments_raise(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_bytes_are_refused():
    with pytest.raises(TypeError, match="images must be float32"):
        RandAugment()(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
