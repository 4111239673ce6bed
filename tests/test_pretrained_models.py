"""The zero-shot teacher and students of timm: what they compute, and weights that are found or missing."""

from __future__ import annotations

import shutil

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_models import move_to_hub_cache, write_clip
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTokenizer

from hardfast.models import Normalised, create_network, create_timm_model, fill_templates, load_zero_shot_clip
from hardfast.models.networks import create_timm_network

PROMPTS = (("a cat.", "photo, cat."), ("a dog.",), ("bird", "a bird", "birds"))
STUDENT = "test_resnet"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "clip"
    return folder, write_clip(folder)


def test_logits_are_clips_own(clip):
    folder, model = clip
    images = torch.rand(3, 3, 16, 16)
    pixels = (images - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / torch.tensor([0.3, 0.2, 0.25])[:, None, None]
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    columns = []
    for of_class in PROMPTS:
        # One prompt at a time, so that nothing is padded.
        embeddings = []
        for prompt in of_class:
            output = model(**tokenizer([prompt], return_tensors="pt"), pixel_values=pixels)
            embeddings.append(output.text_embeds[0])
        mean = torch.stack(embeddings).mean(0)
        columns.append(model.logit_scale.exp() * output.image_embeds @ (mean / mean.norm()))
    logits = load_zero_shot_clip(folder, PROMPTS)(images)
    torch.testing.assert_close(logits, torch.stack(columns, 1), atol=1e-4, rtol=1e-4)
    assert logits.std() > 0.1


@pytest.mark.parametrize("size", [16, 40])
def test_gradients_reach_the_images(clip, size):
    teacher = load_zero_shot_clip(clip[0], PROMPTS)
    assert teacher.train().training is False
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    images = F.interpolate(torch.rand(2, 3, 5, 5), size=(size, size), mode="bilinear").requires_grad_()
    grad = torch.autograd.grad(teacher(images)[:, 1].sum(), images)[0]
    step = 3e-3 * torch.randn_like(images)
    with torch.no_grad():
        change = (teacher(images + step)[:, 1].sum() - teacher(images - step)[:, 1].sum()) / 2
    assert float(change) == pytest.approx(float((grad * step).sum()), rel=0.02)


def test_larger_images_are_seen_as_a_whole(clip):
    teacher = load_zero_shot_clip(clip[0], PROMPTS)
    small = F.interpolate(torch.rand(2, 3, 2, 2), size=(16, 16), mode="bilinear")
    large = F.interpolate(small, size=(48, 48), mode="bilinear")
    torch.testing.assert_close(teacher(large), teacher(small), atol=0.3, rtol=0)
    with pytest.raises(ValueError, match=r"images must have shape \[B, 3, S, S\]"):
        teacher(torch.rand(1, 3, 16, 20))


def test_half_precision_gives_float32_logits(clip):
    half, exact = (load_zero_shot_clip(clip[0], PROMPTS, dtype=dtype) for dtype in (torch.bfloat16, torch.float32))
    images = torch.rand(2, 3, 16, 16)
    assert half.model.dtype == torch.bfloat16
    assert half(images).dtype == torch.float32
    torch.testing.assert_close(half(images), exact(images), atol=0.5, rtol=0)


def test_prompts_are_checked(clip):
    assert fill_templates(["cat", "dog"], ["a {}.", "the {}"]) == (("a cat.", "the cat"), ("a dog.", "the dog"))
    with pytest.raises(ValueError, match="templates must have"):
        fill_templates(["cat"], ["a photo"])
    with pytest.raises(ValueError, match="at most 40 tokens, got 41"):
        load_zero_shot_clip(clip[0], [["x" * 39], ["a"]])
    with pytest.raises(ValueError, match="at least one for each class"):
        load_zero_shot_clip(clip[0], [["a"], []])
    with pytest.raises(TypeError, match="a sequence of strings for each class"):
        load_zero_shot_clip(clip[0], ["a cat", "a dog"])


@pytest.mark.parametrize("part", ["model.safetensors", "config.json", "vocab.json", "merges.txt"])
def test_a_missing_file_of_clip_is_named(clip, tmp_path, part):
    shutil.copytree(clip[0], tmp_path / "clip")
    (tmp_path / "clip" / part).unlink()
    with pytest.raises(FileNotFoundError, match=rf"clip has no .*{part.replace('model.', '')}"):
        load_zero_shot_clip(tmp_path / "clip", PROMPTS)


def test_clip_is_found_in_the_hubs_cache(tmp_path, monkeypatch):
    write_clip(tmp_path / "clip")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match=r"(?s)CLIP model 'someone/clip' .*hf download someone/clip"):
        load_zero_shot_clip("someone/clip", PROMPTS)
    move_to_hub_cache(tmp_path / "clip", tmp_path / "cache", "someone/clip")
    assert load_zero_shot_clip("someone/clip", PROMPTS)(torch.rand(1, 3, 16, 16)).shape == (1, 3)


def test_normalisation_is_inside():
    inner = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    images = torch.rand(5, 3, 2, 2)
    mean, std = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    wanted = inner((images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])
    torch.testing.assert_close(Normalised(inner, mean, std)(images), wanted)
    assert set(Normalised(inner, mean, std).state_dict()) == {"model.1.weight", "model.1.bias"}
    for bad in ((0.1, 0.2), ()), ((0.1,), (0.0,)), ((), ()):
        with pytest.raises(ValueError, match="mean and std must be as many"):
            Normalised(inner, *bad)


def test_students_are_timms_with_their_normalisation():
    student = create_timm_model(STUDENT, 7)
    config = timm.data.resolve_model_data_config(student.model)
    torch.testing.assert_close(student.mean.flatten(), torch.tensor(config["mean"]))
    images = torch.rand(2, 3, 64, 64)
    student.eval()
    normalised = (images - student.mean) / student.std
    torch.testing.assert_close(student(images), student.model(normalised))
    assert student(images).shape == (2, 7)


def test_published_weights_come_from_a_file_or_the_hubs_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(3)
    original = timm.create_model(STUDENT)
    folder = tmp_path / "published"
    folder.mkdir()
    file = folder / "model.safetensors"
    save_file(original.state_dict(), file)
    repository = timm.models.get_pretrained_cfg(STUDENT).hf_hub_id
    with pytest.raises(FileNotFoundError, match=rf"hf download {repository}"):
        create_timm_model(STUDENT, 1000, weights="hub")
    images = torch.rand(1, 3, 32, 32)
    from_file = create_timm_model(STUDENT, 1000, weights=file).model.eval()
    torch.testing.assert_close(from_file(images), original.eval()(images))
    move_to_hub_cache(folder, tmp_path / "cache", repository)
    other_classes = create_timm_model(STUDENT, 4, weights="hub").model.eval()
    torch.testing.assert_close(other_classes.forward_features(images), original.forward_features(images))
    assert other_classes(images).shape == (1, 4)


def test_students_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(ValueError, match="name must be a model of timm"):
        create_timm_model("resnet1000", 2)
    with pytest.raises(ValueError, match="num_classes must be >= 1"):
        create_timm_model(STUDENT, 0)
    with pytest.raises(FileNotFoundError, match=r"weights file .*no\.pth of test_resnet is missing"):
        create_timm_model(STUDENT, 2, weights=tmp_path / "no.pth")


def test_names_that_this_library_has_too_are_timms_where_that_is_asked_for():
    own = create_network("resnet18", (3, 32, 32), 5)
    theirs = create_timm_network("resnet18", (3, 32, 32), 5)
    assert not isinstance(own, Normalised)
    assert isinstance(theirs, Normalised)
    assert {f"model.{key}" for key in own.state_dict()} == set(theirs.state_dict())


@pytest.mark.parametrize(("name", "shape"), [("test_vit", (3, 32, 32)), ("test_resnet", (1, 28, 28))])
def test_networks_of_timm_are_made_for_the_images(name, shape):
    network = create_network(name, shape, 7).eval()
    images = torch.rand(2, *shape)
    assert network(images).shape == (2, 7)
    assert network.mean.shape == (shape[0], 1, 1)
    if shape[0] == 1:
        colours = timm.data.resolve_model_data_config(timm.create_model(name))["mean"]
        assert float(network.mean) == pytest.approx(sum(colours) / 3)


def test_weights_of_a_run_and_published_ones_come_from_files(tmp_path):
    torch.manual_seed(1)
    images = torch.rand(2, 3, 32, 32)
    of_run, published, own = (tmp_path / f"{name}.safetensors" for name in ("of_run", "published", "own"))
    trained = create_network(STUDENT, (3, 32, 32), 6).eval()
    save_file(trained.state_dict(), of_run)
    save_file(trained.model.state_dict(), published)
    # timm publishes it for 1,000 classes; the last layer is that of the file nevertheless.
    for file in (of_run, published):
        torch.testing.assert_close(
            create_network(STUDENT, (3, 32, 32), 6, weights=file).eval()(images), trained(images)
        )
        with pytest.raises(ValueError, match=rf"{file}"):
            create_network(STUDENT, (3, 32, 32), 9, weights=file)
    assert create_network(STUDENT, (3, 32, 32), 9, weights=published, new_head=True)(images).shape == (2, 9)
    mlp = create_network("mlp", (3, 32, 32), 6)
    save_file(mlp.state_dict(), own)
    torch.testing.assert_close(create_network("mlp", (3, 32, 32), 6, weights=str(own))(images), mlp(images))


def test_weights_that_are_no_such_networks_are_refused(tmp_path):
    file = tmp_path / "other.safetensors"
    save_file(create_network("mlp", (3, 32, 32), 1000).state_dict(), file)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(file.read_bytes()[:100])
    pickled = tmp_path / "damaged.pth"
    pickled.write_bytes(b"weights")
    for weights in (file, damaged, pickled):
        with pytest.raises(ValueError, match=f"{weights} must hold the .*weights of"):
            create_network(STUDENT, (3, 32, 32), 1000, weights=weights)
    for weights in (file, damaged):
        with pytest.raises(ValueError, match=f"{weights} must hold the weights of the network"):
            create_network("cnn", (3, 32, 32), 10, weights=weights)
    with pytest.raises(FileNotFoundError, match=r"no\.safetensors is missing"):
        create_network("cnn", (3, 32, 32), 10, weights=tmp_path / "no.safetensors")
    with pytest.raises(ValueError, match=r"weights of 'resnet18' must be a file.*'resnet50\.a1_in1k'; got 'hub'"):
        create_network("resnet18", (3, 32, 32), 10, weights="hub")
    with pytest.raises(ValueError, match=r"name must be one of .*got 'resnet50\.a9'"):
        create_network("resnet50.a9", (3, 32, 32), 10)
    with pytest.raises(ValueError, match=r"name must be a model of timm.*got 'resnet50\.a9'"):
        create_timm_network("resnet50.a9", (3, 32, 32), 10)
