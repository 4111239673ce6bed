"""What the recipes of ConfiG on photographs share: a zero-shot CLIP, a timm student, and a latent diffusion model."""

# ruff: noqa: RUF009 - the defaults are frozen dataclasses, and so may be shared
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from hardfast.data.grouped_splits import GroupedSplits
from hardfast.data.groups import GroupedImages
from hardfast.data.image_files import ChosenImages, ImageFiles
from hardfast.diffusion.maker import ImageModel
from hardfast.diffusion.stable_diffusion import SCHEDULERS, load_stable_diffusion
from hardfast.models import create_timm_model, fill_templates, load_zero_shot_clip
from hardfast.models.networks import check_timm_network
from hardfast.ops import _checks
from hardfast.recipes.config_recipe import ConfigData, ConfigRecipe, GeneratorConfig
from hardfast.recipes.recipe import earlier_code, our_choice, seeded

if TYPE_CHECKING:
    from typing_extensions import Self

Dtype = Literal["float32", "float16", "bfloat16"]
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class PhotosConfig:
    """The data.

    Args:
        root: folder that holds it.
        images_of_each: images of every group and class that are used of each part; 0 for all.
        threads: that decode images at a time.
    """

    root: Path = our_choice(Path("data"))
    images_of_each: int = our_choice(0)
    threads: int = our_choice(8)


@dataclass(frozen=True)
class PhotosGeneratorConfig(GeneratorConfig):
    """How images are generated: Stable Diffusion 1.x or 2.x by DDIM, or a few-step model by Euler steps.

    Args:
        source: the diffusion model: a folder, or a repository in the hub's cache. For a few-step one, such as
            ``stabilityai/sd-turbo``, take the scheduler ``euler``, 4 steps and a guidance scale of 1.
        variant: of the files of its weights, such as ``fp16``.
        scheduler: ``ddim`` or ``euler``.
        dtype: that its networks compute in.
        attention: ``sdpa`` or ``xformers``; the model's own if None.
        prompt: for images of a class; ``{}`` is where its words go.
        image_size: side of the images in pixels.
    """

    of_diffusion: ClassVar[tuple[str, ...]] = (
        *GeneratorConfig.of_diffusion,
        "source",
        "variant",
        "scheduler",
        "dtype",
        "attention",
        "prompt",
    )

    source: str = our_choice("stable-diffusion-v1-5/stable-diffusion-v1-5")
    variant: str | None = our_choice(None)
    scheduler: Literal["ddim", "euler"] = earlier_code("ddim")
    dtype: Dtype = our_choice("bfloat16")
    attention: Literal["sdpa", "xformers"] | None = our_choice("sdpa")
    prompt: str = earlier_code("a photograph of a {}")
    image_size: int = earlier_code(512)
    count: int = our_choice(500)
    group_size: int = our_choice(4)
    chunk: int = our_choice(1)


@dataclass(frozen=True)
class ConfigPhotos(ConfigRecipe):
    """ConfiG on photographs; every model is loaded from this computer.

    Args:
        student: a model of timm.
        student_weights: ``hub`` for timm's published ones from the hub's cache, or a file of such; random if None.
        teacher_source: CLIP: a folder, or a repository in the hub's cache.
        teacher_prompts: for each class, averaged; ``{}`` is where its words go.
        teacher_dtype: that the teacher computes in.
        class_words: what the prompts call each class; the names of the data set if there are none.
        seen_size: side of the images that student and teacher see, in pixels.
        data: where the data is.
    """

    student: str = our_choice("resnet50.a1_in1k")
    student_weights: str | None = our_choice("hub")
    teacher_source: str = our_choice("openai/clip-vit-large-patch14")
    teacher_prompts: tuple[str, ...] = our_choice(("a photo of a {}.",))
    teacher_dtype: Dtype = our_choice("float32")
    class_words: tuple[str, ...] = our_choice(())
    seen_size: int = earlier_code(224)
    steps: int = our_choice(5000)
    round_steps: int = our_choice(5000)
    learning_rate: float = our_choice(1e-4)
    warmup_steps: int = our_choice(500)
    weight_decay: float = our_choice(0.01)
    data: PhotosConfig = our_choice(PhotosConfig())
    generator: PhotosGeneratorConfig = our_choice(PhotosGeneratorConfig())

    def load_splits(self) -> GroupedSplits:
        """Loads the parts of the data set; the images of each are files of side ``seen_size``.

        Raises:
            FileNotFoundError: files are missing; the message says where to get them.
        """
        raise NotImplementedError

    def load(self) -> ConfigData:
        splits = self.load_splits()
        files = splits.train.images
        assert isinstance(files, ImageFiles)
        sources = ImageFiles(files.paths, files.labels, self.generator.image_size, threads=self.data.threads)
        train, validation, test = (self._chosen(part) for part in (splits.train, splits.validation, splits.test))
        return ConfigData(
            ChosenImages(files, train),
            ChosenImages(splits.validation.images, validation),
            GroupedImages(ChosenImages(splits.test.images, test), splits.test.groups[test], splits.test.group_names),
            splits.class_names,
            self.generator.image_size,
            self.seen_size,
            sources=ChosenImages(sources, train),
        )

    def make_teacher(self, data: ConfigData, seed: int) -> nn.Module:
        prompts = fill_templates(self._words(data), self.teacher_prompts)
        return load_zero_shot_clip(self.teacher_source, prompts, dtype=_DTYPES[self.teacher_dtype])

    def make_student(self, data: ConfigData, seed: int) -> nn.Module:
        classes = len(data.class_names)
        return seeded(lambda: create_timm_model(self.student, classes, weights=self.student_weights), seed)

    def make_image_model(self, data: ConfigData, cache: Path, device: torch.device, progress: bool) -> ImageModel:
        generator = self.generator
        model = load_stable_diffusion(
            generator.source,
            steps=generator.steps,
            scheduler=generator.scheduler,
            dtype=_DTYPES[generator.dtype],
            variant=generator.variant,
            attention=generator.attention,
        ).to(device)
        return ImageModel(
            model.sampler(generator.guidance_scale, generator.memory),
            model.latent_shape(generator.image_size),
            model.embed_classes(self._words(data), generator.prompt),
            model.embed([""]),
            model.decode,
            model.encode,
        )

    def resolved(self) -> Self:
        recipe = super().resolved()
        generator = recipe.generator
        for name, size in (("seen_size", recipe.seen_size), ("generator.image_size", generator.image_size)):
            _checks.integer(name, size, 1)
        _checks.integer("data.images_of_each", recipe.data.images_of_each, 0)
        _checks.integer("data.threads", recipe.data.threads, 1)
        _checks.one_of("generator.scheduler", generator.scheduler, SCHEDULERS)
        check_timm_network("student", recipe.student)
        for name, prompts in (("teacher_prompts", recipe.teacher_prompts), ("generator.prompt", (generator.prompt,))):
            if not prompts or not all("{}" in prompt for prompt in prompts):
                raise ValueError(f"{name} must have {{}} where the words of the class go; got {prompts}")
        for name, dtype in (("teacher_dtype", recipe.teacher_dtype), ("generator.dtype", generator.dtype)):
            _checks.one_of(name, dtype, _DTYPES)
        return recipe

    def shrunk(self) -> Self:
        small = super().shrunk()
        generator = dataclasses.replace(
            small.generator,
            count=min(small.generator.count, 4),
            group_size=min(small.generator.group_size, 2),
            image_size=min(small.generator.image_size, 256),
        )
        data = dataclasses.replace(self.data, images_of_each=min(self.data.images_of_each or 2, 2))
        return dataclasses.replace(small, generator=generator, data=data)

    def _words(self, data: ConfigData) -> tuple[str, ...]:
        words = self.class_words or data.class_names
        if len(words) != len(data.class_names):
            raise ValueError(f"class_words must be one for each of {list(data.class_names)}, got {list(words)}")
        return words

    def _chosen(self, part: GroupedImages) -> Tensor:
        """Numbers of the images that are used: the first ones of every group and class."""
        count = self.data.images_of_each
        if not count:
            return torch.arange(len(part))
        kinds = torch.stack([part.groups, part.images.labels], 1).unique(dim=0, return_inverse=True)[1]
        first = [(kinds == kind).nonzero()[:count, 0] for kind in range(int(kinds.max()) + 1)]
        return torch.cat(first).sort().values
