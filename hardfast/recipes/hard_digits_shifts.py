"""``hard-digits-*``: every family of augmentors, on digits shifted, rotated, scaled, recoloured and warped."""

# ruff: noqa: RUF009 - the defaults are immutable, and so may be shared
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from hardfast.data.digit_shifts import RandomShifts, digit_shifts, load_rgb_digits, shifted_sets
from hardfast.distill.trainer import Transform
from hardfast.recipes.hard_augmentor import AugmentorConfig, Family
from hardfast.recipes.hard_recipe import ExperimentData, HardAugmentorRecipe, HardRecipe, HardTeacherConfig
from hardfast.recipes.recipe import our_choice, prefixed

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class DigitShiftsConfig:
    """The data.

    Args:
        split_seed: seed of the split, the same for all seeds of the run.
        validation_size: validation images.
        test_size: test images, each of which is shown under several draws of every shift.
        draws: of every shift for each test image.
        shift_seed: seed of these draws.
    """

    split_seed: int = our_choice(0)
    validation_size: int = our_choice(200)
    test_size: int = our_choice(400)
    draws: int = our_choice(5)
    shift_seed: int = our_choice(0)


@dataclass(frozen=True)
class DigitShiftsTeacher(HardTeacherConfig):
    """The CNN and its training on labels, under all kinds of shift, of which the student sees none."""

    steps: int = our_choice(1500)


@dataclass(frozen=True)
class DigitAugmentorConfig(AugmentorConfig):
    """The augmentor of a family."""

    family: Family = our_choice("affine")
    initial_scale: float = our_choice(0.1)
    teacher_weight: float = our_choice(2.0)
    # With a mean to learn, flows and thin plates drift off as a whole, since that is a shift, and warp little.
    learn_mean: bool = our_choice(False)


@dataclass(frozen=True)
class FamiliesConfig:
    """The augmentor of each family."""

    affine: DigitAugmentorConfig = our_choice(DigitAugmentorConfig("affine"))
    translation: DigitAugmentorConfig = our_choice(DigitAugmentorConfig("translation"))
    linear: DigitAugmentorConfig = our_choice(DigitAugmentorConfig("linear", teacher_weight=1.0))
    projective: DigitAugmentorConfig = our_choice(DigitAugmentorConfig("projective"))
    flow: DigitAugmentorConfig = our_choice(DigitAugmentorConfig("flow"))
    thin_plate: DigitAugmentorConfig = our_choice(DigitAugmentorConfig("thin_plate"))
    color: DigitAugmentorConfig = our_choice(DigitAugmentorConfig("color", teacher_weight=4.0, learn_mean=True))
    mix: DigitAugmentorConfig = our_choice(DigitAugmentorConfig("mix", initial_scale=1.0))
    affine_flow_color: DigitAugmentorConfig = our_choice(DigitAugmentorConfig("affine_flow_color"))
    latent: DigitAugmentorConfig = our_choice(DigitAugmentorConfig("latent", learning_rate=0.1))
    vdvae: DigitAugmentorConfig = our_choice(DigitAugmentorConfig("vdvae", blocks=(5, 7), autoencoder_steps=500))

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            family = getattr(self, item.name).family
            if family != item.name:
                raise ValueError(f"augmentors.{item.name}.family must stay {item.name!r}; got {family!r}")


AUGMENTORS = FamiliesConfig()
FAMILIES = tuple(item.name for item in dataclasses.fields(FamiliesConfig))


@dataclass(frozen=True)
class DigitShiftsRecipe(HardRecipe):
    """HARD on 1,797 real digits in colour against five kinds of shift; its recipes differ in their augmentors."""

    image_shape: ClassVar[tuple[int, int, int]] = (3, 28, 28)

    steps: int = our_choice(4500)
    student: str = our_choice("small_mlp")
    data: DigitShiftsConfig = our_choice(DigitShiftsConfig())
    teacher: HardTeacherConfig = our_choice(DigitShiftsTeacher())
    # As for hard-digits: at this size neither a GPU nor a second thread helps.
    device: Literal["auto", "cpu", "cuda"] = our_choice("cpu")
    threads: int = our_choice(1)

    def load(self) -> ExperimentData:
        config = self.data
        splits = load_rgb_digits(config.split_seed, validation_size=config.validation_size, test_size=config.test_size)
        draws = 1 if self.smoke else config.draws
        tests = {"centred": splits.test} | shifted_sets(splits.test, draws, config.shift_seed)
        return ExperimentData(splits.train, splits.validation, tests)

    def teacher_transform(self) -> Transform:
        return RandomShifts(digit_shifts())

    def unused(self) -> dict[str, str]:
        return super().unused() | {"teacher.augmentation": "for other data: this teacher is trained under every shift"}


@dataclass(frozen=True)
class HardDigitsFamilies(DigitShiftsRecipe):
    """HARD on digits with every family of augmentors, each a method of its own, against five kinds of shift.

    The very deep VAE takes as long as all others together, and runs where ``methods`` asks for it.
    """

    name: ClassVar[str] = "hard-digits-families"
    title: ClassVar[str] = "Families of augmentors against kinds of shift on scikit-learn's digits"
    known_methods: ClassVar[tuple[str, ...]] = ("student", "distillation", *FAMILIES)

    methods: tuple[str, ...] = our_choice(("distillation", *FAMILIES[:-1]))
    augmentors: FamiliesConfig = our_choice(AUGMENTORS)
    workers: int = our_choice(3)

    def augmentor_of(self, method: str) -> AugmentorConfig | None:
        return getattr(self.augmentors, method) if method in FAMILIES else None

    def unused(self) -> dict[str, str]:
        unused = super().unused() | dict.fromkeys(
            ("flip", "policy"), "for fixed augmentations, which are no methods here"
        )
        for family in FAMILIES:
            unused |= prefixed(f"augmentors.{family}", getattr(self.augmentors, family).unused())
        return unused

    def resolved(self) -> Self:
        for family in FAMILIES:
            try:
                getattr(self.augmentors, family).check(self.image_shape)
            except ValueError as error:
                raise ValueError(f"augmentors.{family}.{str(error).removeprefix('augmentor.')}") from error
        return super().resolved()

    def shrunk(self) -> Self:
        augmentors = {family: getattr(self.augmentors, family).shrunk() for family in FAMILIES}
        return dataclasses.replace(super().shrunk(), augmentors=FamiliesConfig(**augmentors))


@dataclass(frozen=True)
class _OneFamily(DigitShiftsRecipe, HardAugmentorRecipe):
    methods: tuple[str, ...] = our_choice(("distillation", "random_augmentor", "hard"))

    def resolved(self) -> Self:
        own = type(self)().augmentor.family
        if self.augmentor.family != own:
            raise ValueError(f"augmentor.family must stay {own!r} in {self.name}; got {self.augmentor.family!r}")
        return super().resolved()


@dataclass(frozen=True)
class HardDigitsAffine(_OneFamily):
    """HARD on digits against five kinds of shift, with affine maps."""

    name: ClassVar[str] = "hard-digits-affine"
    title: ClassVar[str] = "Learned affine maps against kinds of shift on scikit-learn's digits"

    augmentor: AugmentorConfig = our_choice(AUGMENTORS.affine)


@dataclass(frozen=True)
class HardDigitsTranslation(_OneFamily):
    """HARD on digits against five kinds of shift, with translations."""

    name: ClassVar[str] = "hard-digits-translation"
    title: ClassVar[str] = "Learned translations against kinds of shift on scikit-learn's digits"

    augmentor: AugmentorConfig = our_choice(AUGMENTORS.translation)


@dataclass(frozen=True)
class HardDigitsLinear(_OneFamily):
    """HARD on digits against five kinds of shift, with linear maps."""

    name: ClassVar[str] = "hard-digits-linear"
    title: ClassVar[str] = "Learned linear maps against kinds of shift on scikit-learn's digits"

    augmentor: AugmentorConfig = our_choice(AUGMENTORS.linear)


@dataclass(frozen=True)
class HardDigitsProjective(_OneFamily):
    """HARD on digits against five kinds of shift, with projective maps."""

    name: ClassVar[str] = "hard-digits-projective"
    title: ClassVar[str] = "Learned projective maps against kinds of shift on scikit-learn's digits"

    augmentor: AugmentorConfig = our_choice(AUGMENTORS.projective)


@dataclass(frozen=True)
class HardDigitsFlow(_OneFamily):
    """HARD on digits against five kinds of shift, with coarse flows."""

    name: ClassVar[str] = "hard-digits-flow"
    title: ClassVar[str] = "Learned coarse flows against kinds of shift on scikit-learn's digits"

    augmentor: AugmentorConfig = our_choice(AUGMENTORS.flow)


@dataclass(frozen=True)
class HardDigitsThinPlate(_OneFamily):
    """HARD on digits against five kinds of shift, with thin-plate splines."""

    name: ClassVar[str] = "hard-digits-thin-plate"
    title: ClassVar[str] = "Learned thin-plate splines against kinds of shift on scikit-learn's digits"

    augmentor: AugmentorConfig = our_choice(AUGMENTORS.thin_plate)


@dataclass(frozen=True)
class HardDigitsColor(_OneFamily):
    """HARD on digits against five kinds of shift, with affine maps of the colours."""

    name: ClassVar[str] = "hard-digits-color"
    title: ClassVar[str] = "Learned affine maps of the colours against kinds of shift on scikit-learn's digits"

    augmentor: AugmentorConfig = our_choice(AUGMENTORS.color)


@dataclass(frozen=True)
class HardDigitsMix(_OneFamily):
    """HARD on digits against five kinds of shift, with mixtures of two images."""

    name: ClassVar[str] = "hard-digits-mix"
    title: ClassVar[str] = "Learned mixtures of two images against kinds of shift on scikit-learn's digits"

    augmentor: AugmentorConfig = our_choice(AUGMENTORS.mix)


@dataclass(frozen=True)
class HardDigitsAffineFlowColor(_OneFamily):
    """HARD on digits against five kinds of shift, with affine maps, flows and colours in turn."""

    name: ClassVar[str] = "hard-digits-affine-flow-color"
    title: ClassVar[str] = "Learned maps, flows and colours against kinds of shift on scikit-learn's digits"

    augmentor: AugmentorConfig = our_choice(AUGMENTORS.affine_flow_color)


@dataclass(frozen=True)
class HardDigitsLatent(_OneFamily):
    """HARD on digits against five kinds of shift, with edited codes of an autoencoder."""

    name: ClassVar[str] = "hard-digits-latent"
    title: ClassVar[str] = "Learned edited codes of an autoencoder against kinds of shift on scikit-learn's digits"

    augmentor: AugmentorConfig = our_choice(AUGMENTORS.latent)


@dataclass(frozen=True)
class HardDigitsVdvae(_OneFamily):
    """HARD on digits against five kinds of shift, with edited codes of a very deep VAE."""

    name: ClassVar[str] = "hard-digits-vdvae"
    title: ClassVar[str] = "Learned edited codes of a very deep VAE against kinds of shift on scikit-learn's digits"

    augmentor: AugmentorConfig = our_choice(AUGMENTORS.vdvae)


#: One recipe a family.
ONE_FAMILY: tuple[type[HardAugmentorRecipe], ...] = (
    HardDigitsAffine,
    HardDigitsTranslation,
    HardDigitsLinear,
    HardDigitsProjective,
    HardDigitsFlow,
    HardDigitsThinPlate,
    HardDigitsColor,
    HardDigitsMix,
    HardDigitsAffineFlowColor,
    HardDigitsLatent,
    HardDigitsVdvae,
)
