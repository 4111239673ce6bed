// CPU kernels of kl_disagreement, compiled once for each instruction set (HARDFAST_ISA names it).
//
//   forward:         loss = T^2 KL(t || s),                 d/ds = T (p_s - p_t),  d/dt = T p_t (log p_t/p_s - KL)
//   reverse:         the same with the roles exchanged
//   Jensen-Shannon:  loss = T^2 (KL(t || m) + KL(s || m)) / 2,  m = (p_s + p_t) / 2
#include "kl_disagreement.h"

#include "narrow_rows.h"

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

bool is_narrow(const KlDisagreementParams& p) {
  return p.classes <= kNarrow && p.divergence != Divergence::kJensenShannon;
}

// The gradient of the row's loss, times T.
template <typename T>
T row_grad(const KlDisagreementParams& p, i64 row) {
  return static_cast<T>(p.temperature * incoming_grad<T>(p, row) / static_cast<double>(p.divisor));
}

template <Divergence kDivergence, typename T, typename Storage>
void backward_row(const KlDisagreementParams& p, const RowView<T>& row, i64 i) {
  const T* stats = static_cast<const T*>(p.row_stats) + kRowStats * i;
  const T grad = row_grad<T>(p, i);
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

// What turns a row's terms into gradients, `first` being the side that the divergence is weighted by:
//   d/dfirst = grad p_first (log p_first/p_second - KL),  d/dsecond = grad (p_second - p_first)
template <typename T>
struct GradientScales {
  T first, second, offset;

  GradientScales(bool from_teacher, const T* stats, T grad)
      : first(grad * stats[from_teacher ? kTeacherInverseSum : kStudentInverseSum]),
        second(grad * stats[from_teacher ? kStudentInverseSum : kTeacherInverseSum]),
        offset(from_teacher ? stats[kLogSumGap] - stats[kFromTeacher] : -stats[kLogSumGap] - stats[kFromStudent]) {}
};

template <bool kWanted>
struct Wanted {
  constexpr operator bool() const { return kWanted; }
};

template <typename T, typename Storage>
void gradients_from_terms(bool from_teacher, const RowTerms<T> terms, i64 classes, const GradientScales<T> scales,
                          Storage* grad_student, Storage* grad_teacher) {
  const T* const first = from_teacher ? terms.exp_teacher : terms.exp_student;
  const T* const second = from_teacher ? terms.exp_student : terms.exp_teacher;
  Storage* const grad_first = from_teacher ? grad_teacher : grad_student;
  Storage* const grad_second = from_teacher ? grad_student : grad_teacher;
  const auto write = [&](auto to_first, auto to_second) __attribute__((always_inline)) {
#pragma omp simd
    for (i64 k = 0; k < classes; ++k) {
      const T exp_first = first[k];
      if (to_first)
        grad_first[k] = narrow<Storage>(scales.first * mul_add(exp_first, scales.offset, terms.weighted[k]));
      if (to_second) grad_second[k] = narrow<Storage>(second[k] * scales.second - exp_first * scales.first);
    }
  };
  if (grad_first && grad_second) return write(Wanted<true>{}, Wanted<true>{});
  if (grad_first) return write(Wanted<true>{}, Wanted<false>{});
  write(Wanted<false>{}, Wanted<true>{});
}

// Rows of few classes, and their gradients if asked for.
template <typename T, typename Storage>
void narrow_rows(const KlDisagreementParams& p, i64 begin, i64 end, bool gradients) {
  const bool from_teacher = p.divergence == Divergence::kForward;
  NarrowRows<T> tile;
  for (i64 i = begin; i < end; i += kRowLanes) {
    const i64 rows = end - i < kRowLanes ? end - i : kRowLanes;
    T* stats = static_cast<T*>(p.row_stats) + kRowStats * i;
    load_models<Storage>(p, i, rows, tile);
    narrow_forward(from_teacher, tile, rows, p.classes, static_cast<T>(1 / p.temperature), stats, kRowStats);
    if (!gradients) continue;
    Vec8<T> first{}, second{}, offset{};
    for (i64 lane = 0; lane < rows; ++lane) {
      const GradientScales<T> scales(from_teacher, stats + kRowStats * lane, row_grad<T>(p, i + lane));
      first[lane] = scales.first;
      second[lane] = scales.second;
      offset[lane] = scales.offset;
    }
    narrow_gradients(from_teacher, tile, p.classes, first, second, offset);
    if (p.grad_student) store_lanes(tile.student, rows, p.classes, gradient_row<Storage>(p, p.grad_student, i));
    if (p.grad_teacher) store_lanes(tile.teacher, rows, p.classes, gradient_row<Storage>(p, p.grad_teacher, i));
  }
}

template <typename T, typename Storage>
void forward_rows(const KlDisagreementParams& p, i64 begin, i64 end) {
  if (is_narrow(p)) return narrow_rows<T, Storage>(p, begin, end, false);
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

// Forward and gradients of each row while it is in cache. The gradients may be where the logits are.
template <typename T, typename Storage>
void gradient_rows(const KlDisagreementParams& p, i64 begin, i64 end) {
  if (is_narrow(p)) return narrow_rows<T, Storage>(p, begin, end, true);
  const RowBuffers<T, Storage> buffers(p.classes);
  const bool from_teacher = p.divergence == Divergence::kForward;
  T* const scratch = new T[static_cast<unsigned long>(3 * p.classes)];
  const RowTerms<T> terms = {scratch, scratch + p.classes, scratch + 2 * p.classes};
  for (i64 i = begin; i < end; ++i) {
    const RowView<T> row = row_view(p, i, buffers, p.temperature);
    T* stats = static_cast<T*>(p.row_stats) + kRowStats * i;
    if (p.divergence == Divergence::kJensenShannon) {
      row_forward<false>(row, stats);
      row_forward_mixture(row, stats);
      backward_row<Divergence::kJensenShannon, T, Storage>(p, row, i);
      continue;
    }
    const i64 next = i + 1 < end ? i + 1 : i;
    const Ahead ahead = {{static_cast<const Storage*>(p.student) + next * p.student_row,
                          static_cast<const Storage*>(p.teacher) + next * p.teacher_row,
                          gradient_row<Storage>(p, p.grad_student, i), gradient_row<Storage>(p, p.grad_teacher, i)},
                         static_cast<i64>(sizeof(Storage))};
    if (from_teacher) {
      row_forward<true, true>(row, stats, terms, ahead);
    } else {
      row_forward<false, true>(row, stats, terms, ahead);
    }
    gradients_from_terms(from_teacher, terms, p.classes, GradientScales<T>(from_teacher, stats, row_grad<T>(p, i)),
                         gradient_row<Storage>(p, p.grad_student, i), gradient_row<Storage>(p, p.grad_teacher, i));
  }
  delete[] scratch;
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

void gradient_range(const KlDisagreementParams& p, i64 begin, i64 end) {
  for_types(p.dtype, [&](auto types) {
    gradient_rows<typename decltype(types)::Compute, typename decltype(types)::Storage>(p, begin, end);
  });
}

}  // namespace

extern const KlDisagreementKernels kl_disagreement_kernels;
const KlDisagreementKernels kl_disagreement_kernels = {{forward_range, reduce_range, backward_range}, gradient_range};

HARDFAST_END
