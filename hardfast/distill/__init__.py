"""Distillation with learned augmentations: objectives, alternation, training steps and a plain trainer."""

from hardfast.distill.alternation import Alternation, Budget, FixedRatio, Thresholds
from hardfast.distill.constant import held_constant
from hardfast.distill.evaluate import (
    SetMetrics,
    ShiftAccuracy,
    accuracy,
    accuracy_per_shift,
    group_accuracies,
    measure,
    predict_logits,
)
from hardfast.distill.execution import CompiledAugmentor, Execution
from hardfast.distill.finite_steps import FiniteSteps
from hardfast.distill.objectives import AugmentorObjective, AugmentorTerms, StudentObjective, StudentTerms
from hardfast.distill.processes import LostProcessError, Processes, joined
from hardfast.distill.shard import Shard, ShardedAugmentor
from hardfast.distill.sharded_layers import shard_layers
from hardfast.distill.spurious import SpuriousScores, class_probabilities, spurious_scores
from hardfast.distill.step import AugmentorStep, augmentor_step, student_step, supervised_step
from hardfast.distill.trainer import Trainer, TrainerConfig, TrainingSummary

__all__ = [
    "Alternation",
    "AugmentorObjective",
    "AugmentorStep",
    "AugmentorTerms",
    "Budget",
    "CompiledAugmentor",
    "Execution",
    "FiniteSteps",
    "FixedRatio",
    "LostProcessError",
    "Processes",
    "SetMetrics",
    "Shard",
    "ShardedAugmentor",
    "ShiftAccuracy",
    "SpuriousScores",
    "StudentObjective",
    "StudentTerms",
    "Thresholds",
    "Trainer",
    "TrainerConfig",
    "TrainingSummary",
    "accuracy",
    "accuracy_per_shift",
    "augmentor_step",
    "class_probabilities",
    "group_accuracies",
    "held_constant",
    "joined",
    "measure",
    "predict_logits",
    "shard_layers",
    "spurious_scores",
    "student_step",
    "supervised_step",
]
