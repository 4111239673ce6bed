// What the guided diffusion step is told: raw pointers, sizes and strides, no tensor.
#pragma once

#include <cstdint>

#include "warp_params.h"

namespace hardfast {

// The step is linear in latents, predictions and noise but for the clipping. The schedule sets these per sample.
enum GuidedStepCoefficient {
  kGuidance,  // prediction = uncond + guidance * (cond - uncond)
  kCleanFromLatents,
  kCleanFromPrediction,
  kNextFromClean,  // of the clipped clean latents
  kNextFromLatents,
  kNextFromPrediction,
  kNextFromNoise,
  kGuidedStepCoefficients
};

// Work is cut into strips of a sample, whose number depends on the shape alone.
constexpr std::int64_t kGuidedStepStrip = 16384;

// [B, ...]: the elements of a sample contiguous, samples `row` elements apart.
template <typename Void>
struct Samples {
  Void* data = nullptr;
  std::int64_t row = 0;
};

struct GuidedStepParams {
  std::int64_t batch, elements;  // samples, elements of each
  std::int64_t strips;           // of a sample
  DType dtype;                   // of all but the coefficients, which are float64 for float64 and float32 otherwise
  double clip;                   // clean latents are kept within [-clip, clip]; infinite for no clipping

  Samples<const void> coefficients;  // [1 or B, kGuidedStepCoefficients]
  Samples<const void> latents;       // [B, ...]
  Samples<const void> cond;
  Samples<const void> uncond;  // null: the prediction is `cond`
  Samples<const void> noise;   // null: none is added
  Samples<void> next, clean;

  // The backward reads latents, cond, uncond and noise only where the clipping or grad_coefficients needs them.
  Samples<const void> grad_next, grad_clean;                       // null: zero
  Samples<void> grad_latents, grad_cond, grad_uncond, grad_noise;  // null: not wanted
  void* grad_coefficients;                                         // [1 or B, kGuidedStepCoefficients], or null
  std::int64_t grad_coefficients_rows;
  double* grad_coefficient_sums;  // [B, strips, kGuidedStepCoefficients], scratch
};

}  // namespace hardfast
