"""Diffusion sampling that is differentiated through its whole chain, and guided by what a student gets wrong."""

from hardfast.diffusion.cutouts import CutOuts
from hardfast.diffusion.denoisers import ClassUNetDenoiser, Denoiser, PromptUNetDenoiser, TransformerDenoiser
from hardfast.diffusion.guidance import GuidanceSettings, GuidedImages, guide, guide_augmentor, seeded_noise
from hardfast.diffusion.memory import COUPLED_STRATEGIES, EXACT_STRATEGIES, INEXACT_STRATEGIES, Memory
from hardfast.diffusion.objective import GuidanceObjective
from hardfast.diffusion.sampling import Sampler, Samples, decode_in_chunks
from hardfast.diffusion.schedule import Schedule

__all__ = [
    "COUPLED_STRATEGIES",
    "EXACT_STRATEGIES",
    "INEXACT_STRATEGIES",
    "ClassUNetDenoiser",
    "CutOuts",
    "Denoiser",
    "GuidanceObjective",
    "GuidanceSettings",
    "GuidedImages",
    "Memory",
    "PromptUNetDenoiser",
    "Sampler",
    "Samples",
    "Schedule",
    "TransformerDenoiser",
    "decode_in_chunks",
    "guide",
    "guide_augmentor",
    "seeded_noise",
]
