"""How networks are run: one graph each, compiled once, and the same results however they are run."""

import functools
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from hardfast.augment import AffineAugmentor, Augmentor, ColorAugmentor, SequentialAugmentor
from hardfast.data import LabelledImages
from hardfast.distill import Execution, FixedRatio, Thresholds, Trainer, TrainerConfig, held_constant
from hardfast.distill.execution import CompiledAugmentor

#: Student, as it learns and as a constant; teacher and augmentor, with and without gradients.
GRAPHS = 6


def images(count: int, channels: int, seed: int) -> LabelledImages:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(count, channels, 8, 8, generator=generator)
    return LabelledImages(pixels, torch.randint(4, (count,), generator=generator))


def network(channels: int, width: int, dropout: float = 0.2) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(16 * width, 4),
    )


def trainer(execution: Execution, *, channels: int = 1, dropout: float = 0.2, steps: int = 12, **options) -> Trainer:
    augmentor: Augmentor = AffineAugmentor()
    if channels > 1:
        augmentor = SequentialAugmentor(augmentor, ColorAugmentor(in_channels=channels))
    settings = {"steps": steps, "batch_size": 8, "validate_every": 5, "log_every": 3, "warmup_steps": 2}
    teacher = options.pop("teacher", None) or network(channels, 5, dropout)
    alternation = options.pop("alternation", None) or FixedRatio(2)
    return Trainer(
        network(channels, 4, dropout),
        images(30, channels, 0),
        images(20, channels, 1),
        TrainerConfig(**settings, execution=execution, **options),
        teacher=teacher,
        augmentor=augmentor,
        alternation=alternation,
    )


@pytest.fixture
def compile_with(monkeypatch) -> Callable[[str], CompileCounterWithBackend]:
    """Makes ``torch.compile`` use a backend that counts its graphs."""

    def use(backend: str) -> CompileCounterWithBackend:
        counter = CompileCounterWithBackend(backend)
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
        return counter

    torch.compiler.reset()
    yield use
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("channels", "execution", "options"),
    [
        (1, Execution(True, "float32", True, True), {}),
        (
            3,
            Execution(True, "bfloat16"),
            {
                "cache_teacher": False,
                "reuse_augmented": False,
                "ema_decay": 0.9,
                "alternation": Thresholds(9.0, 99.0, max_augmentor_steps=2, check_every=2),
            },
        ),
    ],
)
def test_a_whole_training_compiles_each_network_once_for_each_use(compile_with, channels, execution, options):
    """Alternation, validation, checkpoints and snapshots included."""
    counter = compile_with("eager")
    one = trainer(execution, channels=channels, **options)
    graphs = []
    student_step = one._student_step

    def watched(bar) -> None:
        student_step(bar)
        graphs.append(counter.frame_count)

    one._student_step = watched
    counters.clear()
    summary = one.fit()
    assert summary.augmentor_steps >= 5
    # Warm-up ends with the first student step after the first of the augmentor.
    assert graphs[2:] == [GRAPHS] * (len(graphs) - 2)
    assert not counters["graph_break"]


def test_trainings_in_one_process_do_not_use_up_each_others_graphs(compile_with):
    """All augmentors share the code that is compiled, and so do all networks of a class: here, two a training."""
    counter = compile_with("eager")
    with torch._dynamo.config.patch(recompile_limit=4):
        for number in (1, 2):
            trainer(Execution(compile=True), steps=3).fit()
            assert counter.frame_count == GRAPHS * number


def weights(of: Trainer) -> list[torch.Tensor]:
    return [value for module in (of.model, of.augmentor) for value in module.state_dict().values()]


@pytest.mark.parametrize("execution", [Execution(True, "float32", True), Execution(False, "float32", True, True)])
def test_a_training_ends_as_in_plain_pytorch(compile_with, execution):
    compile_with("aot_eager")
    plain, other = (trainer(how, dropout=0.0, steps=3) for how in (Execution(), execution))
    start = [value.clone() for value in weights(plain)]
    for one in (plain, other):
        one.fit()
    for begin, wanted, found in zip(start, weights(plain), weights(other), strict=True):
        torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-5)
        assert not torch.equal(begin, wanted)


@pytest.mark.parametrize("compiled", [False, True])
def test_bfloat16_is_of_the_layers_only(compile_with, compiled):
    compile_with("aot_eager")
    model, batch = network(3, 4, 0.0), images(16, 3, 2).images
    wanted = model(batch)
    expected = torch.autograd.grad(wanted.square().mean(), list(model.parameters()))
    logits = Execution(compiled, "bfloat16").network(model)(batch)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, wanted)
    torch.testing.assert_close(logits, wanted, rtol=0.05, atol=0.03)
    gradients = torch.autograd.grad(logits.square().mean(), list(model.parameters()))
    for found, want in zip(gradients, expected, strict=True):
        assert found.dtype == torch.float32
        assert (found - want).norm() < 0.15 * want.norm() + 1e-3
    assert {value.dtype for value in model.parameters()} == {torch.float32}


def test_bfloat16_leaves_warps_and_optimisers_in_float32():
    one = trainer(Execution(precision="bfloat16"), steps=4)
    seen = set()
    one._run_teacher.register_forward_pre_hook(lambda _, arguments: seen.add(arguments[0].dtype))
    one.fit()
    assert seen == {torch.float32}
    states = [*one._learner.optimizer.state.values(), *one._augmentor_optimizer.state.values()]
    assert {value.dtype for state in states for value in state.values()} == {torch.float32}


def test_a_compiled_augmentor_draws_the_same_images_and_gradients(compile_with):
    compile_with("aot_eager")
    augmentor, batch = AffineAugmentor("translation"), images(5, 1, 3).images
    compiled = CompiledAugmentor(augmentor)
    assert [id(value) for value in compiled.parameters()] == [id(value) for value in augmentor.parameters()]
    found, wanted = (one(batch, torch.Generator().manual_seed(4)) for one in (compiled, augmentor))
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad(value.square().sum(), list(augmentor.parameters())) for value in (found, wanted)]
    for got, want in zip(*gradients, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_folded_teacher_gives_the_same_answers_and_gradients(channels_last):
    teacher, batch = network(3, 5).double(), images(6, 3, 2).images.double().requires_grad_()
    with torch.no_grad():
        teacher[1].running_mean.uniform_(-0.5, 0.5)
        teacher[1].running_var.uniform_(0.5, 2.0)
    before = [value.clone() for value in teacher.state_dict().values()]
    folded = Execution(channels_last=channels_last, fold_teacher=True).teacher(teacher)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    with held_constant(teacher, folded):
        answers = [one(batch) for one in (folded, teacher)]
        torch.testing.assert_close(*answers)
        torch.testing.assert_close(*(torch.autograd.grad(one.square().sum(), batch)[0] for one in answers))
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.state_dict().values(), strict=True))
    assert all(layer.training for layer in teacher.modules())


def test_a_teacher_that_cannot_be_traced_is_run_as_it_is():
    class Branching(nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return batch.mean((2, 3)) if batch.sum() > 0 else batch.amax((2, 3))

    teacher = Branching()
    assert Execution(fold_teacher=True).teacher(teacher) is teacher


def test_channels_last_is_of_images_and_convolutions():
    execution = Execution(channels_last=True)
    model = execution.network(network(3, 4))
    batch = execution.images(torch.rand(2, 3, 5, 5))
    for value in (batch, model[0].weight, model[0](batch)):
        assert value.is_contiguous(memory_format=torch.channels_last)
        assert not value.is_contiguous()
    assert Execution().images(batch) is batch


def test_unknown_precision_raises():
    with pytest.raises(ValueError, match=r"precision must be one of .*'bfloat16'.*float16"):
        Execution(precision="float16")
