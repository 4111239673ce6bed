"""ConfiG's recipes: equal students, counts and steps for every method, and images by ``hardfast generate``."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import signal
from collections import defaultdict
from concurrent.futures import Future
from typing import NamedTuple

import pytest
import torch
from kill_and_resume import differences
from safetensors.torch import load_file

from hardfast.cli import main
from hardfast.diffusion.image_store import ImageStore, load_generated
from hardfast.distill.checkpoint import CheckpointPolicy
from hardfast.distill.run_dir import RunDir
from hardfast.distill.trainer import Trainer
from hardfast.interruption import Interrupted
from hardfast.recipes import config_experiment, get_recipe
from hardfast.recipes import recipe as recipe_module
from hardfast.recipes.config_digits import TEACHERS, ConfigDigits, DenoiserConfig, DigitsTeacherConfig
from hardfast.recipes.config_recipe import METHODS
from hardfast.recipes.recipe import ExecutionConfig

SEED = 2
KEPT = ("unguided", "image_to_image", "config")  # methods that make images
RUN = ("teacher", "distillation", "cutmix", *KEPT)


GENERATOR = get_recipe("config-digits").generator


def small(**changes) -> ConfigDigits:
    """Not ``smoke``, whose teacher knows nothing and so keeps nothing."""
    recipe = get_recipe("config-digits")
    return dataclasses.replace(
        recipe,
        **{
            "seeds": 1, "first_seed": SEED, "workers": 1, "methods": ("config", *KEPT, "cutmix"), "steps": 30,
            "rounds": 2, "round_steps": 12, "batch_size": 16, "student_widths": (8, 8, 8),
            "data": dataclasses.replace(recipe.data, test_size=100, validation_size=50),
            "teacher": dataclasses.replace(recipe.teacher, steps=80, batch_size=32),
            "denoiser": dataclasses.replace(recipe.denoiser, steps=40, batch_size=32, widths=(8, 16)),
            "generator": dataclasses.replace(
                recipe.generator, count=18, group_size=7, steps=3, iterations=2, min_teacher_confidence=0.0
            ),
        } | changes,
    )  # fmt: skip


class Training(NamedTuple):
    """What a trainer was given."""

    first_step: int
    steps: int
    before: dict[str, torch.Tensor]
    generated: int
    augmentor: str
    teacher: int
    seed: int


class Watched(NamedTuple):
    path: object
    rows: list
    trainings: dict[str, list[Training]]


def watched_run(path, recipe, patch) -> Watched:
    trainings = defaultdict(list)

    class WatchedTrainer(config_experiment.Trainer):
        def fit(self):
            generated = 0 if self.generated is None else len(self.generated)
            before = {name: value.clone() for name, value in self.model.state_dict().items()}
            given = self.first_step, self.config.steps, before, generated, type(self.augmentor).__name__
            trainings[self.directory.path.parent.name].append(Training(*given, id(self.teacher), self.seed))
            return super().fit()

    patch.setattr(config_experiment, "Trainer", WatchedTrainer)
    patch.chdir(path)
    return Watched(path / "run", recipe.run(RunDir(path / "run"), progress=False), trainings)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return watched_run(tmp_path_factory.mktemp("config"), small(), patch)


def metrics(run: Watched, method: str) -> list[dict]:
    lines = (run.path / method / f"seed-{SEED}" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def equal(first: dict, second: dict) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_rows_are_those_of_the_methods_in_their_order(done):
    assert [(row.method, row.metric) for row in done.rows] == [
        (method, metric) for method in RUN for metric in ("worst_group_accuracy", "mean_group_accuracy")
    ]
    assert all((row.recipe, row.split, len(row.seeds)) == ("config-digits", "test", 1) for row in done.rows)
    written = json.loads((done.path / "results.json").read_text())
    assert written["rows"] == [row.to_json() for row in done.rows]
    assert json.loads((done.path / "config.json").read_text())["fields"]["first_seed"]["value"] == SEED


def test_the_reported_accuracy_is_that_of_the_last_weights(done):
    recipe = small()
    data = recipe.load()
    values = {(row.method, row.metric): row.seeds[0] for row in done.rows}
    for method in RUN:
        make = recipe.make_teacher if method == "teacher" else recipe.make_student
        network = make(data, SEED)
        network.load_state_dict(load_file(done.path / method / f"seed-{SEED}" / "last.safetensors"))
        for metric, value in recipe.evaluate(network, data).items():
            assert values[method, metric] == value


def test_the_teacher_learns_and_knows_all_groups(done):
    values = {(row.method, row.metric): row.seeds[0] for row in done.rows}
    assert values["teacher", "worst_group_accuracy"] > 0.3
    assert values["teacher", "mean_group_accuracy"] >= values["teacher", "worst_group_accuracy"]
    assert [line["step"] for line in metrics(done, "teacher") if line.get("phase") == "student"][-1] == 80


def test_every_method_goes_on_from_the_same_student(done):
    first = done.trainings["distillation"][0]
    assert (first.first_step, first.steps, first.generated) == (0, 30, 0)
    start = done.trainings["distillation"][1].before
    assert not equal(start, first.before)
    for method in RUN[2:]:
        assert equal(done.trainings[method][0].before, start), method


def test_every_method_takes_as_many_steps_on_the_same_batches(done):
    for method in RUN[1:]:
        rounds = done.trainings[method][-2:]
        assert [(part.first_step, part.steps) for part in rounds] == [(30, 12), (42, 12)]
        assert [part.seed for part in rounds] == [part.seed for part in done.trainings["cutmix"]]
        assert len(done.trainings[method]) == (3 if method == "distillation" else 2)
        assert max(line["step"] for line in metrics(done, method)) == 54
        steps = [line["step"] for line in metrics(done, method) if "student_loss" in line]
        assert steps == sorted(set(steps))
    seeds = [part.seed for part in done.trainings["distillation"]]
    assert len(set(seeds)) == 3
    assert len({part.teacher for method in RUN[1:] for part in done.trainings[method]}) == 1


def test_only_mixes_augment_and_only_generators_generate(done):
    for method in RUN[1:]:
        for part in done.trainings[method]:
            assert part.augmentor == ("CutMix" if method == "cutmix" else "NoneType")
            assert method in KEPT or part.generated == 0
        assert ("round-0" in {p.name for p in (done.path / method / f"seed-{SEED}").iterdir()}) == (method in KEPT)


def test_images_are_as_many_for_each_method_and_pooled_over_rounds(done):
    for method in KEPT:
        kept = []
        logged = [line for line in metrics(done, method) if "candidates" in line]
        for number in range(2):
            path = done.path / method / f"seed-{SEED}" / f"round-{number}"
            candidates = ImageStore.open(path).candidates()
            assert [candidate.number for candidate in candidates] == list(range(18))
            assert [candidate.label for candidate in candidates] == [k % 10 for k in range(18)]
            kept.append(len(load_generated(path).images))
            assert (logged[number]["candidates"], logged[number]["kept"]) == (18, kept[number])
            assert logged[number]["step"] == 30 + 12 * number
        assert [part.generated for part in done.trainings[method]] == [kept[0], sum(kept)]
        assert min(kept) > 0


def test_rounds_and_seeds_do_not_share_their_starts(done):
    data, recipe = small().load(), small()
    model = recipe.make_image_model(data, done.path.parent / "runs" / "cache", torch.device("cpu"), False)
    teacher, student = recipe.make_teacher(data, 0), recipe.make_student(data, 0)
    found = {}
    for number in range(2):
        path = done.path / "unguided" / f"seed-{SEED}" / f"round-{number}"
        found[number] = {c.number: c.seed for c in ImageStore.open(path).candidates()}
    assert not set(found[0].values()) & set(found[1].values())
    makers = [recipe.method_maker("unguided", data, model, student, teacher, seed) for seed in (0, 1, 1000)]
    images = torch.cat([maker.make([3]).images for maker in makers])
    assert min((images[a] - images[b]).abs().mean() for a, b in ((0, 1), (0, 2), (1, 2))) > 0.01


def test_only_what_each_control_looks_at_is_searched():
    recipe = small()
    data = recipe.load()
    settings = {method: recipe.generator.settings(8, 8, method) for method in METHODS[4:]}
    assert [name for name, one in settings.items() if one.iterations] == ["teacher_only", "student_only", "config"]
    models = {name: one.objective.models for name, one in settings.items()}
    assert (models["teacher_only"], models["student_only"], models["config"]) == ("teacher", "student", "both")
    same = {"teacher_only": "both", "student_only": "both"}
    for name in same:
        objective = dataclasses.replace(settings[name].objective, models="both")
        assert dataclasses.replace(settings[name], objective=objective) == settings["config"]
    student, teacher = recipe.make_student(data, 0), recipe.make_teacher(data, 0)
    model = dataclasses.make_dataclass("Model", ["conditions", "encode"])(torch.arange(10), torch.nn.Identity())
    starts = {
        method: recipe.method_maker(method, data, model, student, teacher, 1).start
        for method in ("unguided", "image_to_image", "other_class", "teacher_only", "student_only", "config")
    }
    assert list(starts.values()) == ["noise", "same_class", "other_class", "noise", "noise", "noise"]


def test_seeds_in_processes_come_to_the_same_rows(done, tmp_path, monkeypatch):
    """The functions that other processes run, in this one."""

    class Pool:
        def __init__(self, workers, context, initializer, initargs):
            assert (workers, context.get_start_method()) == (2, "spawn")
            assert not initargs[0].is_set()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def submit(self, function, *arguments):
            answer = Future()
            answer.set_result(function(*pickle.loads(pickle.dumps(arguments))))
            return answer

    monkeypatch.setattr(recipe_module, "ProcessPoolExecutor", Pool)
    monkeypatch.chdir(done.path.parent)  # for its cache
    recipe = small(workers=2, methods=("config",))
    rows = recipe.run(RunDir(tmp_path), progress=False)
    assert [row.method for row in rows[::2]] == ["teacher", "distillation", "config"]
    expected = {(row.method, row.metric): row.seeds for row in done.rows}
    assert all(row.seeds == expected[row.method, row.metric] for row in rows)


def test_stopped_and_continued_it_comes_to_the_same_files(done, tmp_path, monkeypatch):
    """In the teacher's training, in the distillation, at its end, and in a second round after generating."""
    stops = {50, 95, 80 + 30, 80 + 30 + 24 + 24 + 17}
    monkeypatch.chdir(done.path.parent)  # for its cache
    recipe, run_dir = small(), RunDir(tmp_path / "run", CheckpointPolicy("11", 1))
    taken, take = [], Trainer._student_step

    def watched(self, bar):
        taken.append(self.step)
        if len(taken) in stops:
            signal.raise_signal(signal.SIGTERM)
        take(self, bar)

    monkeypatch.setattr(Trainer, "_student_step", watched)
    for stop in sorted(stops):
        with pytest.raises(Interrupted):
            recipe.run(run_dir, progress=False)
        assert len(taken) == stop
    rows = recipe.run(run_dir, progress=False)
    assert len(taken) == 80 + 30 + 5 * 24
    assert [row.seeds for row in rows] == [row.seeds for row in done.rows]
    assert differences(done.path, run_dir.path) == []


def test_affine_maps_of_real_images_take_the_place_of_the_diffusion_model(tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("a diffusion model was asked for")

    monkeypatch.setattr(ConfigDigits, "make_image_model", never)
    generator = dataclasses.replace(small().generator, kind="affine", steps=GENERATOR.steps)
    denoiser = get_recipe("config-digits").denoiser
    recipe = small(generator=generator, denoiser=denoiser, rounds=1, methods=("unguided", "config"))
    run = watched_run(tmp_path, recipe, monkeypatch)
    assert [row.method for row in run.rows[::2]] == ["teacher", "distillation", "unguided", "config"]
    kept = {method: run.trainings[method][0].generated for method in ("unguided", "config")}
    assert min(kept.values()) > 3  # of 18: digits that are hardly moved stay digits, and chance is one in ten
    stores = {method: ImageStore.open(run.path / method / f"seed-{SEED}" / "round-0") for method in kept}
    searched = stores["config"].candidates()
    assert sum(c.student_after - c.teacher_after for c in searched) < sum(
        c.student_before - c.teacher_before for c in searched
    )
    assert [c.teacher_before for c in searched] == [c.teacher_after for c in stores["unguided"].candidates()]


def test_networks_run_as_execution_says(tmp_path, monkeypatch):
    execution = ExecutionConfig(precision="bfloat16", channels_last=True, fold_teacher=True)
    recipe = small(execution=execution, rounds=1, methods=("config",))
    assert recipe.teacher_training().execution == recipe.student_training(3).execution == execution.build()
    rows = watched_run(tmp_path, recipe, monkeypatch).rows
    assert [row.method for row in rows[::2]] == ["teacher", "distillation", "config"]


def test_a_round_that_keeps_nothing_is_told(tmp_path, monkeypatch, capsys):
    generator = dataclasses.replace(small().generator, min_teacher_confidence=1.0)
    watched_run(tmp_path, small(generator=generator, rounds=1, methods=("config",)), monkeypatch)
    assert "config: none of the 18 candidates of round 0 was kept" in capsys.readouterr().err


def test_the_maker_makes_the_images_of_the_first_round_from_its_cache(done, tmp_path, monkeypatch):
    recipe, cache = small(), tmp_path / "cache"
    shutil.copytree(done.path.parent / "runs" / "cache", cache)  # the diffusion model, which all seeds share
    before = torch.get_num_threads()
    try:
        maker = recipe.resolved().maker(cache, False)
        made = maker.make(range(7))

        def never(*_, **__):
            raise AssertionError("something was trained again")

        monkeypatch.setattr(config_experiment, "Trainer", never)
        monkeypatch.setattr("hardfast.recipes.config_digits.train_denoiser", never)
        other = dataclasses.replace(recipe.generator, iterations=0)
        again = recipe.resolved().maker(cache, False).make(range(7))
        unguided = dataclasses.replace(recipe, generator=other, workers=2).resolved().maker(cache, False)
        assert unguided.make(range(7)).scores.shape == (1, 7)
    finally:
        torch.set_num_threads(before)
    assert len(list(cache.iterdir())) == 3
    assert torch.equal(made.images, again.images)
    candidates = ImageStore.open(done.path / "config" / f"seed-{SEED}" / "round-0").candidates()[:7]
    assert [c.seed for c in candidates] == [maker.seed_of(number) for number in range(7)]
    for name in ("teacher_before", "teacher_after", "student_before", "student_after"):
        expected = [getattr(candidate, name) for candidate in candidates]
        assert getattr(made, name).tolist() == pytest.approx(expected, abs=1e-4), name


def test_hardfast_generate_makes_images_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["generate", "config-digits", "--smoke", "--count", "6", "--generator.group-size", "4"]
    before = torch.get_num_threads()
    try:
        assert main(command) == 0
        first = capsys.readouterr().out
        path = tmp_path / "generated" / "config-digits"
        files = {file: file.read_bytes() for file in sorted((path / "records").iterdir())}
        (path / "records" / "group-000001.json").unlink()
        assert main(command) == 0
    finally:
        torch.set_num_threads(before)
    assert "6 candidates" in first
    assert "done before" not in first
    assert "done before" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in sorted((path / "records").iterdir())} == files
    assert len(ImageStore.open(path).candidates()) == 6
    assert len(list((tmp_path / "runs" / "cache").iterdir())) == 3


def test_smoke_is_small_and_runs_two_rounds():
    recipe = dataclasses.replace(get_recipe("config-digits"), smoke=True).resolved()
    assert recipe.resolved() == recipe
    assert recipe.workers == 1
    assert max(recipe.seeds, recipe.rounds) <= 2
    assert max(recipe.steps, recipe.round_steps, recipe.teacher.steps, recipe.denoiser.steps) <= 8
    long = dataclasses.replace(recipe.generator, steps=20, keep_last=10)
    assert dataclasses.replace(recipe, generator=long).resolved().generator.keep_last <= 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ("config", "hard")}, "methods must be among .*; got 'hard'"),
        ({"rounds": 0}, "rounds must be >= 1; got 0"),
        ({"round_steps": 0}, "round_steps must be >= 1; got 0"),
        ({"workers": 0}, "workers must be >= 1; got 0"),
        ({"steps": 0}, "steps must be >= 1"),
        ({"seeds": 0}, "seeds must be >= 1"),
        ({"temperature": -1.0}, "temperature"),
        ({"generator": {"count": 0}}, r"generator\.count must be >= 1; got 0"),
        ({"generator": {"group_size": 0}}, r"generator\.group_size must be >= 1; got 0"),
        ({"generator": {"steps": 0}}, r"generator\.steps must be >= 1; got 0"),
        ({"generator": {"iterations": -1}}, "iterations"),
        ({"generator": {"keep_last": 0}}, "keep_last"),
        ({"generator": {"keep_last": 6, "steps": 5}}, r"keep_last must be at most generator\.steps, 5; got 6"),
        ({"generator": {"strength": 0.0}}, r"generator\.strength must be in \(0, 1\]; got 0\.0"),
        ({"generator": {"other_class_strength": 1.5}}, r"other_class_strength must be in \(0, 1\]; got 1\.5"),
        ({"generator": {"memory": "none"}}, "memory must be one of .*'per_step'.*, got 'none'"),
        ({"generator": {"form": "sum"}}, "form must be one of"),
        ({"generator": {"gamma": 3.0, "form": "log"}}, r"generator\.gamma has no effect here"),
        ({"generator": {"steps": 1001}}, r"generator\.steps must be at most 1000; got 1001"),
        ({"first_seed": 536870}, "first_seed and the seeds after it must be below 536870"),
        ({"rounds": 1001}, "rounds must be at most 1000; got 1001"),
        ({"methods": ("other_class",), "denoiser": DenoiserConfig(), "generator": {"kind": "affine"}},
         "methods must be without 'other_class'"),
        ({"denoiser": DenoiserConfig(widths=(12, 16))}, r"denoiser\.widths must be a multiple of 8 and one of 16"),
        ({"denoiser": DenoiserConfig(learning_rate=0.0)}, r"denoiser\.learning_rate must be positive"),
        ({"student_widths": (8, 0, 8)}, "student_widths must be >= 1"),
        ({"generator": {"chunk": -1}}, "chunk"),
        ({"generator": {"smallest_cutout": 1.5}}, r"generator\.smallest_cutout must be in \(0, 1\]"),
        ({"generator": {"min_teacher_confidence": 1.5}}, "min_teacher_confidence"),
    ],
)  # fmt: skip
def test_bad_settings_raise_before_anything_is_done(tmp_path, change, message):
    change = {**change}
    if "generator" in change:
        change["generator"] = dataclasses.replace(GENERATOR, **change["generator"])
    with pytest.raises(ValueError, match=message):
        small(**change).run(RunDir(tmp_path), progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", TEACHERS)
def test_every_teacher_takes_digits_in_colour(name):
    recipe = ConfigDigits(teacher=DigitsTeacherConfig(model=name)).resolved()
    data = recipe.load()
    assert recipe.make_teacher(data, 3).eval()(data.train.load(torch.arange(2))).shape == (2, 10)


def test_a_teacher_of_other_images_is_refused():
    with pytest.raises(ValueError, match=r"teacher.model must be one of .*'shift_robust_cnn'.*; got 'vit_digits'"):
        ConfigDigits(teacher=DigitsTeacherConfig(model="vit_digits")).resolved()
