// CPU kernels of kl_disagreement, compiled once for each instruction set (HARDFAST_ISA names it).
//
//   forward:         loss = T^2 KL(t || s),                 d/ds = T (p_s - p_t),  d/dt = T p_t (log p_t/p_s - KL)
//   reverse:         the same with the roles exchanged
//   Jensen-Shannon:  loss = T^2 (KL(t || m) + KL(s || m)) / 2,  m = (p_s + p_t) / 2
#include "kl_disagreement.h"

#include "logit_rows.h"

HARDFAST_BEGIN

namespace {

// The second half of Jensen-Shannon: its terms need the sums that row_forward finds.
template <typename T>
void row_forward_mixture(const RowView<T>& row, T* stats) {
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
  // The sums are one but for the rounding of the probabilities, which cancels here.
  stats[kFromTeacher] = static_cast<T>(from_teacher / sum_t);
  stats[kFromStudent] = static_cast<T>(from_student / sum_s);
}

// Writes the gradients that are asked for; `grad` is that of the row's loss, times T.
template <Divergence kDivergence, bool kStudent, bool kTeacher, typename T, typename Storage>
void row_backward(const RowView<T> row, const T* row_stats, T grad, Storage* grad_student, Storage* grad_teacher) {
  const RowStats<T> local(row_stats);
  const T* const stats = local.at;
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

template <typename T, typename Storage>
void forward_rows(const KlDisagreementParams& p, i64 begin, i64 end) {
  const RowBuffers<T, Storage> buffers(p.classes);
  for (i64 i = begin; i < end; ++i) {
    const RowView<T> row = row_view(p, i, buffers, p.temperature);
    T* stats = static_cast<T*>(p.row_stats) + kRowStats * i;
    if (p.divergence == Divergence::kForward) {
      row_forward<true>(row, stats);
    } else {
      row_forward<false>(row, stats);
    }
    if (p.divergence == Divergence::kJensenShannon) row_forward_mixture(row, stats);
  }
}

template <typename T>
void reduce_groups(const KlDisagreementParams& p, i64 begin, i64 end) {
  const double scale = p.temperature * p.temperature / static_cast<double>(p.divisor);
  for (i64 group = begin; group < end; ++group) {
    const T* stats = static_cast<const T*>(p.row_stats) + kRowStats * p.group_rows * group;
    double sum = 0;
    for (i64 i = 0; i < p.group_rows; ++i)
      sum += static_cast<double>(divergence_of(p.divergence, stats + kRowStats * i));
    static_cast<T*>(p.loss)[group] = static_cast<T>(scale * sum);
  }
}

template <Divergence kDivergence, typename T, typename Storage>
void backward_row(const KlDisagreementParams& p, const RowView<T>& row, i64 i) {
  const T* stats = static_cast<const T*>(p.row_stats) + kRowStats * i;
  const T grad = static_cast<T>(p.temperature * incoming_grad<T>(p, i) / static_cast<double>(p.divisor));
  Storage* grad_student = gradient_row<Storage>(p, p.grad_student, i);
  Storage* grad_teacher = gradient_row<Storage>(p, p.grad_teacher, i);
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
  const RowBuffers<T, Storage> buffers(p.classes);
  for (i64 i = begin; i < end; ++i) {
    const RowView<T> row = row_view(p, i, buffers, p.temperature);
    switch (p.divergence) {
      case Divergence::kForward: backward_row<Divergence::kForward, T, Storage>(p, row, i); break;
      case Divergence::kReverse: backward_row<Divergence::kReverse, T, Storage>(p, row, i); break;
      default: backward_row<Divergence::kJensenShannon, T, Storage>(p, row, i);
    }
  }
}

void forward_range(const KlDisagreementParams& p, i64 begin, i64 end) {
  for_types(p.dtype, [&](auto types) {
    forward_rows<typename decltype(types)::Compute, typename decltype(types)::Storage>(p, begin, end);
  });
}

void reduce_range(const KlDisagreementParams& p, i64 begin, i64 end) {
  return p.dtype == DType::kFloat64 ? reduce_groups<double>(p, begin, end) : reduce_groups<float>(p, begin, end);
}

void backward_range(const KlDisagreementParams& p, i64 begin, i64 end) {
  for_types(p.dtype, [&](auto types) {
    backward_rows<typename decltype(types)::Compute, typename decltype(types)::Storage>(p, begin, end);
  });
}

}  // namespace

extern const KlDisagreementKernels kl_disagreement_kernels;
const KlDisagreementKernels kl_disagreement_kernels = {forward_range, reduce_range, backward_range};

HARDFAST_END
