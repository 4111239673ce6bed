// CPU kernels of guided_step, compiled once for each instruction set (HARDFAST_ISA names it).
//
//   prediction = uncond + guidance * (cond - uncond)
//   clean      = clip(c_1 latents + c_2 prediction)
//   next       = c_3 clean + c_4 latents + c_5 prediction + c_6 noise
//
// Every input is read and every output written once, in blocks that stay in the first-level cache: what is absent is
// read as zeros and what is not wanted is written to a buffer there, so that one loop serves all cases.
#include "guided_step.h"

#include "../math/guidance.h"
#include "../math/half.h"

HARDFAST_BEGIN

namespace {

using i64 = std::int64_t;

constexpr i64 kBlock = 256;

template <typename T>
struct Block {
  T values[kBlock];
};

// The block at `offset` of a sample in the arithmetic's type: in place, or widened into `buffer`; zeros where absent.
template <typename T, typename Storage>
const T* load(const Samples<const void>& from, i64 sample, i64 offset, i64 n, Block<T>& buffer) {
  if (from.data == nullptr) {
    for (i64 k = 0; k < n; ++k) buffer.values[k] = T(0);
    return buffer.values;
  }
  const Storage* source = static_cast<const Storage*>(from.data) + sample * from.row + offset;
  if constexpr (sizeof(Storage) == sizeof(T)) {
    return source;
  } else {
    for (i64 k = 0; k < n; ++k) buffer.values[k] = widen(source[k]);
    return buffer.values;
  }
}

// Where the block of an output is computed: in place, or in `buffer`.
template <typename T, typename Storage>
T* target(const Samples<void>& to, i64 sample, i64 offset, Block<T>& buffer) {
  if constexpr (sizeof(Storage) == sizeof(T)) {
    if (to.data != nullptr) return static_cast<T*>(to.data) + sample * to.row + offset;
  }
  return buffer.values;
}

template <typename T, typename Storage>
void store(const T* block, i64 n, const Samples<void>& to, i64 sample, i64 offset) {
  if constexpr (sizeof(Storage) != sizeof(T)) {
    if (to.data == nullptr) return;
    Storage* destination = static_cast<Storage*>(to.data) + sample * to.row + offset;
    for (i64 k = 0; k < n; ++k) destination[k] = narrow<Storage>(block[k]);
  }
}

template <typename T>
const T* coefficients_of(const GuidedStepParams& p, i64 sample) {
  return static_cast<const T*>(p.coefficients.data) + sample * p.coefficients.row;
}

// Calls visit(sample, offset, n) for each block of the strips [begin, end).
template <typename Visit>
void for_blocks(const GuidedStepParams& p, i64 strip, Visit visit) {
  const i64 sample = strip / p.strips, first = strip % p.strips * kGuidedStepStrip;
  const i64 last = first + kGuidedStepStrip < p.elements ? first + kGuidedStepStrip : p.elements;
  for (i64 offset = first; offset < last; offset += kBlock) {
    visit(sample, offset, last - offset < kBlock ? last - offset : kBlock);
  }
}

template <typename T, typename Storage>
void forward_strips(const GuidedStepParams& p, i64 begin, i64 end) {
  Block<T> buffers[6];
  const T bound = static_cast<T>(p.clip);
  for (i64 strip = begin; strip < end; ++strip) {
    for_blocks(p, strip, [&](i64 sample, i64 offset, i64 n) {
      const T* c = coefficients_of<T>(p, sample);
      const T* latents = load<T, Storage>(p.latents, sample, offset, n, buffers[0]);
      const T* cond = load<T, Storage>(p.cond, sample, offset, n, buffers[1]);
      const T* uncond = p.uncond.data ? load<T, Storage>(p.uncond, sample, offset, n, buffers[2]) : cond;
      const T* noise = load<T, Storage>(p.noise, sample, offset, n, buffers[3]);
      T* next = target<T, Storage>(p.next, sample, offset, buffers[4]);
      T* clean = target<T, Storage>(p.clean, sample, offset, buffers[5]);
#pragma omp simd
      for (i64 k = 0; k < n; ++k) {
        const T prediction = guided_prediction(cond[k], uncond[k], c[kGuidance]);
        const T kept = clipped(clean_latents(c, latents[k], prediction), bound);
        clean[k] = kept;
        next[k] = next_latents(c, kept, latents[k], prediction, noise[k]);
      }
      store<T, Storage>(next, n, p.next, sample, offset);
      store<T, Storage>(clean, n, p.clean, sample, offset);
    });
  }
}

// The inputs of a block and the gradients that have reached its prediction and its clean latents.
template <typename T>
struct BlockGradients {
  const T *latents, *cond, *uncond, *noise, *grad_next, *clean, *prediction;
};

template <typename T>
void add_grad_coefficients(const BlockGradients<T>& at, const T* c, T bound, i64 n, double* sums) {
  double guidance = 0, clean_latent = 0, clean_prediction = 0, next_clean = 0, next_latent = 0, next_prediction = 0,
         next_noise = 0;
#pragma omp simd reduction(+ : guidance, clean_latent, clean_prediction, next_clean, next_latent, next_prediction, \
                               next_noise)
  for (i64 k = 0; k < n; ++k) {
    const T prediction = guided_prediction(at.cond[k], at.uncond[k], c[kGuidance]);
    const T kept = clipped(clean_latents(c, at.latents[k], prediction), bound);
    guidance += static_cast<double>(at.prediction[k] * (at.cond[k] - at.uncond[k]));
    clean_latent += static_cast<double>(at.clean[k] * at.latents[k]);
    clean_prediction += static_cast<double>(at.clean[k] * prediction);
    next_clean += static_cast<double>(at.grad_next[k] * kept);
    next_latent += static_cast<double>(at.grad_next[k] * at.latents[k]);
    next_prediction += static_cast<double>(at.grad_next[k] * prediction);
    next_noise += static_cast<double>(at.grad_next[k] * at.noise[k]);
  }
  sums[kGuidance] += guidance;
  sums[kCleanFromLatents] += clean_latent;
  sums[kCleanFromPrediction] += clean_prediction;
  sums[kNextFromClean] += next_clean;
  sums[kNextFromLatents] += next_latent;
  sums[kNextFromPrediction] += next_prediction;
  sums[kNextFromNoise] += next_noise;
}

template <typename T, typename Storage>
void backward_strips(const GuidedStepParams& p, i64 begin, i64 end) {
  Block<T> buffers[12];
  const T bound = static_cast<T>(p.clip);
  for (i64 strip = begin; strip < end; ++strip) {
    double* sums = p.grad_coefficients ? p.grad_coefficient_sums + strip * kGuidedStepCoefficients : nullptr;
    for (i64 j = 0; sums && j < kGuidedStepCoefficients; ++j) sums[j] = 0;
    for_blocks(p, strip, [&](i64 sample, i64 offset, i64 n) {
      const T* c = coefficients_of<T>(p, sample);
      const T* grad_next = load<T, Storage>(p.grad_next, sample, offset, n, buffers[0]);
      const T* grad_clean = load<T, Storage>(p.grad_clean, sample, offset, n, buffers[1]);
      const T* latents = load<T, Storage>(p.latents, sample, offset, n, buffers[2]);
      const T* cond = load<T, Storage>(p.cond, sample, offset, n, buffers[3]);
      const T* uncond = p.uncond.data ? load<T, Storage>(p.uncond, sample, offset, n, buffers[4]) : cond;
      T* grad_latents = target<T, Storage>(p.grad_latents, sample, offset, buffers[5]);
      T* grad_cond = target<T, Storage>(p.grad_cond, sample, offset, buffers[6]);
      T* grad_uncond = target<T, Storage>(p.grad_uncond, sample, offset, buffers[7]);
      T* grad_noise = target<T, Storage>(p.grad_noise, sample, offset, buffers[8]);
      T *to_clean = buffers[9].values, *to_prediction = buffers[10].values;
#pragma omp simd
      for (i64 k = 0; k < n; ++k) {
        const T prediction = guided_prediction(cond[k], uncond[k], c[kGuidance]);
        const T clean = clean_latents(c, latents[k], prediction);
        const GradGuidedStep<T> grad = grad_guided_step(c, bound, clean, grad_next[k], grad_clean[k]);
        to_clean[k] = grad.clean;
        to_prediction[k] = grad.prediction;
        grad_latents[k] = c[kCleanFromLatents] * grad.clean + c[kNextFromLatents] * grad_next[k];
        grad_cond[k] = c[kGuidance] * grad.prediction;
        grad_uncond[k] = (T(1) - c[kGuidance]) * grad.prediction;
        grad_noise[k] = c[kNextFromNoise] * grad_next[k];
      }
      store<T, Storage>(grad_latents, n, p.grad_latents, sample, offset);
      store<T, Storage>(grad_cond, n, p.grad_cond, sample, offset);
      store<T, Storage>(grad_uncond, n, p.grad_uncond, sample, offset);
      store<T, Storage>(grad_noise, n, p.grad_noise, sample, offset);
      if (sums) {
        const T* noise = load<T, Storage>(p.noise, sample, offset, n, buffers[11]);
        add_grad_coefficients<T>({latents, cond, uncond, noise, grad_next, to_clean, to_prediction}, c, bound, n, sums);
      }
    });
  }
}

template <typename T>
void reduce_rows(const GuidedStepParams& p) {
  const i64 strips = p.batch * p.strips / p.grad_coefficients_rows;  // that a row of coefficients has
  for (i64 row = 0; row < p.grad_coefficients_rows; ++row) {
    for (i64 j = 0; j < kGuidedStepCoefficients; ++j) {
      double sum = 0;
      for (i64 i = 0; i < strips; ++i) sum += p.grad_coefficient_sums[(row * strips + i) * kGuidedStepCoefficients + j];
      static_cast<T*>(p.grad_coefficients)[row * kGuidedStepCoefficients + j] = static_cast<T>(sum);
    }
  }
}

void forward_range(const GuidedStepParams& p, i64 begin, i64 end) {
  switch (p.dtype) {
    case DType::kFloat64: return forward_strips<double, double>(p, begin, end);
    case DType::kFloat16: return forward_strips<float, Half>(p, begin, end);
    case DType::kBFloat16: return forward_strips<float, BFloat16>(p, begin, end);
    default: return forward_strips<float, float>(p, begin, end);
  }
}

void backward_range(const GuidedStepParams& p, i64 begin, i64 end) {
  switch (p.dtype) {
    case DType::kFloat64: return backward_strips<double, double>(p, begin, end);
    case DType::kFloat16: return backward_strips<float, Half>(p, begin, end);
    case DType::kBFloat16: return backward_strips<float, BFloat16>(p, begin, end);
    default: return backward_strips<float, float>(p, begin, end);
  }
}

void reduce_coefficients(const GuidedStepParams& p) {
  return p.dtype == DType::kFloat64 ? reduce_rows<double>(p) : reduce_rows<float>(p);
}

}  // namespace

extern const GuidedStepKernels guided_step_kernels;
const GuidedStepKernels guided_step_kernels = {forward_range, backward_range, reduce_coefficients};

HARDFAST_END
