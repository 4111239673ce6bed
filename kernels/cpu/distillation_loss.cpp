// CPU kernels of distillation_loss, compiled once for each instruction set (HARDFAST_ISA names it).
//
//   loss = a T^2 KL(t || s) + b CE(s, y),  CE = -sum_k target_k log p_k,  target = (1 - e) [k = y] + e / K
//   d/ds = a T (q_s - q_t) + b (p - target),  d/dt = a T q_t (log q_t/q_s - KL)
//
// q are probabilities at temperature T, p those of the student at temperature 1.
#include "distillation_loss.h"

#include "narrow_rows.h"

HARDFAST_BEGIN

namespace {

// Whether the sum of a row's exponentials at temperature 1 is wanted, and is another one than the divergence has.
bool sums_again(const DistillationLossParams& p) { return p.temperature != 1 && p.label_weight != 0; }

// The cross-entropy of one row; `sum` is that of exp(logit - shift). A label that is no class gives NaN.
template <typename T>
void label_forward(const DistillationLossParams& p, const T* logits, i64 label, double sum, T* stats) {
  if (label == p.ignore_index || p.label_weight == 0) {
    stats[kLabelInverseSum] = stats[kLabelLoss] = 0;
    return;
  }
  if (label < 0 || label >= p.classes) {
    stats[kLabelInverseSum] = stats[kLabelLoss] = static_cast<T>(__builtin_nan(""));
    return;
  }
  const T shift = stats[kStudentShift];
  double target = (1 - p.label_smoothing) * static_cast<double>(logits[label] - shift);
  if (p.label_smoothing != 0) {
    double total = 0;
#pragma omp simd reduction(+ : total)
    for (i64 k = 0; k < p.classes; ++k) total += static_cast<double>(logits[k] - shift);
    target += p.label_smoothing * total / static_cast<double>(p.classes);
  }
  stats[kLabelInverseSum] = static_cast<T>(1 / sum);
  stats[kLabelLoss] = static_cast<T>(__builtin_log(sum) - target);
}

// What the gradients of a row are multiplied by.
template <typename T>
struct RowGrads {
  T kl;             // that of the loss, times T and the weight of the divergence
  T label;          // that of the loss, times the weight and the share of the cross-entropy
  T smooth_target;  // the target of every class, and
  T label_target;   // what the label has more
};

template <bool kStudent, bool kTeacher, typename T, typename Storage>
void row_backward(const RowView<T>& row, const T* stats, const RowGrads<T>& grads, i64 label, Storage* grad_student,
                  Storage* grad_teacher) {
  const T label_scale = grads.label * stats[kLabelInverseSum], smooth = grads.label * grads.smooth_target;
#pragma omp simd
  for (i64 k = 0; k < row.classes; ++k) {
    const Probabilities<T> at = probabilities(row, stats, k);
    if (kStudent) {
      const T exp_label = exp_nonpositive(row.student[k] - stats[kStudentShift]);
      grad_student[k] = narrow<Storage>(grads.kl * grad_kl_second(at.p_t, at.p_s) + (label_scale * exp_label - smooth));
    }
    if (kTeacher) {
      const T to_teacher = grads.kl * grad_kl_first(at.p_t, at.gap, stats[kFromTeacher]);
      grad_teacher[k] = narrow<Storage>(grads.kl == T(0) ? T(0) : to_teacher);
    }
  }
  if (kStudent && grads.label != 0 && label >= 0 && label < row.classes) {
    const Probabilities<T> at = probabilities(row, stats, label);
    const T p = exp_nonpositive(row.student[label] - stats[kStudentShift]) * stats[kLabelInverseSum];
    grad_student[label] = narrow<Storage>(grads.kl * grad_kl_second(at.p_t, at.p_s) +
                                          grads.label * (p - grads.smooth_target - grads.label_target));
  }
}

// Rows of few classes.
template <typename T, typename Storage>
void narrow_forward_rows(const DistillationLossParams& p, i64 begin, i64 end) {
  const RowBuffers<T, Storage> buffers(p.classes);
  NarrowRows<T> tile;
  for (i64 i = begin; i < end; i += kRowLanes) {
    const i64 rows = end - i < kRowLanes ? end - i : kRowLanes;
    T* const first = static_cast<T*>(p.row_stats) + kDistillationStats * i;
    load_models<Storage>(p, i, rows, tile);
    Vec8<T> sums =
        narrow_forward(true, tile, rows, p.classes, static_cast<T>(1 / p.temperature), first, kDistillationStats);
    if (sums_again(p)) {
      Vec8<T> shift{};
      for (i64 lane = 0; lane < rows; ++lane) shift[lane] = first[kDistillationStats * lane + kStudentShift];
      load_student<Storage>(p, i, rows, tile);
      exp_lanes(tile.student, p.classes, shift);
      sums = sum_lanes(tile.student, p.classes);
    }
    for (i64 lane = 0; lane < rows; ++lane) {
      label_forward(p, row_view(p, i + lane, buffers).student, p.labels[(i + lane) * p.label_stride],
                    static_cast<double>(sums[lane]), first + kDistillationStats * lane);
    }
  }
}

template <typename T, typename Storage>
void forward_rows(const DistillationLossParams& p, i64 begin, i64 end) {
  if (p.classes <= kNarrow) return narrow_forward_rows<T, Storage>(p, begin, end);
  const RowBuffers<T, Storage> buffers(p.classes);
  for (i64 i = begin; i < end; ++i) {
    const RowView<T> row = row_view(p, i, buffers, p.temperature);
    T* stats = static_cast<T*>(p.row_stats) + kDistillationStats * i;
    const i64 label = p.labels[i * p.label_stride];
    double sum = row_forward<true>(row, stats);
    if (sums_again(p) && label != p.ignore_index) sum = exp_sum(row.student, p.classes, stats[kStudentShift]);
    label_forward(p, row.student, label, sum, stats);
  }
}

template <typename T>
void reduce_groups(const DistillationLossParams& p, i64 begin, i64 end) {
  for (i64 group = begin; group < end; ++group) {
    const i64 first = p.group_rows * group, last = first + p.group_rows;
    T* stats = static_cast<T*>(p.row_stats);
    double kl = 0, label_loss = 0;
    i64 valid = 0;
    for (i64 i = first; i < last; ++i) {
      kl += static_cast<double>(stats[kDistillationStats * i + kFromTeacher]);
      label_loss += static_cast<double>(stats[kDistillationStats * i + kLabelLoss]);
      valid += p.labels[i * p.label_stride] != p.ignore_index;
    }
    const double share = p.mean_over_valid ? 1 / static_cast<double>(valid) : 1;
    for (i64 i = first; i < last; ++i) {
      const bool ignored = p.labels[i * p.label_stride] == p.ignore_index;
      stats[kDistillationStats * i + kLabelShare] = ignored ? T(0) : static_cast<T>(share);
    }
    double loss = 0;
    if (p.kl_weight != 0) loss += p.kl_weight * p.temperature * p.temperature * kl / static_cast<double>(p.divisor);
    if (p.label_weight != 0) loss += p.label_weight * share * label_loss;
    static_cast<T*>(p.loss)[group] = static_cast<T>(loss);
  }
}

template <typename T, typename Storage>
void backward_rows(const DistillationLossParams& p, i64 begin, i64 end) {
  const RowBuffers<T, Storage> buffers(p.classes);
  for (i64 i = begin; i < end; ++i) {
    const RowView<T> row = row_view(p, i, buffers, p.temperature);
    const i64 label = p.labels[i * p.label_stride];
    const T* stats = static_cast<const T*>(p.row_stats) + kDistillationStats * i;
    const double grad = incoming_grad<T>(p, i);
    RowGrads<T> grads;
    grads.kl = static_cast<T>(grad * p.kl_weight * p.temperature / static_cast<double>(p.divisor));
    grads.label = static_cast<T>(grad * p.label_weight * static_cast<double>(stats[kLabelShare]));
    grads.smooth_target = static_cast<T>(p.label_smoothing / static_cast<double>(p.classes));
    grads.label_target = static_cast<T>(1 - p.label_smoothing);
    Storage* grad_student = gradient_row<Storage>(p, p.grad_student, i);
    Storage* grad_teacher = gradient_row<Storage>(p, p.grad_teacher, i);
    if (grad_student && grad_teacher) {
      row_backward<true, true>(row, stats, grads, label, grad_student, grad_teacher);
    } else if (grad_student) {
      row_backward<true, false>(row, stats, grads, label, grad_student, grad_teacher);
    } else {
      row_backward<false, true>(row, stats, grads, label, grad_student, grad_teacher);
    }
  }
}

void forward_range(const DistillationLossParams& p, i64 begin, i64 end) {
  for_types(p.dtype, [&](auto types) {
    forward_rows<typename decltype(types)::Compute, typename decltype(types)::Storage>(p, begin, end);
  });
}

void reduce_range(const DistillationLossParams& p, i64 begin, i64 end) {
  return p.dtype == DType::kFloat64 ? reduce_groups<double>(p, begin, end) : reduce_groups<float>(p, begin, end);
}

void backward_range(const DistillationLossParams& p, i64 begin, i64 end) {
  for_types(p.dtype, [&](auto types) {
    backward_rows<typename decltype(types)::Compute, typename decltype(types)::Storage>(p, begin, end);
  });
}

}  // namespace

extern const DistillationLossKernels distillation_loss_kernels;
const DistillationLossKernels distillation_loss_kernels = {forward_range, reduce_range, backward_range};

HARDFAST_END
