// Classifier-free guidance and one DDIM step, with the schedule folded into linear coefficients
// (GuidedStepCoefficient names them).
#pragma once

#include "../guided_step_params.h"
#include "macros.h"

HARDFAST_BEGIN

template <typename T>
HARDFAST_HD T guided_prediction(T cond, T uncond, T guidance) {
  return uncond + guidance * (cond - uncond);
}

template <typename T>
HARDFAST_HD T clean_latents(const T* c, T latents, T prediction) {
  return c[kCleanFromLatents] * latents + c[kCleanFromPrediction] * prediction;
}

// NaN stays.
template <typename T>
HARDFAST_HD T clipped(T value, T bound) {
  return value < -bound ? -bound : (value > bound ? bound : value);
}

template <typename T>
HARDFAST_HD T grad_clipped(T value, T bound, T grad) {
  return value < -bound || value > bound ? T(0) : grad;
}

template <typename T>
HARDFAST_HD T next_latents(const T* c, T clean, T latents, T prediction, T noise) {
  return (c[kNextFromClean] * clean + c[kNextFromNoise] * noise) +
         (c[kNextFromLatents] * latents + c[kNextFromPrediction] * prediction);
}

// Gradients that reach the unclipped clean latents and the prediction; those to the inputs are multiples of them.
template <typename T>
struct GradGuidedStep {
  T clean, prediction;
};

template <typename T>
HARDFAST_HD GradGuidedStep<T> grad_guided_step(const T* c, T bound, T clean, T grad_next, T grad_clean) {
  const T grad = grad_clipped(clean, bound, grad_clean + c[kNextFromClean] * grad_next);
  return {grad, c[kCleanFromPrediction] * grad + c[kNextFromPrediction] * grad_next};
}

HARDFAST_END
