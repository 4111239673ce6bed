// CPU kernels of kl_disagreement, compiled once for each instruction set (HARDFAST_ISA names it).
//
//   forward:         loss = T^2 KL(t || s),                 d/ds = T (p_s - p_t),  d/dt = T p_t (log p_t/p_s - KL)
//   reverse:         the same with the roles exchanged
//   Jensen-Shannon:  loss = T^2 (KL(t || m) + KL(s || m)) / 2,  m = (p_s + p_t) / 2
//
// A row is read from memory once; the passes over it after the first find it in cache.
#include "kl_disagreement.h"

#include "../math/disagreement.h"

HARDFAST_BEGIN

namespace {

using i64 = std::int64_t;

// Sums are float over this many classes, and double above: as exact as double throughout, and twice as fast.
constexpr i64 kBlock = 128;

template <typename T>
T max_of(const T* values, i64 n) {
  constexpr i64 kLanes = 32;  // several vectors of running maxima, to hide the latency of each
  T lanes[kLanes];
  for (i64 j = 0; j < kLanes; ++j) lanes[j] = -static_cast<T>(__builtin_inf());
  i64 k = 0;
  for (; k + kLanes <= n; k += kLanes) {
    for (i64 j = 0; j < kLanes; ++j) lanes[j] = values[k + j] > lanes[j] ? values[k + j] : lanes[j];
  }
  T result = -static_cast<T>(__builtin_inf());
  for (; k < n; ++k) result = values[k] > result ? values[k] : result;
  for (i64 j = 0; j < kLanes; ++j) result = lanes[j] > result ? lanes[j] : result;
  return result;
}

// A row of logits in the arithmetic's type: in place, or widened into `buffer`.
inline const float* widen_logits(const float* row, i64, float*) { return row; }
inline const double* widen_logits(const double* row, i64, double*) { return row; }

template <typename Storage>
const float* widen_logits(const Storage* row, i64 n, float* buffer) {
  for (i64 k = 0; k < n; ++k) buffer[k] = widen(row[k]);
  return buffer;
}

template <typename T>
struct RowView {
  const T *student, *teacher;
  i64 classes;
  T inverse_temperature;
};

// Shifted and scaled logits: exp of them never overflows.
template <typename T>
HARDFAST_HD T scaled(T logit, T shift, T inverse_temperature) {
  return (logit - shift) * inverse_temperature;
}

// Fills the row's statistics and returns its divergence (for Jensen-Shannon, row_forward_mixture does).
template <bool kFromTeacherSide, typename T>
double row_forward(const RowView<T> row, T* stats) {
  const T shift_s = max_of(row.student, row.classes), shift_t = max_of(row.teacher, row.classes);
  const T scale = row.inverse_temperature;
  double sum_s = 0, sum_t = 0, weighted = 0;
  for (i64 begin = 0; begin < row.classes; begin += kBlock) {
    const i64 end = begin + kBlock < row.classes ? begin + kBlock : row.classes;
    T block_s = 0, block_t = 0, block_weighted = 0;
#pragma omp simd reduction(+ : block_s, block_t, block_weighted)
    for (i64 k = begin; k < end; ++k) {
      const T s = scaled(row.student[k], shift_s, scale), t = scaled(row.teacher[k], shift_t, scale);
      const T exp_s = exp_nonpositive(s), exp_t = exp_nonpositive(t);
      block_s += exp_s;
      block_t += exp_t;
      block_weighted += kFromTeacherSide ? kl_term(exp_t, t - s) : kl_term(exp_s, s - t);
    }
    weighted += static_cast<double>(block_weighted);
    sum_s += static_cast<double>(block_s);
    sum_t += static_cast<double>(block_t);
  }
  const double gap = __builtin_log(sum_s) - __builtin_log(sum_t);
  const double kl = kFromTeacherSide ? weighted / sum_t + gap : weighted / sum_s - gap;
  const double result = kl < 0 ? 0 : kl;  // negative only by rounding; NaN stays
  stats[kStudentShift] = shift_s;
  stats[kStudentInverseSum] = static_cast<T>(1 / sum_s);
  stats[kTeacherShift] = shift_t;
  stats[kTeacherInverseSum] = static_cast<T>(1 / sum_t);
  stats[kLogSumGap] = static_cast<T>(gap);
  stats[kFromTeacher] = kFromTeacherSide ? static_cast<T>(result) : T(0);
  stats[kFromStudent] = kFromTeacherSide ? T(0) : static_cast<T>(result);
  return result;
}

template <typename T>
struct Probabilities {
  T p_s, p_t, gap;  // of one class; gap = log p_t - log p_s
};

template <typename T>
HARDFAST_HD Probabilities<T> probabilities(const RowView<T>& row, const T* stats, i64 k) {
  const T s = scaled(row.student[k], stats[kStudentShift], row.inverse_temperature);
  const T t = scaled(row.teacher[k], stats[kTeacherShift], row.inverse_temperature);
  return {exp_nonpositive(s) * stats[kStudentInverseSum], exp_nonpositive(t) * stats[kTeacherInverseSum],
          (t - s) + stats[kLogSumGap]};
}

// The second half of Jensen-Shannon: its terms need the sums that row_forward finds.
template <typename T>
double row_forward_mixture(const RowView<T>& row, T* stats) {
  double from_teacher = 0, from_student = 0, sum_t = 0, sum_s = 0;
#pragma omp simd reduction(+ : from_teacher, from_student, sum_t, sum_s)
  for (i64 k = 0; k < row.classes; ++k) {
    const Probabilities<T> at = probabilities(row, stats, k);
    const MixtureGaps<T> gaps = mixture_gaps(at.gap);
    from_teacher += static_cast<double>(kl_term(at.p_t, gaps.p));
    from_student += static_cast<double>(kl_term(at.p_s, gaps.q));
    sum_t += static_cast<double>(at.p_t);
    sum_s += static_cast<double>(at.p_s);
  }
  from_teacher /= sum_t;  // one but for the rounding of the probabilities, which cancels here
  from_student /= sum_s;
  stats[kFromTeacher] = static_cast<T>(from_teacher);
  stats[kFromStudent] = static_cast<T>(from_student);
  const double result = 0.5 * (from_teacher + from_student);
  return result < 0 ? 0 : result;
}

// Writes the gradients that are asked for; `grad` is that of the row's loss, times T.
template <Divergence kDivergence, bool kStudent, bool kTeacher, typename T, typename Storage>
void row_backward(const RowView<T>& row, const T* stats, T grad, Storage* grad_student, Storage* grad_teacher) {
#pragma omp simd
  for (i64 k = 0; k < row.classes; ++k) {
    const Probabilities<T> at = probabilities(row, stats, k);
    T to_student = 0, to_teacher = 0;
    if (kDivergence == Divergence::kForward) {
      to_student = grad_kl_second(at.p_t, at.p_s);
      to_teacher = grad_kl_first(at.p_t, at.gap, stats[kFromTeacher]);
    } else if (kDivergence == Divergence::kReverse) {
      to_student = grad_kl_first(at.p_s, -at.gap, stats[kFromStudent]);
      to_teacher = grad_kl_second(at.p_s, at.p_t);
    } else {
      const MixtureGaps<T> gaps = mixture_gaps(at.gap);
      to_student = T(0.5) * grad_mixture(at.p_s, gaps.q, stats[kFromStudent]);
      to_teacher = T(0.5) * grad_mixture(at.p_t, gaps.p, stats[kFromTeacher]);
    }
    if (kStudent) grad_student[k] = narrow<Storage>(grad * to_student);
    if (kTeacher) grad_teacher[k] = narrow<Storage>(grad * to_teacher);
  }
}

template <typename T>
T divergence_of(Divergence divergence, const T* stats) {
  switch (divergence) {
    case Divergence::kForward: return stats[kFromTeacher];
    case Divergence::kReverse: return stats[kFromStudent];
    default: {
      const T sum = stats[kFromTeacher] + stats[kFromStudent];
      return sum < 0 ? T(0) : T(0.5) * sum;
    }
  }
}

// Widened rows of 16-bit logits; nothing for the other types.
template <typename T>
struct RowBuffers {
  explicit RowBuffers(i64 n) : student(n ? new T[2 * n] : nullptr), teacher(student + n) {}
  ~RowBuffers() { delete[] student; }
  RowBuffers(const RowBuffers&) = delete;
  RowBuffers& operator=(const RowBuffers&) = delete;

  T *student, *teacher;
};

template <typename T, typename Storage>
RowView<T> row_view(const KlDisagreementParams& p, i64 row, const RowBuffers<T>& buffers) {
  const Storage* student = static_cast<const Storage*>(p.student) + row * p.student_row;
  const Storage* teacher = static_cast<const Storage*>(p.teacher) + row * p.teacher_row;
  return {widen_logits(student, p.classes, buffers.student), widen_logits(teacher, p.classes, buffers.teacher),
          p.classes, static_cast<T>(1 / p.temperature)};
}

template <typename T, typename Storage>
void forward_rows(const KlDisagreementParams& p, i64 begin, i64 end) {
  const RowBuffers<T> buffers(sizeof(Storage) == 2 ? p.classes : 0);
  for (i64 i = begin; i < end; ++i) {
    const RowView<T> row = row_view<T, Storage>(p, i, buffers);
    T* stats = static_cast<T*>(p.row_stats) + kRowStats * i;
    double divergence =
        p.divergence == Divergence::kForward ? row_forward<true>(row, stats) : row_forward<false>(row, stats);
    if (p.divergence == Divergence::kJensenShannon) divergence = row_forward_mixture(row, stats);
    if (p.per_sample) static_cast<T*>(p.loss)[i] = static_cast<T>(p.temperature * p.temperature * divergence);
  }
}

template <Divergence kDivergence, typename T, typename Storage>
void backward_row(const KlDisagreementParams& p, const RowView<T>& row, i64 i) {
  const T* stats = static_cast<const T*>(p.row_stats) + kRowStats * i;
  const T incoming = static_cast<const T*>(p.grad_loss)[p.per_sample ? i * p.grad_loss_row : 0];
  const double share = p.per_sample ? 1 : static_cast<double>(p.divisor);
  const T grad = static_cast<T>(p.temperature * static_cast<double>(incoming) / share);
  Storage* grad_student = static_cast<Storage*>(p.grad_student) + (p.grad_student ? i * p.classes : 0);
  Storage* grad_teacher = static_cast<Storage*>(p.grad_teacher) + (p.grad_teacher ? i * p.classes : 0);
  if (grad_student && grad_teacher) {
    row_backward<kDivergence, true, true>(row, stats, grad, grad_student, grad_teacher);
  } else if (grad_student) {
    row_backward<kDivergence, true, false>(row, stats, grad, grad_student, grad_teacher);
  } else {
    row_backward<kDivergence, false, true>(row, stats, grad, grad_student, grad_teacher);
  }
}

template <typename T, typename Storage>
void backward_rows(const KlDisagreementParams& p, i64 begin, i64 end) {
  const RowBuffers<T> buffers(sizeof(Storage) == 2 ? p.classes : 0);
  for (i64 i = begin; i < end; ++i) {
    const RowView<T> row = row_view<T, Storage>(p, i, buffers);
    switch (p.divergence) {
      case Divergence::kForward: backward_row<Divergence::kForward, T, Storage>(p, row, i); break;
      case Divergence::kReverse: backward_row<Divergence::kReverse, T, Storage>(p, row, i); break;
      default: backward_row<Divergence::kJensenShannon, T, Storage>(p, row, i);
    }
  }
}

template <typename T>
void reduce_rows(const KlDisagreementParams& p) {
  double sum = 0;
  const T* stats = static_cast<const T*>(p.row_stats);
  for (i64 i = 0; i < p.rows; ++i) sum += static_cast<double>(divergence_of(p.divergence, stats + kRowStats * i));
  *static_cast<T*>(p.loss) = static_cast<T>(p.temperature * p.temperature * sum / static_cast<double>(p.divisor));
}

void forward_range(const KlDisagreementParams& p, i64 begin, i64 end) {
  switch (p.dtype) {
    case DType::kFloat64: return forward_rows<double, double>(p, begin, end);
    case DType::kFloat16: return forward_rows<float, Half>(p, begin, end);
    case DType::kBFloat16: return forward_rows<float, BFloat16>(p, begin, end);
    default: return forward_rows<float, float>(p, begin, end);
  }
}

void reduce(const KlDisagreementParams& p) {
  return p.dtype == DType::kFloat64 ? reduce_rows<double>(p) : reduce_rows<float>(p);
}

void backward_range(const KlDisagreementParams& p, i64 begin, i64 end) {
  switch (p.dtype) {
    case DType::kFloat64: return backward_rows<double, double>(p, begin, end);
    case DType::kFloat16: return backward_rows<float, Half>(p, begin, end);
    case DType::kBFloat16: return backward_rows<float, BFloat16>(p, begin, end);
    default: return backward_rows<float, float>(p, begin, end);
  }
}

}  // namespace

extern const KlDisagreementKernels kl_disagreement_kernels;
const KlDisagreementKernels kl_disagreement_kernels = {forward_range, reduce, backward_range};

HARDFAST_END
