"""Recipes: their values and sources, and the loop over methods and seeds."""

import dataclasses
import json
import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from checkpoints import last_state
from mnist_files import write_mnist, write_mnist_c

from hardfast.data import LabelledImages, ShiftedSet, load_digits
from hardfast.data.digit_shifts import digit_shifts
from hardfast.distill import Budget, FixedRatio, Thresholds, accuracy, accuracy_per_shift
from hardfast.distill.run_dir import RunDir
from hardfast.models import create_model
from hardfast.recipes import RECIPES, get_recipe
from hardfast.recipes.hard_augmentor import AugmentorConfig, Family
from hardfast.recipes.hard_experiment import run as run_methods
from hardfast.recipes.hard_recipe import FIXED, AlternationConfig, HardTeacherConfig

METHODS = ("teacher", "student", "distillation", "random_augmentor", "hard")
CACHE = Path("runs", "cache")


def run(recipe, run_dir, progress):
    return run_methods(recipe, run_dir, CACHE, progress)


def few(data):
    """Digits of which a few are for training and for tests; the teacher answers all of the former."""
    return dataclasses.replace(data, validation_size=1700, test_size=30)


def leaves(config, prefix=""):
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", item


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    recipe = dataclasses.replace(get_recipe("hard-digits"), smoke=True, seeds=2, first_seed=5)
    return path, run(recipe, RunDir(path), progress=False)


def test_the_registry_names_recipes_as_they_name_themselves():
    assert list(RECIPES) == [
        "hard-digits",
        "hard-digits-families",
        "hard-digits-affine",
        "hard-digits-translation",
        "hard-digits-linear",
        "hard-digits-projective",
        "hard-digits-flow",
        "hard-digits-thin-plate",
        "hard-digits-color",
        "hard-digits-mix",
        "hard-digits-affine-flow-color",
        "hard-digits-latent",
        "hard-digits-vdvae",
        "hard-mnist-mlp",
        "hard-mnist-vit",
        "hard-cifar10-resnet18",
        "hard-cifar10-vit",
        "hard-imagenet-resnet18",
        "hard-imagenet-vit",
        "config-digits",
        "config-celeba",
        "config-spuco-birds",
        "config-spurious-imagenet",
    ]
    assert all(get_recipe(name).name == name for name in RECIPES)
    with pytest.raises(ValueError, match=r"\['hard-digits', .*'config-spurious-imagenet'\]; got 'hard'"):
        get_recipe("hard")


@pytest.mark.parametrize("name", RECIPES)
def test_every_field_tells_its_source(name):
    recipe = get_recipe(name)
    fields = recipe.describe()["fields"]
    expected = dict(leaves(recipe))
    assert set(fields) == set(expected)
    for field_name, entry in fields.items():
        assert entry["provenance"] in ("known", "earlier code", "reported", "our choice"), field_name
        assert entry["provenance"] == expected[field_name].metadata["source"]
    assert ("2305.14890" if name.startswith("hard-") else "2506.02294") in recipe.citation


def test_an_overridden_value_does_not_keep_its_source():
    recipe = get_recipe("hard-mnist-mlp")
    other = dataclasses.replace(recipe, batch_size=7, teacher=dataclasses.replace(recipe.teacher, steps=9))
    fields = other.describe()["fields"]
    assert fields["batch_size"] == {"value": 7, "provenance": "overridden"}
    assert fields["teacher.steps"] == {"value": 9, "provenance": "overridden"}
    assert fields["teacher.batch_size"] == {"value": 64, "provenance": "earlier code"}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_frozen_and_override_from_the_command_line(name):
    import tyro

    recipe = get_recipe(name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.steps = 1
    # Teachers are trained, or images are searched, or both; and data is split by a seed, or decoded by threads.
    part, steps = ("teacher", "steps") if hasattr(recipe, "teacher") else ("generator", "iterations")
    in_data = "split_seed" if hasattr(recipe.data, "split_seed") else "threads"
    arguments = ["--seeds", "1", "--steps", "500", "--smoke"]
    arguments += [f"--{part}.{steps}", "10", f"--data.{in_data.replace('_', '-')}", "3"]
    changed = tyro.cli(type(recipe), default=recipe, args=arguments)
    parts = {
        part: dataclasses.replace(getattr(recipe, part), **{steps: 10}),
        "data": dataclasses.replace(recipe.data, **{in_data: 3}),
    }
    assert changed == dataclasses.replace(recipe, seeds=1, steps=500, smoke=True, **parts)
    assert tyro.cli(type(recipe), default=recipe, args=[]) == recipe


def test_the_papers_values_of_mnist():
    """What the authors' earlier code has, and no other value under its name."""
    mlp, vit = get_recipe("hard-mnist-mlp"), get_recipe("hard-mnist-vit")
    assert (mlp.teacher.model, mlp.student, mlp.batch_size) == ("cnn", "mlp", 64)
    assert (vit.teacher.model, vit.student, vit.batch_size) == ("resnet18", "vit_digits", 256)
    for recipe in (mlp, vit):
        assert (recipe.learning_rate, recipe.weight_decay, recipe.temperature) == (3e-4, 2e-9, 5.0)
        assert recipe.data.validation_fraction == 0.1
        assert recipe.augmentor.initial_scale == 0.1
    published = {(row.method, row.split): row.value for row in vit.published}
    assert published["distillation", "shifted"] == pytest.approx(0.412)
    assert published["orbit", "centred"] == pytest.approx(0.9841)
    assert {(row.method, row.split): row.value for row in mlp.published}["teacher", "shifted"] == pytest.approx(0.9067)
    assert all(row.source for row in (*mlp.published, *vit.published))
    assert get_recipe("hard-digits").published == ()


def test_rows_have_a_value_per_seed(smoke_run):
    path, rows = smoke_run
    keys = [(row.method, row.split) for row in rows]
    assert keys == [(method, split) for method in METHODS for split in ("centred", "shifted")]
    assert all(len(row.seeds) == 2 and all(0 <= value <= 1 for value in row.seeds) for row in rows)
    assert all((row.recipe, row.metric, row.published) == ("hard-digits", "accuracy", None) for row in rows)
    written = json.loads((path / "results.json").read_text())
    assert written["rows"] == [row.to_json() for row in rows]


def test_the_run_is_laid_out_as_a_report_reads_it(smoke_run):
    path, _ = smoke_run
    config = json.loads((path / "config.json").read_text())
    assert config["recipe"] == "hard-digits"
    assert config["fields"]["first_seed"] == {"value": 5, "provenance": "overridden"}
    for method in METHODS:
        assert sorted(folder.name for folder in (path / method).iterdir()) == ["seed-5", "seed-6"]
        files = {file.name for file in (path / method / "seed-5").iterdir()}
        assert {
            "metrics.jsonl",
            "best.safetensors",
            "last.safetensors",
            "checkpoints",
            "tested.json",
            "shift_accuracy.npz",
        } <= files
        augmented = {"augmentor.safetensors", "snapshots.npz"}
        assert augmented <= files if method in ("random_augmentor", "hard") else not augmented & files


def test_the_reported_accuracy_is_that_of_the_last_weights(smoke_run):
    from safetensors.torch import load_file

    path, rows = smoke_run
    by_key = {(row.method, row.split): row.seeds for row in rows}
    test = load_digits(0).test
    student = create_model("mlp")
    student.load_state_dict(load_file(path / "hard" / "seed-6" / "last.safetensors"))
    assert accuracy(student, test.images, test.labels) == by_key["hard", "centred"][1]
    per_shift = accuracy_per_shift(student, ShiftedSet(test.images, test.labels, 1))
    assert per_shift.mean == by_key["hard", "shifted"][1]
    with np.load(path / "hard" / "seed-6" / "shift_accuracy.npz") as saved:
        np.testing.assert_array_equal(saved["accuracy"], per_shift.accuracy)
        np.testing.assert_array_equal(saved["dx_px"], [-1, 0, 1] * 3)
        np.testing.assert_array_equal(saved["dy_px"], [-1] * 3 + [0] * 3 + [1] * 3)


def test_methods_of_a_seed_take_as_many_steps_from_the_same_start(smoke_run):
    path, _ = smoke_run
    students = [m for m in METHODS if m != "teacher"]
    states = {m: last_state(path / m / "seed-5") for m in students}
    assert {state["step"] for state in states.values()} == {12}
    assert len({state["model"]["layers.1.weight"].numpy().tobytes() for state in states.values()}) == len(students)


def test_the_same_recipe_gives_the_same_numbers(smoke_run, tmp_path):
    _, rows = smoke_run
    recipe = dataclasses.replace(get_recipe("hard-digits"), smoke=True, seeds=1, first_seed=6)
    again = run(recipe, RunDir(tmp_path), progress=False)
    assert [row.seeds[0] for row in again] == [row.seeds[1] for row in rows]


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("hard-digits-")])
def test_every_family_runs_on_digits_to_its_end(tmp_path, name):
    recipe = get_recipe(name)
    recipe = dataclasses.replace(recipe, smoke=True, seeds=1, data=few(recipe.data))
    if name != "hard-digits-families":
        recipe = dataclasses.replace(recipe, methods=("hard",))
    rows = run_methods(recipe, RunDir(tmp_path), tmp_path / "cache", progress=False)
    assert {row.method for row in rows} == {"teacher", *recipe.methods}
    assert {row.split for row in rows} == {"centred", *digit_shifts()}
    for method in recipe.methods:
        config = recipe.augmentor_of(method)
        if config is None:
            continue
        learned = json.loads((tmp_path / method / "seed-0" / "augmentor.json").read_text())
        assert learned["before"].keys() == learned["after"].keys() != set()
        assert learned["before"] != learned["after"]
    autoencoders = {file.name.rpartition("-")[0] for file in (tmp_path / "cache").glob("*")}
    families = {"latent": "small_autoencoder", "vdvae": "small_vdvae"}
    assert autoencoders == {
        kind for family, kind in families.items() if name.endswith(family) or family in recipe.methods
    }


def test_every_fixed_augmentation_runs_in_the_same_loop(tmp_path):
    recipe = get_recipe("hard-digits")
    recipe = dataclasses.replace(recipe, smoke=True, seeds=1, methods=FIXED, data=few(recipe.data))
    rows = run(recipe, RunDir(tmp_path), progress=False)
    assert [row.method for row in rows if row.split == "shifted"] == ["teacher", *FIXED]
    states = [last_state(tmp_path / method / "seed-0") for method in FIXED]
    assert {(state["step"], state["augmentor_steps"]) for state in states} == {(12, 0)}
    assert len({state["model"]["layers.1.weight"].numpy().tobytes() for state in states}) == len(FIXED)


@pytest.mark.parametrize("name", ["hard-mnist-mlp", "hard-mnist-vit"])
def test_mnist_recipes_run_on_files_and_print_the_published_numbers(tmp_path, name):
    write_mnist(tmp_path / "MNIST" / "raw", gz=True)
    write_mnist_c(tmp_path / "mnist_c" / "translate")
    recipe = get_recipe(name)
    data = dataclasses.replace(recipe.data, root=tmp_path, mnist_c_root=tmp_path)
    rows = run(dataclasses.replace(recipe, smoke=True, seeds=1, data=data), RunDir(tmp_path / "run"), progress=False)
    by_key = {(row.method, row.split): row for row in rows}
    for row in recipe.published:
        assert by_key[row.method, row.split].published == row.value
        assert by_key[row.method, row.split].source == row.source
    assert by_key["orbit", "shifted"].seeds == []
    assert by_key["hard", "shifted"].published is None
    assert len(by_key["hard", "shifted"].seeds) == 1
    assert "mnist_c_root" in (tmp_path / "run" / "config.json").read_text()


@pytest.mark.parametrize("name", ["hard-mnist-mlp", "hard-mnist-vit"])
def test_missing_data_says_so_before_anything_is_trained(tmp_path, name):
    recipe = get_recipe(name)
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, root=tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte"):
        run(recipe, RunDir(tmp_path / "run"), progress=False)
    assert not list((tmp_path / "run").iterdir())


def test_published_values_stand_beside_ours_and_alone():
    recipe = get_recipe("hard-mnist-mlp")
    rows = recipe.result_rows(
        {("hard", "shifted", "accuracy"): [0.5, 0.7], ("teacher", "shifted", "accuracy"): [0.9, 0.8]}
    )
    by_key = {(row.method, row.split): row for row in rows}
    assert by_key["hard", "shifted"].mean == pytest.approx(0.6)
    assert by_key["teacher", "shifted"].published == pytest.approx(0.9067)
    assert by_key["student", "centred"].seeds == []
    assert len(rows) == 9


def test_threads_are_set_during_the_run_and_restored_after_an_error(tmp_path, monkeypatch):
    seen = []
    recipe = get_recipe("hard-digits")

    def load(self):
        seen.append(torch.get_num_threads())
        raise FileNotFoundError("no data")

    monkeypatch.setattr(type(recipe), "load", load)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for threads in (1, 0):
            with pytest.raises(FileNotFoundError):
                run(dataclasses.replace(recipe, threads=threads), RunDir(tmp_path), progress=False)
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 2]


def test_alternation_is_built_as_configured():
    fixed = AlternationConfig(student_steps=7).build(10)
    thresholds = AlternationConfig("thresholds", upper=0.7).build(10)
    budget = AlternationConfig("budget", augmentor_steps=4).build(10)
    assert isinstance(budget, Budget)
    assert (budget.augmentor_steps, budget.student_steps) == (4, 10)
    assert isinstance(fixed, FixedRatio)
    assert fixed.student_steps == 7
    assert isinstance(thresholds, Thresholds)
    assert thresholds.upper == 0.7


def changed(recipe, options: dict):
    """With other values of fields, nested ones by names with dots."""
    for name, value in options.items():
        first, dot, rest = name.partition(".")
        recipe = dataclasses.replace(
            recipe, **{first: changed(getattr(recipe, first), {rest: value}) if dot else value}
        )
    return recipe


def test_thresholds_run_end_to_end(tmp_path):
    recipe = get_recipe("hard-digits")
    alternation = AlternationConfig("thresholds", lower=1e6, upper=1e6, max_augmentor_steps=2)
    recipe = dataclasses.replace(recipe, smoke=True, seeds=1, alternation=alternation)
    run(recipe, RunDir(tmp_path), progress=False)
    state = last_state(tmp_path / "hard" / "seed-0")
    assert state["augmentor_steps"] == 2 * (state["step"] - 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "seeds must be >= 1"),
        ({"first_seed": -1}, "first_seed >= 0"),
        ({"temperature": -1.0}, "temperature"),
        ({"threads": -1}, "threads must be from 1 to"),
        ({"student": "vgg"}, "student must be one of"),
        ({"teacher": HardTeacherConfig(model="vgg")}, r"teacher\.model must be one of"),
        ({"teacher": HardTeacherConfig(learning_rate=0.0)}, "learning_rate"),
        ({"augmentor": AugmentorConfig(initial_scale=-1.0)}, "initial_scale"),
        ({"augmentor": AugmentorConfig(teacher_weight=-1.0)}, "teacher_weight"),
        ({"alternation": AlternationConfig("thresholds", lower=2.0, upper=1.0)}, "lower and upper"),
        ({"smoke": True, "steps": 0}, "steps must be >= 1"),
        ({"smoke": False, "alternation": AlternationConfig(student_steps=3500)}, "or no augmentor learns; got 3500"),
        ({"smoke": False, "alternation": AlternationConfig("thresholds", lower=0.0)}, "lower must be above 0"),
        ({"augmentor": AugmentorConfig(teacher_weight=0.0, student_weight=0.0)}, "must be above 0; got 0 for both"),
        ({"augmentor": AugmentorConfig("flow", grid=(40, 40))}, "grid must have at most 1024 control points; got"),
        ({"augmentor": AugmentorConfig("vdvae", blocks=(7, 5))}, "up to 9; got 7 and 5"),
        ({"augmentor": AugmentorConfig("vdvae", blocks=(2, 10))}, "up to 9; got 2 and 10"),
        ({"student": "resnet18_cifar"}, r"student must be a network that takes images \[1, 28, 28\] in batches of 16"),
        ({"student": "resnet18", "batch_size": 1}, "in batches of 1; got: Expected more than 1 value per channel"),
    ],
)
def test_bad_overrides_raise(tmp_path, change, message):
    recipe = get_recipe("hard-digits")
    small = dataclasses.replace(recipe, **({"smoke": True, "seeds": 1} | change))
    with pytest.raises(ValueError, match=message):
        run(small, RunDir(tmp_path), progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hard-digits", {"augmentor.grid": (5, 5)}),
        ("hard-digits", {"augmentor.source": "nowhere"}),
        ("hard-digits", {"augmentor.family": "vdvae", "augmentor.vdvae": "imagenet32"}),
        ("hard-digits", {"augmentor.family": "vdvae", "augmentor.initial_scale": 0.2}),
        ("hard-digits", {"augmentor.family": "latent", "augmentor.conditional": True}),
        ("hard-digits", {"augmentor.family": "latent", "augmentor.source": "x", "augmentor.autoencoder_steps": 7}),
        ("hard-digits", {"alternation.lower": 0.1}),
        ("hard-digits", {"alternation.kind": "budget", "alternation.student_steps": 4}),
        ("hard-digits", {"teacher.weights": "a.safetensors", "teacher.learning_rate": 0.1}),
        ("hard-digits-flow", {"teacher.augmentation": "augmix"}),
        ("hard-digits-families", {"augmentors.mix.grid": (5, 5)}),
        ("hard-digits-families", {"policy": "imagenet"}),
        ("config-digits", {"generator.offsets": True}),
        ("config-digits", {"generator.gamma": 3.0}),
        ("config-digits", {"methods": ("config",), "generator.kind": "affine", "generator.memory": "nested"}),
        ("config-digits", {"methods": ("config",), "generator.kind": "affine", "denoiser.steps": 9}),
        ("config-celeba", {"methods": ("config",), "generator.kind": "affine", "generator.prompt": "{}"}),
        ("config-celeba", {"generator.offsets": False, "generator.rate": 0.1}),
    ],
    ids=str,
)
def test_what_has_no_effect_is_refused(name, options):
    """The last option; without it the recipe is accepted."""
    *others, last = options
    changed(get_recipe(name), {key: options[key] for key in others}).resolved()
    with pytest.raises(ValueError, match=rf"{last.replace('.', '[.]')} has no effect here: it is (of|for) "):
        changed(get_recipe(name), options).resolved()


def test_an_option_that_a_recipe_sets_by_itself_stays_with_another_choice():
    recipe = changed(get_recipe("config-spuco-birds"), {"generator.form": "log"}).resolved()
    assert recipe.generator.settings(64, 64, "config").objective.gamma == 1.0


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_accepted_and_names_fields_that_it_has(name, smoke):
    recipe = dataclasses.replace(get_recipe(name), smoke=smoke).resolved()
    assert recipe.unused().keys() <= recipe.describe()["fields"].keys()
    recipe.resolved()


def test_a_part_of_another_class_has_defaults_of_its_own():
    """Which nobody chose, where the recipe has others."""
    recipe = changed(get_recipe("hard-digits-vdvae"), {"augmentor": AugmentorConfig("vdvae")})
    assert recipe.resolved().augmentor.learn_mean
    teacher = HardTeacherConfig(model="resnet50.a1_in1k", weights="hub")
    dataclasses.replace(get_recipe("hard-imagenet-resnet18"), teacher=teacher).resolved()


def test_a_student_of_its_teachers_architecture_begins_elsewhere():
    recipe = changed(get_recipe("hard-digits"), {"student": "cnn", "teacher.model": "cnn"})
    weights = [next(network.parameters()) for network in (recipe.make_teacher(1), recipe.make_student(1))]
    assert not torch.equal(*weights)
    assert torch.equal(weights[0], next(recipe.make_teacher(1).parameters()))


def test_another_family_in_a_recipe_of_one_is_refused():
    with pytest.raises(ValueError, match=r"augmentor\.family must stay 'linear' in hard-digits-linear; got 'flow'"):
        changed(get_recipe("hard-digits-linear"), {"augmentor.family": "flow"}).resolved()


def test_the_augmentor_of_each_family_is_checked_at_once():
    with pytest.raises(ValueError, match=r"augmentors\.affine\.components must be"):
        changed(get_recipe("hard-digits-families"), {"augmentors.affine.components": 0}).resolved()


def made(config: AugmentorConfig, cache: Path) -> list[object]:
    """The parameters of an augmentor, and what it draws."""
    images = LabelledImages(torch.rand(20, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2)
    torch.manual_seed(0)
    augmentor = config.build(images, (1, 28, 28), cache, torch.device("cpu"), False)
    parts: list[object] = [(name, value.requires_grad, value.tolist()) for name, value in augmentor.named_parameters()]
    output = augmentor(images.images[:3], generator=torch.Generator().manual_seed(1))
    return [*parts, output.tolist()]


@pytest.mark.parametrize("family", [family for family in get_args(Family) if family not in ("latent", "vdvae")])
def test_unused_options_change_nothing_and_all_others_do(family, tmp_path):
    """Of those that need no autoencoder."""
    base = AugmentorConfig(family)
    others = {"grid": (3, 3), "components": 2, "conditional": True, "initial_scale": 0.3, "learn_mean": False}
    others |= {"source": "x", "blocks": (1, 2), "vdvae": "imagenet32", "autoencoder_steps": 2}
    plain, unused = made(base, tmp_path), base.unused()
    for name, value in others.items():
        same = made(dataclasses.replace(base, **{name: value}), tmp_path) == plain
        assert same == (name in unused), name


def test_a_shift_that_would_cut_digits_raises():
    recipe = get_recipe("hard-digits")
    with pytest.raises(ValueError, match=r"max_shift_px must be in \[0, 6\]"):
        dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, max_shift_px=7)).load()


def test_hard_digits_tests_all_169_shifts_of_test_images_only():
    data = get_recipe("hard-digits").load()
    assert len(data.shifts) == 169
    assert data.shifts.images is data.test.images
    assert math.isclose(data.train.images[:, :, :6].sum().item(), 0)
