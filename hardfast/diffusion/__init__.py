"""Diffusion sampling that is differentiated through its whole chain, and guided by what a student gets wrong."""

from hardfast.diffusion.cutouts import CutOuts
from hardfast.diffusion.denoisers import ClassUNetDenoiser, Denoiser, PromptUNetDenoiser, TransformerDenoiser
from hardfast.diffusion.generate import GenerationSummary, Maker, generate_images
from hardfast.diffusion.guidance import GuidanceSettings, GuidedImages, guide, guide_augmentor, seeded_noise
from hardfast.diffusion.image_store import ImageStore, load_generated
from hardfast.diffusion.maker import AugmentorMaker, DiffusionMaker, ImageModel
from hardfast.diffusion.memory import COUPLED_STRATEGIES, EXACT_STRATEGIES, INEXACT_STRATEGIES, Memory
from hardfast.diffusion.objective import GuidanceObjective
from hardfast.diffusion.sampling import Sampler, Samples, decode_in_chunks
from hardfast.diffusion.schedule import Schedule
from hardfast.diffusion.stable_diffusion import StableDiffusion, load_stable_diffusion
from hardfast.diffusion.training import train_denoiser

__all__ = [
    "COUPLED_STRATEGIES",
    "EXACT_STRATEGIES",
    "INEXACT_STRATEGIES",
    "AugmentorMaker",
    "ClassUNetDenoiser",
    "CutOuts",
    "Denoiser",
    "DiffusionMaker",
    "GenerationSummary",
    "GuidanceObjective",
    "GuidanceSettings",
    "GuidedImages",
    "ImageModel",
    "ImageStore",
    "Maker",
    "Memory",
    "PromptUNetDenoiser",
    "Sampler",
    "Samples",
    "Schedule",
    "StableDiffusion",
    "TransformerDenoiser",
    "decode_in_chunks",
    "generate_images",
    "guide",
    "guide_augmentor",
    "load_generated",
    "load_stable_diffusion",
    "seeded_noise",
    "train_denoiser",
]
