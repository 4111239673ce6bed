"""The recipes of CIFAR-10 and ImageNet, from the command line on small files in the published formats."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from checkpoints import last_state
from cifar_files import write_cifar10, write_cifar10_c
from photo_files import write_image
from safetensors.torch import load_file, save_file

from hardfast.augment.baselines import make_baseline
from hardfast.cli import main
from hardfast.distill import accuracy
from hardfast.distill.evaluation_rows import read_rows
from hardfast.models import create_network
from hardfast.recipes import RECIPES, get_recipe
from hardfast.recipes.hard_augmentor import AugmentorConfig
from hardfast.recipes.hard_cifar10 import Cifar10Config
from hardfast.recipes.hard_photos import HardPhotos
from hardfast.recipes.hard_recipe import FIXED, METHODS

PHOTOS = [name for name, recipe in RECIPES.items() if isinstance(recipe, HardPhotos)]
#: Some classes of ImageNet, by label.
WNIDS = {6: "n01498041", 11: "n01531178", 94: "n01833805"}
#: Without those of torchvision, which run image by image.
FEW = ["--methods", "student", "distillation", "crop_flip", "random_augmentor", "hard"]


def write_imagenet(root: Path, train: int = 4, tested: int = 2) -> None:
    for label, wnid in WNIDS.items():
        for part, count in (("train", train), ("val", tested)):
            for number in range(count):
                write_image(root / part / wnid / f"{wnid}_{number}.JPEG", (label + 40 * number) % 256, 40, 37)


def train(name: str, out: Path, *options: str) -> dict[str, list[float]]:
    """Runs a recipe as the command line does, and gives the accuracy of each method."""
    assert main(["train", name, "--smoke", "--device", "cpu", "--out", str(out), *options]) == 0
    assert (out / "report.html").is_file()
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert {row["split"] for row in rows} == {"test"}
    return {row["method"]: row["seeds"] for row in rows}


def failed(capsys, *arguments: str) -> str:
    assert main([*arguments]) == 1
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def cifar_run(tmp_path_factory) -> Path:
    """All methods on the binary version of CIFAR-10, with its shifted test sets beside it."""
    path = tmp_path_factory.mktemp("cifar")
    write_cifar10(path / "data", binary=True)
    write_cifar10_c(path / "data" / "CIFAR-10-C", ("fog", "gaussian_noise"))
    np.save(path / "data" / "cifar10.1_v6_data.npy", np.arange(6 * 3072, dtype=np.uint8).reshape(6, 32, 32, 3))
    np.save(path / "data" / "cifar10.1_v6_labels.npy", np.arange(6, dtype=np.uint8))
    networks = ["--student", "mlp", "--teacher.model", "test_resnet"]
    accuracies = train("hard-cifar10-resnet18", path / "run", "--data.root", str(path / "data"), *networks)
    assert list(accuracies) == ["teacher", *METHODS]
    return path


def test_every_method_takes_as_many_steps_and_its_average_is_tested(cifar_run):
    states = [last_state(cifar_run / "run" / name / "seed-0") for name in METHODS]
    assert {state["step"] for state in states} == {4}
    rows = json.loads((cifar_run / "run" / "results.json").read_text())["rows"]
    recipe = get_recipe("hard-cifar10-resnet18")
    data = dataclasses.replace(recipe, smoke=True, data=Cifar10Config(cifar_run / "data")).load()
    assert data.train.images.shape == (16, 3, 32, 32)
    student = create_network("mlp", (3, 32, 32), 10, weights=cifar_run / "run" / "hard" / "seed-0" / "ema.safetensors")
    (tested,) = (row["seeds"] for row in rows if row["method"] == "hard")
    assert tested == [accuracy(student, data.test, data.test.labels)]


def test_a_run_is_evaluated_on_the_shifted_sets_of_cifar10(cifar_run, capsys):
    assert main(["eval", str(cifar_run / "run"), "--sets", "test", "cifar10.1", "cifar10-c", "--device", "cpu"]) == 0
    assert "cifar10-c: mean of 2 of the 15 corruptions" in capsys.readouterr().out
    rows = read_rows(cifar_run / "run")
    assert {row.set: row.images for row in rows} == {"test": 4, "cifar10.1": 6, "cifar10-c": 3}
    # The weights that the training tested, on the images that it tested them on.
    assert {row.weights for row in rows if row.method != "teacher"} == {"ema"}
    results = json.loads((cifar_run / "run" / "results.json").read_text())["rows"]
    own = {row.method: row.seeds for row in rows if (row.set, row.metric) == ("test", "accuracy")}
    assert own == {row["method"]: row["seeds"] for row in results}
    assert {row.severity for row in rows if row.corruption == "fog"} == {1, 2, 3, 4, 5}


def test_a_vision_transformer_on_the_python_version_with_a_teacher_from_a_file(cifar_run, tmp_path):
    write_cifar10(tmp_path / "cifar-10-batches-py", binary=False)
    weights = cifar_run / "run" / "teacher" / "seed-0" / "last.safetensors"
    options = ["--teacher.model", "test_resnet", "--teacher.weights", str(weights), "--student", "test_vit"]
    options += ["--augmentor.family", "latent", "--augmentor.autoencoder-steps", "1"]
    accuracies = train("hard-cifar10-vit", tmp_path / "run", "--data.root", str(tmp_path), *options, *FEW)
    assert set(accuracies) == {"teacher", *FEW[1:]}
    kept = load_file(tmp_path / "run" / "teacher" / "seed-0" / "last.safetensors")
    assert all(torch.equal(kept[key], value) for key, value in load_file(weights).items())


@pytest.mark.parametrize(
    ("name", "student"), [("hard-imagenet-resnet18", "test_resnet"), ("hard-imagenet-vit", "test_vit")]
)
def test_imagenet_with_the_published_weights_of_timm(tmp_path, name, student):
    write_imagenet(tmp_path / "data" / "imagenet")
    torch.manual_seed(0)
    published = timm.create_model("test_resnet")
    save_file(published.state_dict(), tmp_path / "published.safetensors")
    # The transformer is made for images of another size.
    options = ["--teacher.model", "test_resnet", "--teacher.weights", str(tmp_path / "published.safetensors")]
    options += ["--student", student, "--image-size", "32", "--data.root", str(tmp_path / "data" / "imagenet")]
    accuracies = train(name, tmp_path / "run", *options, *FEW)
    assert set(accuracies) == {"teacher", *FEW[1:]}
    kept = load_file(tmp_path / "run" / "teacher" / "seed-0" / "last.safetensors")
    assert all(torch.equal(kept[f"model.{key}"], value) for key, value in published.state_dict().items())
    with np.load(tmp_path / "run" / "hard" / "seed-0" / "snapshots.npz") as snapshots:
        assert snapshots["clean"].shape == (9, 3, 32, 32)
    if name == "hard-imagenet-vit":
        return
    for wnid in list(WNIDS.values())[:2]:
        write_image(tmp_path / "data" / "imagenet-a" / wnid / "0.jpg", 9)
        for severity in range(1, 6):
            write_image(tmp_path / "data" / "imagenet-c" / "fog" / str(severity) / wnid / "0.JPEG", 20 * severity)
    assert main(["eval", str(tmp_path / "run"), "--sets", "imagenet-a", "imagenet-c", "--device", "cpu"]) == 0
    rows = read_rows(tmp_path / "run")
    assert {(row.set, row.images, row.classes) for row in rows} == {("imagenet-a", 2, 2), ("imagenet-c", 2, 2)}


@pytest.mark.parametrize("name", PHOTOS)
def test_missing_data_are_named_before_anything_is_trained(tmp_path, capsys, name):
    options = ["--data.root", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]
    error = failed(capsys, "train", name, "--device", "cpu", *options)
    assert str(tmp_path / "nowhere") in error
    assert ("cs.toronto.edu" if "cifar" in name else "image-net.org") in error
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--teacher.weights", "absent.safetensors", "absent.safetensors"),
        ("--student-weights", "absent.pth", "absent.pth"),
        ("--augmentor.source", "absent.th", "absent.th"),
    ],
)
def test_missing_weights_are_named_before_anything_is_trained(tmp_path, capsys, option, value, message):
    write_cifar10(tmp_path, binary=True)
    options = ["--data.root", str(tmp_path), "--out", str(tmp_path / "run"), "--augmentor.family", "vdvae"]
    options += ["--student", "test_vit", "--teacher.model", "cnn", option, value]
    options += [] if option == "--augmentor.source" else ["--augmentor.source", "also-absent.th"]
    error = failed(capsys, "train", "hard-cifar10-vit", "--smoke", "--device", "cpu", *options)
    assert message in error
    assert not (tmp_path / "run" / "config.json").exists()


def test_the_hub_is_named_where_imagenets_teacher_is_to_be_had(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    write_imagenet(tmp_path / "imagenet")
    options = ["--data.root", str(tmp_path / "imagenet"), "--out", str(tmp_path / "run")]
    error = failed(capsys, "train", "hard-imagenet-vit", "--smoke", "--device", "cpu", *options)
    assert "hf download timm/resnet50.a1_in1k" in error
    assert not (tmp_path / "run" / "config.json").exists()


def test_what_is_known_and_what_is_our_choice():
    for name in PHOTOS:
        recipe = get_recipe(name)
        fields = recipe.describe()["fields"]
        theirs = {field for field, entry in fields.items() if entry["provenance"] == "earlier code"}
        assert theirs >= {"augmentor.family", "augmentor.initial_scale", "divergence"}
        assert not theirs & {"student", "teacher.model", "steps", "batch_size", "learning_rate", "alternation.kind"}
        assert recipe.published == ()
        assert set(recipe.methods) == set(METHODS)
        assert recipe.flip
        training = recipe.student_training("hard")
        assert (training.execution.compile, training.execution.precision) == (True, "bfloat16")
    assert not get_recipe("hard-imagenet-vit").student_training("hard").cache_teacher
    assert get_recipe("hard-imagenet-vit").policy == "imagenet"


@pytest.mark.parametrize("name", FIXED)
def test_augmentations_that_run_image_by_image_are_not_compiled(name):
    augmentor = make_baseline(name)
    compiled = get_recipe("hard-cifar10-vit").execution.build().augmentor(augmentor)
    by_image = name in ("rand_augment", "auto_augment", "trivial_augment", "augmix")
    assert (compiled is augmentor) == by_image


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("hard-imagenet-vit", {"student": "vit_cifar"}, r"student must be a model of timm .*got 'vit_cifar'"),
        ("hard-imagenet-vit", {"image_size": 0}, "image_size"),
        ("hard-imagenet-vit", {"augmentor": AugmentorConfig("latent")}, r"augmentor\.source must be given"),
        (
            "hard-imagenet-vit",
            {"augmentor": AugmentorConfig("vdvae", source="a.th", vdvae="imagenet64")},
            r"of images \[3, 224, 224\]; got 'imagenet64', which is for \[3, 64, 64\]",
        ),
        ("hard-cifar10-vit", {"augmentor": AugmentorConfig("vdvae")}, r"augmentor\.source must be given .*28 px"),
        ("hard-cifar10-vit", {"student": "vit_cifra"}, "student must be one of"),
    ],
)
def test_what_cannot_be_run_is_refused(name, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(get_recipe(name), **change).resolved()
