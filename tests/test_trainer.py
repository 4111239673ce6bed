"""The trainer: reproducible, resumable, and writing what a report reads."""

import itertools
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from hardfast.augment import AffineAugmentor
from hardfast.data import LabelledImages
from hardfast.distill import (
    Budget,
    FixedRatio,
    Thresholds,
    Trainer,
    TrainerConfig,
    accuracy,
    held_constant,
    predict_logits,
)
from hardfast.distill.batches import ShuffledBatches
from hardfast.distill.checkpoint import CheckpointPolicy
from hardfast.distill.run_dir import MethodDir
from hardfast.distill.snapshots import SnapshotRecorder

CONFIG = TrainerConfig(
    steps=12, batch_size=8, validate_every=4, log_every=3, snapshots=4, snapshot_images=5, warmup_steps=2
)


def images(count: int, seed: int) -> LabelledImages:
    """Four classes that a linear layer can tell apart: the bright quadrant."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    pixels = 0.2 * torch.rand(count, 1, 12, 12, generator=generator)
    for pixel, label in zip(pixels, labels.tolist(), strict=True):
        pixel[0, 6 * (label // 2) :, 6 * (label % 2) :][:6, :6] += 0.7
    return LabelledImages(pixels, labels)


TRAIN, VALIDATION = images(40, 0), images(20, 1)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(144, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4)
    )


def trainer(method: str = "hard", seed: int = 0, config: TrainerConfig = CONFIG, **options) -> Trainer:
    teacher = None if method == "student" else network(7)
    augmentor = AffineAugmentor() if method in ("hard", "random_affine") else None
    alternation = FixedRatio(2) if method == "hard" else None
    if method == "random_affine":
        augmentor = augmentor.frozen()
    parts = {"teacher": teacher, "augmentor": augmentor, "alternation": alternation} | options
    return Trainer(network(3), TRAIN, VALIDATION, config, seed=seed, **parts)


def weights(of: Trainer) -> list[torch.Tensor]:
    modules = [of.model, of.trained] + ([] if of.augmentor is None else [of.augmentor])
    return [value.clone() for module in modules for value in module.state_dict().values()]


def untimed(directory) -> list[dict]:
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("method", ["student", "distillation", "random_affine", "hard"])
def test_the_same_seed_gives_bitwise_the_same_run(method):
    runs = []
    for noise in (0, 1):
        one = trainer(method)
        torch.manual_seed(noise)
        one.fit()
        runs.append(weights(one))
    assert same(*runs)
    other = trainer(method, seed=1)
    other.fit()
    assert not same(runs[0], weights(other))


def test_training_leaves_the_global_random_state_alone():
    one = trainer()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one.fit()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("method", "schedule", "options"),
    [
        ("student", None, {"ema_decay": 0.8}),
        ("random_affine", None, {}),
        ("hard", partial(Thresholds, 1e9, 1e9, max_augmentor_steps=2), {"ema_decay": 0.8}),
        ("hard", partial(FixedRatio, 1), {"cache_teacher": False}),
        ("hard", partial(Budget, 20, 24), {"reuse_augmented": False}),
    ],
)
def test_a_resumed_run_ends_bitwise_as_one_that_was_never_stopped(method, schedule, options, tmp_path):
    config = TrainerConfig(steps=24, batch_size=8, validate_every=8, log_every=3, snapshots=4, **options)

    def make(**more) -> Trainer:
        return trainer(method, config=config, **({} if schedule is None else {"alternation": schedule()}), **more)

    with MethodDir(tmp_path / "whole") as directory:
        whole = make(directory=directory)
        assert (whole.fit().augmentor_steps > 10) == (method == "hard")

    class KilledError(Exception):
        pass

    class Killing(MethodDir):
        def log(self, step, **scalars):
            super().log(step, **scalars)
            if step >= 16 and "validation_accuracy" in scalars:
                raise KilledError

    directory = Killing(tmp_path / "killed", CheckpointPolicy(every="5"))
    with pytest.raises(KilledError), directory:
        make(directory=directory).fit()
    with MethodDir(tmp_path / "killed") as directory:
        second = make(directory=directory)
        assert second.resume()
        assert second.step == 15
        summary = second.fit()
    assert same(weights(whole), weights(second))
    assert untimed(tmp_path / "whole") == untimed(tmp_path / "killed")
    assert summary.steps == 24
    assert summary.augmentor_steps == whole.augmentor_steps
    if method != "student":
        for name, array in whole._snapshots.arrays().items():
            np.testing.assert_array_equal(array, second._snapshots.arrays()[name])


def test_the_average_of_the_weights_is_what_is_validated_and_kept(tmp_path):
    """Against the recursion, written out, over the weights and running statistics after every step."""
    from safetensors.torch import load_file

    config = replace(CONFIG, ema_decay=0.7, validate_every=6)
    with MethodDir(tmp_path) as directory:
        one = trainer("hard", config=config, directory=directory)
        expected = {name: value.clone() for name, value in one.model.state_dict().items()}
        student_step = one._student_step

        def watched(bar) -> None:
            student_step(bar)
            decay = min(0.7, 1 - one.step ** (-2 / 3))
            for name, value in one.model.state_dict().items():
                if value.is_floating_point():
                    expected[name] = decay * expected[name] + (1 - decay) * value

        one._student_step = watched
        summary = one.fit()
    saved = load_file(tmp_path / "ema.safetensors")
    for name, value in one.trained.state_dict().items():
        assert torch.equal(value, saved[name])
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name])
            assert not torch.equal(value, one.model.state_dict()[name])
    assert summary.validation_accuracy == accuracy(one.trained, VALIDATION.images, VALIDATION.labels)
    assert trainer("hard").trained.state_dict().keys() == saved.keys()


def test_the_average_leaves_the_training_alone():
    plain, averaged = trainer("hard"), trainer("hard", config=replace(CONFIG, ema_decay=0.7))
    for one in (plain, averaged):
        one.fit()
    assert plain.trained is plain.model
    assert same(list(plain.model.state_dict().values()), list(averaged.model.state_dict().values()))


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(("reuse", "answers"), [(True, 12), (False, 17)])
def test_how_often_the_teacher_answers(cached, reuse, answers):
    """Twelve student steps and five of the augmentor, whose images the student takes over."""
    one = trainer("hard", config=replace(CONFIG, cache_teacher=cached, reuse_augmented=reuse))
    asked = []
    one.teacher.register_forward_pre_hook(lambda _, arguments: asked.append(len(arguments[0])))
    one.fit()
    # Without its answers in memory the teacher is asked about the clean images of all 17 steps too.
    assert asked == [8] * (answers + (0 if cached else 17))


def test_the_student_takes_over_the_images_of_the_augmentor(monkeypatch):
    from hardfast.distill import trainer as module

    log = []
    for name in ("student_step", "augmentor_step"):
        original = getattr(module, name)

        def watched(*args, _original=original, _name=name, **options):
            taken = _original(*args, **options)
            log.append((_name, options.get("generated", taken), options.get("augmentor")))
            return taken

        monkeypatch.setattr(module, name, watched)
    one = trainer("hard")
    one.fit()
    followed = 0
    for (before, made, _), (name, given, augmentor) in itertools.pairwise(log):
        if name == "augmentor_step":
            continue
        if before == "augmentor_step":
            assert given[0] is made.images
            assert given[1] is made.teacher_logits
            with torch.no_grad(), held_constant(one.teacher):
                torch.testing.assert_close(one.teacher(made.images), made.teacher_logits)
            assert augmentor is None
            followed += 1
        else:
            assert given is None
            assert augmentor is one.augmentor
    assert followed == 5


def test_a_teacher_without_cache_gives_the_same_student():
    cached, asked = (trainer("hard", config=replace(CONFIG, cache_teacher=value)) for value in (True, False))
    for one in (cached, asked):
        one.fit()
    for wanted, found in zip(weights(cached), weights(asked), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_images_of_a_network_on_labels_are_transformed_with_the_trainers_noise():
    seen = []

    def transform(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        noise = torch.rand(len(batch), generator=generator)
        seen.append(noise)
        return batch + noise.view(-1, 1, 1, 1)

    runs = []
    for _ in range(2):
        one = trainer("student", transform=transform)
        shown = []
        one.model.register_forward_pre_hook(lambda model, arguments, shown=shown: shown.append(arguments[0]))
        one.fit()
        runs.append(weights(one))
        assert shown[0].amin() >= seen[-12].min()
    assert same(*runs)
    assert all(torch.equal(a, b) for a, b in zip(seen[:12], seen[12:], strict=True))
    assert len({noise[0].item() for noise in seen}) == 12
    plain = trainer("student")
    plain.fit()
    assert not same(weights(plain), runs[0])
    with pytest.raises(ValueError, match="transform is for networks that learn from labels"):
        trainer("distillation", transform=transform)


def test_state_of_a_trainer_without_augmentor_raises():
    with pytest.raises(ValueError, match="augmentor"):
        trainer("hard").load_state_dict(trainer("distillation").state_dict())


def test_labels_are_learned():
    one = trainer("student", config=TrainerConfig(steps=150, batch_size=16, learning_rate=0.01))
    before = accuracy(one.model, VALIDATION.images, VALIDATION.labels)
    summary = one.fit()
    assert before < 0.6
    assert summary.validation_accuracy > 0.95
    assert accuracy(one.model, VALIDATION.images, VALIDATION.labels) == summary.validation_accuracy


def test_the_student_learns_the_teachers_answers_not_the_labels():
    teacher = trainer("student", config=TrainerConfig(steps=150, batch_size=16, learning_rate=0.01))
    teacher.fit()
    wrong = LabelledImages(TRAIN.images, (TRAIN.labels + 1) % 4)
    config = TrainerConfig(steps=150, batch_size=16, learning_rate=0.01)
    student = Trainer(network(4), wrong, VALIDATION, config, teacher=teacher.model)
    assert student.fit().validation_accuracy > 0.9


def test_only_hard_learns_the_augmentor():
    learned, random = trainer("hard"), trainer("random_affine")
    # One after every two of twelve student steps, but none after the last.
    assert learned.fit().augmentor_steps == 5
    assert random.fit().augmentor_steps == 0
    assert not torch.equal(learned.augmentor.scale, AffineAugmentor().scale)
    assert torch.equal(random.augmentor.scale, AffineAugmentor().scale)


def test_the_teacher_is_a_constant():
    one = trainer("hard")
    before = [value.clone() for value in one.teacher.state_dict().values()]
    one.fit()
    assert same(before, list(one.teacher.state_dict().values()))


def test_what_a_run_writes(tmp_path):
    with MethodDir(tmp_path) as directory:
        one = trainer("hard", directory=directory)
        summary = one.fit()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    student = [line for line in lines if line.get("phase") == "student"]
    augmentor = [line for line in lines if line.get("phase") == "augmentor"]
    validation = [line for line in lines if "validation_accuracy" in line]
    assert [line["step"] for line in student] == [3, 6, 9, 12]
    assert [line["augmentor_steps"] for line in augmentor] == [1, 4]
    assert [line["step"] for line in validation] == [4, 8, 12]
    common = {"disagreement", "teacher_consistency", "scale_translation", "scale_linear", "augmentor_steps"}
    assert common | {"student_loss", "images_per_second"} <= set(student[0])
    assert common | {"augmentor_loss"} <= set(augmentor[0])
    assert validation[-1]["validation_accuracy"] == summary.validation_accuracy

    from safetensors.torch import load_file

    last = load_file(tmp_path / "last.safetensors")
    assert all(torch.equal(value, last[name]) for name, value in one.model.state_dict().items())
    assert set(load_file(tmp_path / "augmentor.safetensors")) == {"mean_offset", "log_scale"}
    with np.load(tmp_path / "snapshots.npz", allow_pickle=False) as snapshots:
        assert snapshots["steps"].tolist() == [0, 4, 8, 12]
        assert snapshots["clean"].shape == (5, 1, 12, 12)
        assert snapshots["augmented"].shape == (4, 5, 1, 12, 12)
        assert snapshots["mean"].shape == snapshots["scale"].shape == (4, 2, 3)
        np.testing.assert_allclose(snapshots["scale"][0], 0.1, rtol=1e-6)
        np.testing.assert_array_equal(snapshots["scale"][-1], one.augmentor.scale.detach().numpy())


def test_best_weights_are_those_of_the_best_validation_accuracy(tmp_path):
    """A learning rate that destroys the network after a good start, with the ties that a small set has."""
    from safetensors.torch import load_file

    with MethodDir(tmp_path) as directory:
        config = TrainerConfig(steps=60, batch_size=16, learning_rate=0.02, validate_every=5)
        summary = trainer("student", config=config, directory=directory).fit()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    accuracies = {line["step"]: line["validation_accuracy"] for line in lines if "validation_accuracy" in line}
    best = max(accuracies.values())
    assert summary.best_validation_accuracy == best
    assert summary.best_step == max(step for step, value in accuracies.items() if value == best)
    model = network(0)
    model.load_state_dict(load_file(tmp_path / "best.safetensors"))
    assert accuracy(model, VALIDATION.images, VALIDATION.labels) == best


def test_snapshots_share_their_noise_and_do_not_disturb_the_augmentor():
    augmentor = AffineAugmentor()
    recorder = SnapshotRecorder(augmentor, TRAIN.images[:3], steps=10, count=3, seed=0)
    for step in range(11):
        recorder.record(step)
        recorder.record(step)
    arrays = recorder.arrays()
    assert arrays["steps"].tolist() == [0, 5, 10]
    np.testing.assert_array_equal(arrays["augmented"][0], arrays["augmented"][2])
    assert augmentor.log_scale.grad is None
    with pytest.raises(ValueError, match="no snapshot yet"):
        SnapshotRecorder(augmentor, TRAIN.images[:3], steps=10, count=3, seed=0).arrays()


def test_a_loss_that_is_not_finite_stops_the_run():
    broken = LabelledImages(TRAIN.images * float("inf"), TRAIN.labels)
    with pytest.raises(FloatingPointError, match=r"the network had .* not finite in 12 steps in a row, up to step 12"):
        Trainer(network(0), broken, VALIDATION, CONFIG).fit()


def test_learning_rates_warm_up_and_fall_to_zero():
    config = TrainerConfig(steps=100, warmup_steps=9)
    rates = [config.schedule(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1, rel=0.03)
    assert all(a < b for a, b in itertools.pairwise(rates[:10]))
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert 0 < rates[-1] < 1e-3


def test_both_optimizers_follow_the_schedule(monkeypatch):
    """The rates that the steps are taken with, after every two of the twelve student steps for the augmentor."""
    from hardfast.distill import trainer as module

    seen = {"student_step": [], "augmentor_step": []}
    for name, rates in seen.items():
        original = getattr(module, name)

        def watched(*args, _original=original, _rates=rates, **options):
            optimizer = next(arg for arg in args if isinstance(arg, torch.optim.Optimizer))
            _rates.append(optimizer.param_groups[0]["lr"])
            return _original(*args, **options)

        monkeypatch.setattr(module, name, watched)
    trainer("hard").fit()
    assert seen["student_step"] == [CONFIG.learning_rate * CONFIG.schedule(step) for step in range(12)]
    expected = [CONFIG.augmentor_learning_rate * CONFIG.schedule(step) for step in (2, 4, 6, 8, 10)]
    assert seen["augmentor_step"] == expected


@pytest.mark.parametrize(("count", "batch_size"), [(10, 3), (10, 10), (4, 11), (1, 1)])
def test_batches_use_every_image_equally_often(count, batch_size):
    batches = ShuffledBatches(count, batch_size, seed=0)
    indices = torch.cat([batches.indices(step) for step in range(count)])
    assert len(indices) == count * batch_size
    assert indices.bincount(minlength=count).tolist() == [batch_size] * count
    if count == 10:
        epochs = indices.view(-1, count)
        assert all(sorted(epoch.tolist()) == list(range(count)) for epoch in epochs)
        assert len({tuple(epoch.tolist()) for epoch in epochs}) == len(epochs)


def test_batches_are_a_function_of_seed_and_step():
    first, again, other = ShuffledBatches(50, 8, 1), ShuffledBatches(50, 8, 1), ShuffledBatches(50, 8, 2)
    assert torch.equal(first.indices(30), again.indices(30))
    assert not torch.equal(first.indices(30), other.indices(30))


def test_predict_logits_in_chunks_keeps_the_mode():
    model = network(0)
    model[4].eval()
    expected = predict_logits(model, TRAIN.images)
    torch.testing.assert_close(predict_logits(model, TRAIN.images, batch_size=7), expected)
    assert model.training
    assert not model[4].training
    assert expected.shape == (40, 4)
    with pytest.raises(ValueError, match="batch_size"):
        predict_logits(model, TRAIN.images, batch_size=0)
    with pytest.raises(ValueError, match="got 0 and 0"):
        accuracy(model, TRAIN.images[:0], TRAIN.labels[:0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": None, "alternation": None}, "augmentor needs a teacher"),
        ({"augmentor": None}, "alternation needs an augmentor"),
    ],
)
def test_parts_that_do_not_go_together_raise(options, message):
    with pytest.raises(ValueError, match=message):
        trainer("hard", **options)


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("batch_size", 0), ("learning_rate", 0.0), ("learning_rate", float("nan")), ("weight_decay", -1.0),
     ("warmup_steps", -1), ("validate_every", 0), ("log_every", 0), ("augmentor_learning_rate", -0.1),
     ("label_smoothing", 1.5), ("snapshots", 1), ("ema_decay", 1.0), ("ema_decay", -0.1)],
)  # fmt: skip
def test_bad_configuration_raises(name, value):
    with pytest.raises(ValueError, match=name):
        TrainerConfig(**({"steps": 10} | {name: value}))
