"""Training steps: what they compute, and what they leave alone."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hardfast.augment import AffineAugmentor, ColorAugmentor, ProjectiveAugmentor, SequentialAugmentor
from hardfast.distill import (
    AugmentorObjective,
    StudentObjective,
    augmentor_step,
    held_constant,
    student_step,
    supervised_step,
)
from hardfast.models import ShiftRobustCNN

T = 2.0


def small_network(seed: int) -> nn.Sequential:
    """Smooth, with batch norm and dropout, in training mode."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Softplus(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(16, 5),
    ).double()


@pytest.fixture
def setup():
    student, teacher = small_network(0), small_network(1)
    images = torch.rand(6, 1, 10, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        # Running statistics that differ from those of the batch, so that the mode makes a difference.
        for network in (student, teacher):
            network[1].running_mean.uniform_(-0.5, 0.5)
            network[1].running_var.uniform_(0.5, 2.0)
    return student, teacher, AffineAugmentor().double(), images


def snapshot(module: nn.Module) -> list[tuple]:
    """Everything about a module that a step could change."""
    tensors = [(name, value.clone()) for name, value in module.state_dict().items()]
    gradients = [(name, None if p.grad is None else p.grad.clone()) for name, p in module.named_parameters()]
    flags = [(name, m.training) for name, m in module.named_modules()]
    requires = [(name, p.requires_grad) for name, p in module.named_parameters()]
    return [tensors, gradients, flags, requires]


def assert_unchanged(before: list, module: nn.Module) -> None:
    for old, new in zip(before, snapshot(module), strict=True):
        for (name, a), (_, b) in zip(old, new, strict=True):
            same = torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a is b
            assert same, name


def leave_gradients(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)


def plain_disagreement(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    divergence = F.kl_div(
        F.log_softmax(student / T, 1), F.log_softmax(teacher / T, 1), log_target=True, reduction="batchmean"
    )
    return T**2 * divergence


@pytest.mark.parametrize("form", ["saturating", "non_saturating"])
def test_augmentor_gradient_against_plain_pytorch(setup, form):
    student, teacher, augmentor, images = setup
    plain_student, plain_teacher = (copy.deepcopy(network).eval() for network in (student, teacher))
    offset = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    log_scale = torch.full((6,), 0.1, dtype=torch.float64).log().requires_grad_()
    noise = torch.randn(6, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    theta = torch.eye(2, 3, dtype=torch.float64) + 0.1 * offset.view(2, 3) + log_scale.exp().view(2, 3) * noise
    grid = F.affine_grid(theta, [6, 1, 10, 10], align_corners=False)
    augmented = F.grid_sample(images, grid, align_corners=False)
    answer = plain_teacher(augmented)
    sought = plain_disagreement(plain_student(augmented), answer)
    held = plain_disagreement(answer, plain_teacher(images).detach())
    loss = 0.3 * held - 1.5 * ((sought + 1e-6).log() if form == "non_saturating" else sought)
    expected = torch.autograd.grad(loss, [offset, log_scale])

    optimizer = torch.optim.SGD(augmentor.parameters(), lr=0.5)
    objective = AugmentorObjective(T, 0.3, 1.5, form)
    generator = torch.Generator().manual_seed(4)
    # The parameters start from float32 values, which the copy above does not know: make them the same.
    with torch.no_grad():
        augmentor.log_scale.copy_(log_scale)
    terms = augmentor_step(augmentor, student, teacher, images, optimizer, objective, generator=generator)

    torch.testing.assert_close(terms.loss, loss.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(terms.disagreement, sought.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(terms.teacher_consistency, held.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(augmentor.mean_offset.grad, expected[0], rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(augmentor.log_scale.grad, expected[1], rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(augmentor.mean_offset.detach(), -0.5 * expected[0])
    assert expected[0].abs().min() > 0


def plain_homographies(moves: torch.Tensor, scale: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Of the projective family, from its description: eight Gaussian entries, of which two are bounded."""
    rest = torch.eye(3, dtype=torch.float64).flatten()[:8]
    units = torch.tensor([0.1] * 6 + [0.05] * 2, dtype=torch.float64)
    entries = rest + units * moves + scale * noise.flatten(1)[:, :8]
    p = entries[:, 6:]
    bounded = p / (1 + p.square().sum(1, keepdim=True) / 0.36).sqrt()
    return torch.cat([entries[:, :6], bounded, torch.ones_like(p[:, :1])], 1).view(-1, 3, 3)


def plain_view(images: torch.Tensor, homographies: torch.Tensor) -> torch.Tensor:
    side = images.shape[-1]
    middles = (2 * torch.arange(side, dtype=torch.float64) + 1) / side - 1
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    positions = torch.einsum("bij,hwj->bhwi", homographies, torch.stack([x, y, torch.ones_like(x)], -1))
    return F.grid_sample(images, positions[..., :2] / positions[..., 2:], align_corners=False)


def test_projective_gradient_against_plain_pytorch(setup):
    student, teacher, _, images = setup
    augmentor = ProjectiveAugmentor().double()
    with torch.no_grad():
        augmentor.mean_offset.normal_()
    plain_student, plain_teacher = (copy.deepcopy(network).eval() for network in (student, teacher))
    moves, log_scale = (value.detach().clone().requires_grad_() for value in augmentor.parameters())
    noise = torch.randn(6, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    augmented = plain_view(images, plain_homographies(moves, log_scale.exp(), noise))
    answer = plain_teacher(augmented)
    held = plain_disagreement(answer, plain_teacher(images).detach())
    loss = 0.3 * held - 1.5 * plain_disagreement(plain_student(augmented), answer)
    check_augmentor_gradients(setup, augmentor, loss, [moves, log_scale])


def test_gradient_of_a_sequence_against_plain_pytorch(setup):
    """A warp, then a change of brightness: gradients reach the warp through that as well."""
    student, teacher, _, images = setup
    augmentor = SequentialAugmentor(AffineAugmentor("translation"), ColorAugmentor(in_channels=1)).double()
    warp, color = augmentor.parts
    plain_student, plain_teacher = (copy.deepcopy(network).eval() for network in (student, teacher))
    noise = augmentor.noise(images, torch.Generator().manual_seed(4))
    theta = torch.eye(2, 3, dtype=torch.float64).expand(6, -1, -1).clone()
    scale = warp.log_scale.exp()
    theta[:, :, 2] = 0.1 * warp.mean_offset + scale * noise["affine.normal"][:, :, 2]
    moved = F.grid_sample(images, F.affine_grid(theta, [6, 1, 10, 10], align_corners=False), align_corners=False)
    gain, offset = (0.1 * color.mean_offset + color.log_scale.exp() * noise["color.normal"][:, 0]).T[
        ..., None, None, None
    ]
    augmented = (1 + gain) * moved + offset
    answer = plain_teacher(augmented)
    held = plain_disagreement(answer, plain_teacher(images).detach())
    loss = 0.3 * held - 1.5 * plain_disagreement(plain_student(augmented), answer)
    check_augmentor_gradients(setup, augmentor, loss, list(augmentor.parameters()))


def check_augmentor_gradients(setup, augmentor, loss, plain_parameters) -> None:
    """Takes an augmentor step, with the noise of seed 4, and compares it with a loss in plain PyTorch."""
    student, teacher, _, images = setup
    expected = torch.autograd.grad(loss, plain_parameters)
    optimizer = torch.optim.SGD(augmentor.parameters(), lr=0.5)
    objective = AugmentorObjective(T, 0.3, 1.5)
    generator = torch.Generator().manual_seed(4)
    terms = augmentor_step(augmentor, student, teacher, images, optimizer, objective, generator=generator)
    torch.testing.assert_close(terms.loss, loss.detach(), rtol=1e-10, atol=1e-12)
    for parameter, gradient in zip(augmentor.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-8, atol=1e-12)
        assert gradient.abs().min() > 0


def test_gradient_runs_through_each_network(setup):
    """With the student's weight at zero only the teacher's path is left, and the other way round."""
    student, teacher, augmentor, images = setup
    for objective in (AugmentorObjective(T, 1.0, 0.0), AugmentorObjective(T, 0.0, 1.0)):
        augmentor_step(augmentor, student, teacher, images, torch.optim.SGD(augmentor.parameters(), lr=0.0), objective)
        assert augmentor.log_scale.grad.abs().min() > 0


@pytest.mark.parametrize("given", [False, True])
def test_augmentor_step_changes_neither_network(setup, given):
    student, teacher, augmentor, images = setup
    leave_gradients(student)
    leave_gradients(teacher)
    student[0].weight.requires_grad_(False)
    teacher[5].eval()
    answers = copy.deepcopy(teacher).eval()(images).detach() if given else None
    before = [snapshot(student), snapshot(teacher)]
    scale = augmentor.log_scale.detach().clone()
    optimizer = torch.optim.Adam(augmentor.parameters(), lr=0.1)
    augmentor_step(augmentor, student, teacher, images, optimizer, AugmentorObjective(T), teacher_clean=answers)
    assert not torch.equal(scale, augmentor.log_scale)
    assert_unchanged(before[0], student)
    assert_unchanged(before[1], teacher)


def test_student_step_changes_the_student_only(setup):
    student, teacher, augmentor, images = setup
    leave_gradients(teacher)
    leave_gradients(augmentor)
    augmentor.train()
    before = [snapshot(teacher), snapshot(augmentor)]
    old = snapshot(student)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    student_step(student, teacher, images, optimizer, StudentObjective(T), augmentor=augmentor)
    assert_unchanged(before[0], teacher)
    assert_unchanged(before[1], augmentor)
    new = dict(snapshot(student)[0])
    assert all(not torch.equal(value, new[name]) for name, value in old[0])
    assert student.training


def test_an_augmentor_that_has_diverged_is_told(setup):
    student, teacher, augmentor, images = setup
    with torch.no_grad():
        next(augmentor.parameters()).fill_(torch.nan)
    optimizer = torch.optim.SGD([*student.parameters(), *augmentor.parameters()], lr=0.1)
    with pytest.raises(FloatingPointError, match=r"the augmentor has diverged: theta must be finite, got .* learning"):
        augmentor_step(augmentor, student, teacher, images, optimizer, AugmentorObjective(T))
    with pytest.raises(FloatingPointError, match="the augmentor has diverged"):
        student_step(student, teacher, images, optimizer, StudentObjective(T), augmentor=augmentor)


def test_no_images_are_no_error(setup):
    """An empty mean is NaN, and moves nothing."""
    student, teacher, augmentor, images = setup
    before = [value.clone() for value in student.parameters()]
    optimizer = torch.optim.SGD(student.eval().parameters(), lr=0.1)
    taken = student_step(student, teacher, images[:0], optimizer, StudentObjective(T), augmentor=augmentor)
    assert taken.loss.isnan()
    assert all(torch.equal(old, value) for old, value in zip(before, student.parameters(), strict=True))


def test_student_step_against_plain_pytorch(setup):
    student, teacher, augmentor, images = setup
    student.eval()
    plain_student, plain_teacher = copy.deepcopy(student), copy.deepcopy(teacher).eval()
    augmented = augmentor(images, torch.Generator().manual_seed(4)).detach()
    loss = plain_disagreement(plain_student(augmented), plain_teacher(augmented).detach())
    loss = loss + 0.5 * plain_disagreement(plain_student(images), plain_teacher(images).detach())
    expected = torch.autograd.grad(loss, list(plain_student.parameters()))

    optimizer = torch.optim.SGD(student.parameters(), lr=0.0)
    generator = torch.Generator().manual_seed(4)
    objective = StudentObjective(T, 0.5)
    terms = student_step(student, teacher, images, optimizer, objective, augmentor=augmentor, generator=generator)
    torch.testing.assert_close(terms.loss, loss.detach())
    for parameter, gradient in zip(student.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("count", [6, 4])
def test_student_step_on_generated_images_against_plain_pytorch(setup, count):
    """In training mode, without dropout: batch norm sees generated and real images as one batch."""
    student, teacher, _, images = setup
    student[5] = nn.Identity()
    plain_student, plain_teacher = copy.deepcopy(student), copy.deepcopy(teacher).eval()
    others = torch.rand(count, 1, 10, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    answers = torch.randn(count, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    student_others, student_clean = plain_student(torch.cat([others, images])).split([count, 6])
    sought = plain_disagreement(student_others, answers)
    loss = sought + 0.3 * plain_disagreement(student_clean, plain_teacher(images).detach())
    expected = torch.autograd.grad(loss, list(plain_student.parameters()))

    optimizer = torch.optim.SGD(student.parameters(), lr=0.0)
    terms = student_step(student, teacher, images, optimizer, StudentObjective(T, 0.3), generated=(others, answers))
    torch.testing.assert_close(terms.loss, loss.detach())
    torch.testing.assert_close(terms.disagreement, sought.detach())
    assert terms.teacher_consistency is None
    assert not terms.loss.requires_grad
    for parameter, gradient in zip(student.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_generated_images_are_not_augmented(setup):
    student, teacher, augmentor, images = setup
    optimizer = torch.optim.SGD(student.parameters(), lr=0.0)
    given = images, torch.zeros(6, 5, dtype=torch.float64)
    with pytest.raises(ValueError, match="augmentor and generated exclude each other, got both"):
        student_step(student, teacher, images, optimizer, StudentObjective(T), augmentor=augmentor, generated=given)


def test_given_answers_are_used_and_spare_the_teacher(setup):
    student, teacher, _, images = setup

    def never(*_):
        raise AssertionError("the teacher was asked")

    teacher.register_forward_pre_hook(never)
    answers = torch.zeros(6, 5, dtype=torch.float64)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.0)
    terms = student_step(student.eval(), teacher, images, optimizer, StudentObjective(T), teacher_clean=answers)
    torch.testing.assert_close(terms.loss, plain_disagreement(student(images), answers).detach())


def test_repeated_steps_bring_the_networks_together_and_apart(setup):
    student, teacher, augmentor, images = setup
    student.eval()
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    objective = StudentObjective(T)
    losses = [
        student_step(student, teacher, images, optimizer, objective, augmentor=augmentor).loss.item() for _ in range(60)
    ]
    assert losses[-1] < 0.5 * losses[0]
    optimizer = torch.optim.Adam(augmentor.parameters(), lr=0.1)
    sought = [
        augmentor_step(augmentor, student, teacher, images, optimizer, AugmentorObjective(T, 0.0)).disagreement.item()
        for _ in range(40)
    ]
    assert sum(sought[-5:]) > 1.5 * sum(sought[:5])


def test_supervised_step_is_cross_entropy(setup):
    student, _, _, images = setup
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    plain = copy.deepcopy(student.eval())
    loss = F.cross_entropy(plain(images), labels, label_smoothing=0.1)
    expected = torch.autograd.grad(loss, list(plain.parameters()))
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
    before = [p.detach().clone() for p in student.parameters()]
    actual = supervised_step(student, images, labels, optimizer, label_smoothing=0.1)
    torch.testing.assert_close(actual, loss.detach())
    for old, new, gradient in zip(before, student.parameters(), expected, strict=True):
        torch.testing.assert_close(new.detach(), old - gradient)


def test_held_constant_restores_after_an_error(setup):
    student, teacher, *_ = setup
    student[5].eval()
    before = snapshot(student)

    class StopEarlyError(Exception):
        pass

    def fail():
        with held_constant(student, teacher, student):
            assert not any(m.training for m in student.modules())
            assert not any(p.requires_grad for p in teacher.parameters())
            raise StopEarlyError

    with pytest.raises(StopEarlyError):
        fail()
    assert_unchanged(before, student)


def test_networks_that_share_parts_are_restored():
    shared = nn.Linear(3, 3)
    first, second = nn.Sequential(shared), nn.Sequential(shared, nn.Dropout())
    with held_constant(first, second):
        assert not shared.weight.requires_grad
    assert shared.weight.requires_grad
    assert shared.training


def test_bfloat16_and_real_networks_take_a_step():
    torch.manual_seed(0)
    teacher, student = ShiftRobustCNN(), ShiftRobustCNN(widths=(4, 8, 8))
    images = torch.rand(4, 1, 28, 28)
    augmentor = AffineAugmentor()
    optimizer = torch.optim.Adam(augmentor.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = augmentor_step(augmentor, student, teacher, images, optimizer, AugmentorObjective(T))
    assert torch.isfinite(terms.loss)
    assert torch.isfinite(augmentor.log_scale).all()
