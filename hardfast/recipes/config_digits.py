"""``config-digits``: ConfiG on scikit-learn's digits with coloured backgrounds, minutes on two cores, no download."""

# ruff: noqa: RUF009 - the defaults are frozen dataclasses, and so may be shared
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from hardfast.data.coloured_digits import DIGIT_NAMES, IMAGE_PX, load_coloured_digits
from hardfast.data.splits import LabelledImages
from hardfast.diffusion.denoisers import ClassUNetDenoiser
from hardfast.diffusion.maker import ImageModel
from hardfast.diffusion.sampling import Sampler
from hardfast.diffusion.schedule import Schedule
from hardfast.diffusion.training import train_denoiser
from hardfast.distill.trainer import TrainerConfig
from hardfast.models import CNN, create_model
from hardfast.ops import _checks
from hardfast.recipes.cache import cached
from hardfast.recipes.config_recipe import ConfigData, ConfigRecipe, GeneratorConfig
from hardfast.recipes.recipe import TeacherConfig, our_choice, seeded, training_config

if TYPE_CHECKING:
    from typing_extensions import Self

#: The models of ``hardfast.models.MODELS`` that take coloured images of this size.
TEACHERS = ("cnn", "resnet18", "shift_robust_cnn")
_CLASSES = len(DIGIT_NAMES)
#: Of the denoiser's layers.
_NORM_GROUPS, _HEAD_CHANNELS = 8, 16


@dataclass(frozen=True)
class ColouredDigitsConfig:
    """The data.

    Args:
        split_seed: seed of the split, the same for all seeds of the run.
        validation_size: validation images.
        test_size: test digits; each is tested on both colours.
        swapped: part of the diffusion model's training images whose colour is that of the other digits.
    """

    split_seed: int = our_choice(0)
    validation_size: int = our_choice(100)
    test_size: int = our_choice(500)
    swapped: float = our_choice(0.05)


@dataclass(frozen=True)
class DenoiserConfig:
    """The class-conditional diffusion model and its training.

    Args:
        widths: channels at full and at half resolution.
        steps: training steps.
        batch_size: images a step.
        learning_rate: the highest, of AdamW.
    """

    widths: tuple[int, int] = our_choice((32, 64))
    steps: int = our_choice(1500)
    batch_size: int = our_choice(64)
    learning_rate: float = our_choice(2e-3)


@dataclass(frozen=True)
class DigitsTeacherConfig(TeacherConfig):
    """The teacher, one of ``TEACHERS``, and its training on labels of both colours."""

    model: str = our_choice("shift_robust_cnn")
    steps: int = our_choice(1000)
    batch_size: int = our_choice(64)
    learning_rate: float = our_choice(2e-3)


@dataclass(frozen=True)
class DigitsGeneratorConfig(GeneratorConfig):
    """How images are generated: pixels are the latents, and the digits fill the image, so there are no cut-outs."""

    count: int = our_choice(192)
    group_size: int = our_choice(32)
    steps: int = our_choice(5)
    guidance_scale: float = our_choice(1.0)
    # A chain of five calls on 32 images of 8x8 pixels is small, and keeping it all saves a third of the time.
    memory: str = our_choice("full")
    iterations: int = our_choice(8)
    latents_rate: float = our_choice(1.5)
    form: Literal["probability", "log", "logit", "kl"] = our_choice("log")
    offsets: bool = our_choice(False)
    keep_last: int = our_choice(1)
    gamma: float = our_choice(1.0)
    cutouts: int = our_choice(1)
    smallest_cutout: float = our_choice(1.0)
    cutout_noise: float = our_choice(0.0)


@dataclass(frozen=True)
class ConfigDigits(ConfigRecipe):
    """ConfiG on 1,797 real digits: the student sees 0-4 on red and 5-9 on green only, and takes the colour for them."""

    name: ClassVar[str] = "config-digits"
    title: ClassVar[str] = "Background colours that the student must not rely on, on scikit-learn's digits"

    student_widths: tuple[int, int, int] = our_choice((32, 64, 64))
    data: ColouredDigitsConfig = our_choice(ColouredDigitsConfig())
    teacher: DigitsTeacherConfig = our_choice(DigitsTeacherConfig())
    denoiser: DenoiserConfig = our_choice(DenoiserConfig())
    generator: DigitsGeneratorConfig = our_choice(DigitsGeneratorConfig())
    # Networks this small do not use a GPU.
    device: Literal["auto", "cpu", "cuda"] = our_choice("cpu")
    # As for hard-digits: at this size more threads are hardly faster, and several times slower where another process
    # wants a core; and the last bits of convolutions depend on their number.
    threads: int = our_choice(1)
    workers: int = our_choice(2)
    rounds: int = our_choice(3)
    round_steps: int = our_choice(500)
    methods: tuple[str, ...] = our_choice(
        ("teacher", "distillation", "unguided", "teacher_only", "student_only", "config")
    )

    def load(self) -> ConfigData:
        config = self.data
        digits = load_coloured_digits(
            config.split_seed,
            validation_size=config.validation_size,
            test_size=config.test_size,
            swapped=config.swapped,
        )
        return ConfigData(
            digits.biased,
            digits.validation,
            digits.test,
            DIGIT_NAMES,
            IMAGE_PX,
            IMAGE_PX,
            teacher_train=digits.unbiased,
            generator_train=digits.mostly_biased,
        )

    def make_teacher(self, data: ConfigData, seed: int) -> nn.Module:
        return seeded(lambda: create_model(self.teacher.model, in_channels=3), seed)

    def teacher_training(self) -> TrainerConfig:
        return training_config(
            self.teacher, label_smoothing=self.teacher.label_smoothing, execution=self.execution.build()
        )

    def make_student(self, data: ConfigData, seed: int) -> nn.Module:
        return seeded(lambda: CNN(self.student_widths, pools=(1, 2, 1), dropout=0.0, in_channels=3), seed)

    def make_image_model(self, data: ConfigData, cache: Path, device: torch.device, progress: bool) -> ImageModel:
        from diffusers import DDIMScheduler

        scheduler: Any = DDIMScheduler(clip_sample=False)

        def train(denoiser: nn.Module) -> nn.Module:
            images = data.generator_train
            assert isinstance(images, LabelledImages)
            return train_denoiser(
                denoiser,
                _encode(images.images),
                images.labels,
                scheduler.alphas_cumprod,
                steps=self.denoiser.steps,
                batch_size=self.denoiser.batch_size,
                learning_rate=self.denoiser.learning_rate,
                null_label=_CLASSES,
                progress="diffusion model" if progress else None,
            )

        settings = {name: value for name, value in self.values().items() if name.startswith(("denoiser.", "data."))}
        denoiser = cached(cache, f"{self.name}-denoiser", settings, self._untrained_denoiser(), train).to(device)
        schedule = Schedule.from_scheduler(scheduler, self.generator.steps)
        sampler = Sampler(denoiser, schedule, self.generator.guidance_scale, self.generator.memory)
        conditions = torch.arange(_CLASSES, device=device)
        null_condition = torch.tensor([_CLASSES], device=device)
        return ImageModel(sampler, (3, IMAGE_PX, IMAGE_PX), conditions, null_condition, _decode, _encode)

    def unused(self) -> dict[str, str]:
        unused = super().unused() | {"generator.offsets": "for conditions that are embeddings, and these are classes"}
        if self.generator.kind == "diffusion":
            unused["generator.rate"] = "for offsets of conditions, and for affine maps"
            return unused
        names = [f"denoiser.{item.name}" for item in dataclasses.fields(self.denoiser)]
        return unused | dict.fromkeys([*names, "data.swapped"], "for generator.kind diffusion, not 'affine'")

    def resolved(self) -> Self:
        first, second = self.denoiser.widths
        if first < 1 or second < 1 or first % _NORM_GROUPS or second % _HEAD_CHANNELS:
            raise ValueError(
                f"denoiser.widths must be a multiple of {_NORM_GROUPS} and one of {_HEAD_CHANNELS}; "
                f"got {first} and {second}"
            )
        for name in ("steps", "batch_size"):
            _checks.integer(f"denoiser.{name}", getattr(self.denoiser, name), 1)
        _checks.positive("denoiser.learning_rate", self.denoiser.learning_rate)
        if min(self.student_widths) < 1:
            raise ValueError(f"student_widths must be >= 1; got {self.student_widths}")
        recipe = super().resolved()
        recipe.teacher_training()
        if self.teacher.model not in TEACHERS:
            raise ValueError(
                f"teacher.model must be one of {list(TEACHERS)} for digits in colour; got {self.teacher.model!r}"
            )
        return recipe

    def shrunk(self) -> Self:
        small = super().shrunk()
        return dataclasses.replace(
            small,
            teacher=dataclasses.replace(self.teacher, steps=min(self.teacher.steps, 8)),
            denoiser=dataclasses.replace(self.denoiser, steps=min(self.denoiser.steps, 4), widths=(8, 16)),
        )

    def _untrained_denoiser(self) -> nn.Module:
        from diffusers import UNet2DModel

        def make() -> Any:
            return UNet2DModel(
                sample_size=IMAGE_PX,
                layers_per_block=1,
                block_out_channels=self.denoiser.widths,
                down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "UpBlock2D"),
                norm_num_groups=_NORM_GROUPS,
                attention_head_dim=_HEAD_CHANNELS,
                num_class_embeds=_CLASSES + 1,
            )

        return ClassUNetDenoiser(seeded(make, 0))


def _encode(images: Tensor) -> Tensor:
    return 2 * images - 1


def _decode(latents: Tensor) -> Tensor:
    return latents / 2 + 0.5
