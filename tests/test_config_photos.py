"""ConfiG's recipes on photographs, end to end on generated files and randomly initialised tiny models."""

import dataclasses
import json

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from photo_files import write_celeba, write_image, write_spuco_birds, write_spurious_imagenet
from safetensors.torch import load_file
from tiny_models import write_clip, write_stable_diffusion

from hardfast import cli
from hardfast.data import load_spurious_imagenet
from hardfast.diffusion.image_store import ImageStore, load_generated
from hardfast.distill.run_dir import RunDir
from hardfast.distill.spurious import class_probabilities, spurious_scores
from hardfast.models import ZeroShotCLIP
from hardfast.recipes import get_recipe
from hardfast.recipes.config_photos import PhotosGeneratorConfig

PEOPLE = [(part, blond, male) for part in (0, 0, 0, 1, 2, 2) for blond in (0, 1) for male in (0, 1)]
WNIDS = {1: "n01443537", 700: "n03887697"}
SMALL = {"threads": 1, "device": "cpu", "seeds": 1, "steps": 3, "round_steps": 2, "batch_size": 4, "warmup_steps": 0}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_clip(folder / "clip", length=128)
    write_stable_diffusion(folder / "diffusion", length=128)
    euler = EulerDiscreteScheduler(timestep_spacing="trailing", steps_offset=1)
    write_stable_diffusion(folder / "few_step", scheduler=euler)
    return folder


#: Where affine maps take the place of the diffusion model, which nobody has then.
AFFINE = {"kind": "affine"} | {
    name: getattr(PhotosGeneratorConfig, name) for name in ("source", "dtype", "steps", "keep_last")
}


def tiny(name, root, models, generator=None, **changes):
    """A recipe whose images are 32 pixels wide, of which the classifiers see 16."""
    recipe = get_recipe(name)
    data = {"root": root, "threads": 1}
    if name == "config-spurious-imagenet":
        data |= {"root": root / "spurious_imagenet", "imagenet_root": root / "imagenet", "resize": 18}
        data |= {"validation_per_class": 1}
    made = {
        "source": str(models / "diffusion"),
        "dtype": "float32",
        "image_size": 32,
        "count": 4,
        "group_size": 2,
        "steps": 3,
        "iterations": 2,
        "keep_last": 2,
        "cutouts": 2,
        "min_teacher_confidence": 0.0,
    }
    return dataclasses.replace(
        recipe,
        **SMALL
        | {"student": "test_resnet", "student_weights": None, "teacher_source": str(models / "clip"), "seen_size": 16},
        data=dataclasses.replace(recipe.data, **data),
        generator=dataclasses.replace(recipe.generator, **made | (generator or {})),
        **changes,
    )


def run(recipe, path, monkeypatch):
    monkeypatch.chdir(path)
    rows = recipe.run(RunDir(path / "run"), progress=False)
    return {(row.method, row.split, row.metric): row for row in rows}


def candidates(path, method, number=0):
    return ImageStore.open(path / "run" / method / "seed-0" / f"round-{number}").counts()


def test_celeba_runs_to_the_end(tmp_path, models, monkeypatch):
    write_celeba(tmp_path, PEOPLE)
    methods = ("cutmix", "image_to_image", "other_class", "config")
    rows = run(tiny("config-celeba", tmp_path, models, methods=methods), tmp_path, monkeypatch)
    measured = {(method, metric) for (method, _, metric), row in rows.items() if row.seeds}
    metrics = ("worst_group_accuracy", "mean_group_accuracy")
    assert measured == {(method, metric) for method in ("teacher", "distillation", *methods) for metric in metrics}
    assert all(split == "test" for _, split, _ in rows)
    for method, value in {"teacher": 0.667, "distillation": 0.152, "cutmix": 0.389, "config": 0.661}.items():
        row = rows[method, "test", "worst_group_accuracy"]
        assert row.published == pytest.approx(value)
        assert "Table 1" in row.source
    assert rows["other_class", "test", "worst_group_accuracy"].published is None
    kept = 0
    for method in methods[1:]:
        counts = candidates(tmp_path, method)
        assert sum(counts.values()) == 4
        kept += counts["kept"]
    assert kept > 0
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["fields"]["generator.prompt"] == {"value": "a photograph of a {}", "provenance": "earlier code"}


def test_generated_images_keep_their_size_on_disk_and_are_learned_from_at_the_size_that_is_seen(
    tmp_path, models, monkeypatch
):
    seen = []
    original = torch.nn.Module.__call__

    def spy(module, *args, **kwargs):
        if isinstance(module, ZeroShotCLIP):
            seen.append(args[0].shape[-1])
        return original(module, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__call__", spy)
    write_celeba(tmp_path, PEOPLE)
    run(tiny("config-celeba", tmp_path, models, methods=("unguided",)), tmp_path, monkeypatch)
    assert set(seen) == {16}
    assert load_generated(tmp_path / "run" / "unguided" / "seed-0" / "round-0").images.images.shape[1:] == (3, 32, 32)


def test_spuco_birds_run_with_a_few_step_model_in_half_precision_and_shrunk(tmp_path, models, monkeypatch):
    write_spuco_birds(tmp_path, (5, 3), (3, 3))
    few_step = {
        "source": str(models / "few_step"),
        "scheduler": "euler",
        "steps": 4,
        "guidance_scale": 1.0,
        "dtype": "bfloat16",
    }
    recipe = tiny(
        "config-spuco-birds",
        tmp_path,
        models,
        generator=few_step,
        methods=("config",),
        rounds=2,
        teacher_dtype="bfloat16",
        smoke=True,
    )
    data = recipe.resolved().load()
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.test.groups.bincount().tolist() == [2, 2, 2, 2]
    rows = run(recipe, tmp_path, monkeypatch)
    assert {method for method, _, _ in rows} == {"teacher", "distillation", "config"}
    assert [sum(candidates(tmp_path, "config", number).values()) for number in range(2)] == [4, 4]


def test_spurious_imagenet_runs_to_the_end_and_scores_as_published(tmp_path, models, monkeypatch):
    write_spurious_imagenet(tmp_path, WNIDS, 4, 3, 4)
    # A class without spurious images: none is generated of it.
    for i in range(4):
        write_image(tmp_path / "imagenet" / "train" / "n01440764" / f"{i}.JPEG", 40, 20, 17)
    recipe = tiny("config-spurious-imagenet", tmp_path, models, methods=("config",))
    rows = run(recipe, tmp_path, monkeypatch)
    metrics = {"spurious_mean_average_precision", "spurious_mean_roc_auc", "accuracy"}
    assert {metric for _, _, metric in rows} == metrics
    assert {method for method, _, _ in rows} == {"teacher", "distillation", "config"}

    data = recipe.load()
    assert data.labels == (1, 700)
    store = ImageStore.open(tmp_path / "run" / "config" / "seed-0" / "round-0")
    assert [candidate.label for candidate in store.candidates()] == [1, 700, 1, 700]
    assert len(data.class_names) == 1000
    student = recipe.make_student(data, 0)
    student.load_state_dict(load_file(tmp_path / "run" / "config" / "seed-0" / "last.safetensors"))
    roots = (tmp_path / "spurious_imagenet", tmp_path / "imagenet")
    test = load_spurious_imagenet(*roots, 16, resize=18, validation_per_class=1).test
    scores = spurious_scores(class_probabilities(student, test), test.images.labels, test.groups == 1)
    got = {metric: rows["config", "test", metric].seeds[0] for metric in metrics}
    assert got["spurious_mean_average_precision"] == pytest.approx(scores.mean_average_precision)
    assert got["spurious_mean_roc_auc"] == pytest.approx(scores.mean_roc_auc)
    with torch.no_grad():
        shown = test.groups == 0
        answers = student.eval()(test.images.load(shown.nonzero()[:, 0])).argmax(1)
    assert got["accuracy"] == pytest.approx((answers == test.images.labels[shown]).double().mean().item())


def test_the_maker_takes_the_distilled_student_from_the_cache(tmp_path, models, monkeypatch):
    write_celeba(tmp_path, PEOPLE)
    recipe = tiny("config-celeba", tmp_path, models).resolved()
    first = recipe.maker(tmp_path / "cache", False)
    made = first.make([0, 1])
    assert made.labels.tolist() == [0, 1]
    assert made.images.shape == (2, 3, 32, 32)
    assert made.scores.shape == (3, 2)
    assert bool(made.valid.all())
    assert not torch.equal(made.images, made.images_before)

    other = dataclasses.replace(recipe, generator=dataclasses.replace(recipe.generator, prompt="a drawing of a {}"))
    second = other.maker(tmp_path / "cache", False)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    for name, value in first.student.state_dict().items():
        assert torch.equal(value, second.student.state_dict()[name])
    assert not torch.equal(first.model.conditions, second.model.conditions)


def test_affine_maps_of_real_images_can_be_searched_instead(tmp_path, models, monkeypatch):
    write_celeba(tmp_path, PEOPLE)
    recipe = tiny("config-celeba", tmp_path, tmp_path, generator=AFFINE, methods=("config",))
    recipe = dataclasses.replace(recipe, teacher_source=str(models / "clip"))
    assert ("config", "test", "worst_group_accuracy") in run(recipe, tmp_path, monkeypatch)


@pytest.mark.parametrize("command", ["train", "generate"])
@pytest.mark.parametrize("missing", ["data", "clip", "diffusion"])
def test_what_is_missing_is_said_in_one_line_and_nothing_is_left(
    tmp_path, models, monkeypatch, capsys, command, missing
):
    monkeypatch.chdir(tmp_path)
    if missing != "data":
        write_celeba(tmp_path / "data", PEOPLE)
    sources = {name: models / ("none" if name == missing else name) for name in ("clip", "diffusion")}
    arguments = ["--student", "test_resnet", "--student-weights", "None", "--seen-size", "16", "--steps", "1"]
    arguments += ["--generator.source", str(sources["diffusion"]), "--teacher-source", str(sources["clip"])]
    arguments += ["--generator.image-size", "32", "--device", "cpu", "--threads", "1", "--out", "out"]
    arguments += ["--count", "2"] if command == "generate" else []
    assert cli.main([command, "config-celeba", *arguments]) == 1
    # Progress of loading may stand before it.
    told = capsys.readouterr().err.partition("hardfast: ")[2].strip()
    assert len(told.splitlines()) == 1
    wanted = {"data": "mmlab.ie.cuhk.edu.hk", "clip": "CLIP model", "diffusion": "Stable Diffusion model"}
    assert wanted[missing] in told
    assert not (tmp_path / "out").exists()


def test_bad_values_are_refused_before_anything_is_loaded(tmp_path, models):
    def refused(match, generator=None, **changes):
        with pytest.raises(ValueError, match=match):
            tiny("config-celeba", tmp_path, models, generator, **changes).resolved()

    refused(r"teacher_dtype must be one of .*'float8'", teacher_dtype="float8")
    refused(r"generator\.dtype must be one of", {"dtype": "int8"})
    refused(r"generator\.scheduler must be one of", {"scheduler": "ddpm"})
    refused(r"generator\.keep_last must be at most generator\.steps, 3; got 4", {"keep_last": 4})
    refused(r"generator\.image_size must be an integer of at least 1", {"image_size": 0})
    refused(r"generator\.prompt must have \{\} where the words of the class go", {"prompt": "a photograph"})
    refused(r"teacher_prompts must have \{\}", teacher_prompts=())
    with pytest.raises(ValueError, match="student must be a model of timm"):
        dataclasses.replace(get_recipe("config-celeba"), student="resnet_of_nobody").resolved()


def test_class_words_must_be_as_many_as_classes(tmp_path, models):
    write_celeba(tmp_path, PEOPLE)
    recipe = tiny("config-celeba", tmp_path, models, class_words=("hair",))
    with pytest.raises(ValueError, match=r"class_words must be one for each of \['not blond', 'blond'\]"):
        recipe.make_teacher(recipe.load(), 0)


def test_the_search_starts_from_real_images_of_the_generators_size(tmp_path, models):
    write_celeba(tmp_path, PEOPLE)
    data = tiny("config-celeba", tmp_path, models).load()
    index = torch.arange(len(data.train))
    assert data.sources.load(index).shape[2:] == (32, 32)
    assert data.train.load(index).shape[2:] == (16, 16)
    # Every photograph is of one grey.
    assert torch.equal(data.sources.load(index)[:, :, 9, 9], data.train.load(index)[:, :, 3, 3])
    assert torch.equal(data.sources.labels, data.train.labels)
