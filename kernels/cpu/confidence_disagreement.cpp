// CPU kernels of confidence_disagreement, compiled once for each instruction set (HARDFAST_ISA names it).
//
//   l = z_y - log sum_{k != y} exp z_k, the log-odds of the label y;  p = 1 / (1 + exp(-l))
//   probability:  p_t^gamma + (1 - p_s)^gamma        log:  log p_t + log(1 - p_s)        logit:  l_t - l_s
//   dl/dz_y = 1,  dl/dz_k = -exp(z_k) / sum_{j != y} exp z_j
#include "confidence_disagreement.h"

#include "../math/confidence.h"
#include "narrow_rows.h"

HARDFAST_BEGIN

namespace {

// The model's statistics of one row, from the sum over the other classes. A label that is no class makes them NaN.
template <typename T>
void set_model_stats(T label_logit, T shift, double sum, bool is_class, T* stats) {
  if (!is_class) {
    for (i64 j = 0; j < kStatsOfModel; ++j) stats[j] = static_cast<T>(__builtin_nan(""));
    return;
  }
  const double above = static_cast<double>(label_logit) - static_cast<double>(shift);
  stats[kLogOdds] = static_cast<T>(above - __builtin_log(sum));
  stats[kOthersShift] = shift;
  stats[kOthersInverseSum] = sum == 0 ? T(0) : static_cast<T>(1 / sum);
}

// The same from its logits.
template <typename T>
void label_log_odds(const T* logits, i64 classes, i64 label, T* stats) {
  if (label < 0 || label >= classes) return set_model_stats(T(0), T(0), 0, false, stats);
  const T* after = logits + label + 1;
  const i64 rest = classes - label - 1;
  const T before_max = max_of(logits, label), after_max = max_of(after, rest);
  const T largest = before_max > after_max ? before_max : after_max;
  // Where every other class is excluded, any finite shift gives the sum of zero that it should be.
  const T shift = largest == -static_cast<T>(__builtin_inf()) ? T(0) : largest;
  const double sum = exp_sum(logits, label, shift) + exp_sum(after, rest, shift);
  set_model_stats(logits[label], shift, sum, true, stats);
}

// The labels of up to eight rows, a lane each; those beyond the rows, and what is no class, are -1.
template <typename T>
Vec8<T> label_lanes(const ConfidenceDisagreementParams& p, i64 row, i64 rows) {
  Vec8<T> labels = splat8(T(-1));
  for (i64 lane = 0; lane < rows; ++lane) {
    const i64 label = p.labels[(row + lane) * p.label_stride];
    if (label >= 0 && label < p.classes) labels[lane] = static_cast<T>(label);
  }
  return labels;
}

// label_log_odds() of rows that load_lanes() has brought.
template <typename T>
void narrow_log_odds(T* lanes, i64 classes, Vec8<T> labels, i64 rows, T* stats) {
  const Vec8<T> lowest = splat8(-static_cast<T>(__builtin_inf()));
  Vec8<T> label_logits{}, largest = lowest;
  for (i64 k = 0; k < classes; ++k) {
    const Vec8<T> logits = load8(lanes + kRowLanes * k);
    const auto is_label = labels == splat8(static_cast<T>(k));
    const Vec8<T> others = is_label ? lowest : logits;
    label_logits = is_label ? logits : label_logits;
    largest = others > largest ? others : largest;
    store8(lanes + kRowLanes * k, others);
  }
  const Vec8<T> shift = largest == lowest ? Vec8<T>{} : largest;
  exp_lanes(lanes, classes, shift);
  const Vec8<T> sums = sum_lanes(lanes, classes);
  for (i64 lane = 0; lane < rows; ++lane) {
    set_model_stats(label_logits[lane], shift[lane], static_cast<double>(sums[lane]), labels[lane] >= 0,
                    stats + kConfidenceStats * lane);
  }
}

template <typename T>
T value_of(const ConfidenceDisagreementParams& p, T student_log_odds, T teacher_log_odds) {
  if (p.form == ConfidenceForm::kLogit) return teacher_log_odds - student_log_odds;
  const Confidence<T> student = confidence_of(student_log_odds), teacher = confidence_of(teacher_log_odds);
  if (p.form == ConfidenceForm::kLog) return teacher.log_p + student.log_rest;
  const T gamma = static_cast<T>(p.gamma);
  return probability_power(teacher.p, teacher.log_p, gamma) + probability_power(student.rest, student.log_rest, gamma);
}

// d value / d log-odds.
template <typename T>
T grad_student_log_odds(const ConfidenceDisagreementParams& p, T log_odds) {
  const Confidence<T> student = confidence_of(log_odds);
  switch (p.form) {
    case ConfidenceForm::kLogit: return T(-1);
    case ConfidenceForm::kLog: return -student.p;
    default: return -grad_probability_power(student.rest, student.log_rest, student.p, static_cast<T>(p.gamma));
  }
}

template <typename T>
T grad_teacher_log_odds(const ConfidenceDisagreementParams& p, T log_odds) {
  const Confidence<T> teacher = confidence_of(log_odds);
  switch (p.form) {
    case ConfidenceForm::kLogit: return T(1);
    case ConfidenceForm::kLog: return teacher.rest;
    default: return grad_probability_power(teacher.p, teacher.log_p, teacher.rest, static_cast<T>(p.gamma));
  }
}

// The gradient of one row's value.
template <typename T>
T row_grad(const ConfidenceDisagreementParams& p, i64 row) {
  return static_cast<T>(incoming_grad<T>(p, row) / static_cast<double>(p.divisor));
}

template <typename T, typename Storage>
void row_backward(const T* logits, i64 classes, i64 label, const T* stats, T grad, Storage* grad_logits) {
  const T shift = stats[kOthersShift], scale = -grad * stats[kOthersInverseSum];
#pragma omp simd
  for (i64 k = 0; k < classes; ++k) grad_logits[k] = narrow<Storage>(scale * exp_nonpositive(logits[k] - shift));
  if (label >= 0 && label < classes) grad_logits[label] = narrow<Storage>(grad);
}

// row_backward() of rows that load_lanes() has brought: the logits become gradients.
template <typename T>
void narrow_backward(T* lanes, i64 classes, Vec8<T> labels, Vec8<T> shift, Vec8<T> scale, Vec8<T> grad) {
  exp_lanes(lanes, classes, shift);
  for (i64 k = 0; k < classes; ++k) {
    const Vec8<T> others = scale * load8(lanes + kRowLanes * k);
    store8(lanes + kRowLanes * k, labels == splat8(static_cast<T>(k)) ? grad : others);
  }
}

template <typename T, typename Storage>
void narrow_forward_rows(const ConfidenceDisagreementParams& p, i64 begin, i64 end) {
  NarrowRows<T> tile;
  for (i64 i = begin; i < end; i += kRowLanes) {
    const i64 rows = end - i < kRowLanes ? end - i : kRowLanes;
    T* stats = static_cast<T*>(p.row_stats) + kConfidenceStats * i;
    const Vec8<T> labels = label_lanes<T>(p, i, rows);
    load_models<Storage>(p, i, rows, tile);
    narrow_log_odds(tile.student, p.classes, labels, rows, stats);
    narrow_log_odds(tile.teacher, p.classes, labels, rows, stats + kStatsOfModel);
    for (i64 lane = 0; lane < rows; ++lane, stats += kConfidenceStats) {
      stats[kConfidenceValue] = value_of(p, stats[kLogOdds], stats[kStatsOfModel + kLogOdds]);
    }
  }
}

template <typename T, typename Storage>
void narrow_backward_rows(const ConfidenceDisagreementParams& p, i64 begin, i64 end) {
  NarrowRows<T> tile;
  for (i64 i = begin; i < end; i += kRowLanes) {
    const i64 rows = end - i < kRowLanes ? end - i : kRowLanes;
    const Vec8<T> labels = label_lanes<T>(p, i, rows);
    load_models<Storage>(p, i, rows, tile);
    const auto write = [&](void* gradient, T* lanes, i64 model, auto grad_log_odds) {
      if (!gradient) return;
      const T* stats = static_cast<const T*>(p.row_stats) + kConfidenceStats * i + model;
      Vec8<T> shift{}, scale{}, grad{};
      for (i64 lane = 0; lane < rows; ++lane, stats += kConfidenceStats) {
        grad[lane] = row_grad<T>(p, i + lane) * grad_log_odds(p, stats[kLogOdds]);
        shift[lane] = stats[kOthersShift];
        scale[lane] = -grad[lane] * stats[kOthersInverseSum];
      }
      narrow_backward(lanes, p.classes, labels, shift, scale, grad);
      store_lanes(lanes, rows, p.classes, gradient_row<Storage>(p, gradient, i));
    };
    write(p.grad_student, tile.student, 0, grad_student_log_odds<T>);
    write(p.grad_teacher, tile.teacher, kStatsOfModel, grad_teacher_log_odds<T>);
  }
}

template <typename T, typename Storage>
void forward_rows(const ConfidenceDisagreementParams& p, i64 begin, i64 end) {
  if (p.classes <= kNarrow) return narrow_forward_rows<T, Storage>(p, begin, end);
  const RowBuffers<T, Storage> buffers(p.classes);
  for (i64 i = begin; i < end; ++i) {
    const RowView<T> row = row_view(p, i, buffers);
    const i64 label = p.labels[i * p.label_stride];
    T* stats = static_cast<T*>(p.row_stats) + kConfidenceStats * i;
    label_log_odds(row.student, p.classes, label, stats);
    label_log_odds(row.teacher, p.classes, label, stats + kStatsOfModel);
    stats[kConfidenceValue] = value_of(p, stats[kLogOdds], stats[kStatsOfModel + kLogOdds]);
  }
}

template <typename T>
void reduce_groups(const ConfidenceDisagreementParams& p, i64 begin, i64 end) {
  for (i64 group = begin; group < end; ++group) {
    const T* stats = static_cast<const T*>(p.row_stats) + kConfidenceStats * p.group_rows * group;
    double sum = 0;
    for (i64 i = 0; i < p.group_rows; ++i) sum += static_cast<double>(stats[kConfidenceStats * i + kConfidenceValue]);
    static_cast<T*>(p.loss)[group] = static_cast<T>(sum / static_cast<double>(p.divisor));
  }
}

template <typename T, typename Storage>
void backward_rows(const ConfidenceDisagreementParams& p, i64 begin, i64 end) {
  if (p.classes <= kNarrow) return narrow_backward_rows<T, Storage>(p, begin, end);
  const RowBuffers<T, Storage> buffers(p.classes);
  for (i64 i = begin; i < end; ++i) {
    const RowView<T> row = row_view(p, i, buffers);
    const i64 label = p.labels[i * p.label_stride];
    const T* student = static_cast<const T*>(p.row_stats) + kConfidenceStats * i;
    const T* teacher = student + kStatsOfModel;
    const T grad = row_grad<T>(p, i);
    if (Storage* target = gradient_row<Storage>(p, p.grad_student, i)) {
      row_backward(row.student, p.classes, label, student, grad * grad_student_log_odds(p, student[kLogOdds]), target);
    }
    if (Storage* target = gradient_row<Storage>(p, p.grad_teacher, i)) {
      row_backward(row.teacher, p.classes, label, teacher, grad * grad_teacher_log_odds(p, teacher[kLogOdds]), target);
    }
  }
}

void forward_range(const ConfidenceDisagreementParams& p, i64 begin, i64 end) {
  for_types(p.dtype, [&](auto types) {
    forward_rows<typename decltype(types)::Compute, typename decltype(types)::Storage>(p, begin, end);
  });
}

void reduce_range(const ConfidenceDisagreementParams& p, i64 begin, i64 end) {
  return p.dtype == DType::kFloat64 ? reduce_groups<double>(p, begin, end) : reduce_groups<float>(p, begin, end);
}

void backward_range(const ConfidenceDisagreementParams& p, i64 begin, i64 end) {
  for_types(p.dtype, [&](auto types) {
    backward_rows<typename decltype(types)::Compute, typename decltype(types)::Storage>(p, begin, end);
  });
}

}  // namespace

extern const ConfidenceDisagreementKernels confidence_disagreement_kernels;
const ConfidenceDisagreementKernels confidence_disagreement_kernels = {forward_range, reduce_range, backward_range};

HARDFAST_END
