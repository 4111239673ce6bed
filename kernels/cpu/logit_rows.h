// What the CPU kernels on rows of logits share: rows in the arithmetic's type, maxima, and the divergence of a row.
// A row is read from memory once; the passes over it after the first find it in cache.
#pragma once

#include "../kl_params.h"
#include "../math/disagreement.h"

HARDFAST_BEGIN

using i64 = std::int64_t;

// Sums are float over this many classes, and double above: as exact as double throughout, and twice as fast.
constexpr i64 kBlock = 128;

template <typename T>
T max_of(const T* values, i64 n) {
  constexpr i64 kLanes = 32;  // several vectors of running maxima, to hide the latency of each
  T result = -static_cast<T>(__builtin_inf());
  i64 k = 0;
  if (n >= kLanes) {
    T lanes[kLanes];
    for (i64 j = 0; j < kLanes; ++j) lanes[j] = result;
    for (; k + kLanes <= n; k += kLanes) {
      for (i64 j = 0; j < kLanes; ++j) lanes[j] = values[k + j] > lanes[j] ? values[k + j] : lanes[j];
    }
    for (i64 j = 0; j < kLanes; ++j) result = lanes[j] > result ? lanes[j] : result;
  }
  for (; k < n; ++k) result = values[k] > result ? values[k] : result;
  return result;
}

// The sum of exp(value - shift), for a shift that no value exceeds.
template <typename T>
double exp_sum(const T* values, i64 n, T shift) {
  double sum = 0;
  for (i64 begin = 0; begin < n; begin += kBlock) {
    const i64 end = begin + kBlock < n ? begin + kBlock : n;
    T block = 0;
#pragma omp simd reduction(+ : block)
    for (i64 k = begin; k < end; ++k) block += exp_nonpositive(values[k] - shift);
    sum += static_cast<double>(block);
  }
  return sum;
}

// A row of logits in the arithmetic's type: in place, or widened into `buffer`.
inline const float* widen_logits(const float* row, i64, float*) { return row; }
inline const double* widen_logits(const double* row, i64, double*) { return row; }

template <typename Storage>
const float* widen_logits(const Storage* row, i64 n, float* buffer) {
  for (i64 k = 0; k < n; ++k) buffer[k] = widen(row[k]);
  return buffer;
}

// Widened rows of 16-bit logits; nothing for the other types.
template <typename T, typename Storage>
struct RowBuffers {
  explicit RowBuffers(i64 n) : student(sizeof(Storage) == 2 ? new T[2 * n] : nullptr), teacher(student + n) {}
  ~RowBuffers() { delete[] student; }
  RowBuffers(const RowBuffers&) = delete;
  RowBuffers& operator=(const RowBuffers&) = delete;

  T *student, *teacher;
};

template <typename T>
struct RowView {
  const T *student, *teacher;
  i64 classes;
  T inverse_temperature;
};

template <typename T, typename Storage>
RowView<T> row_view(const LogitRowsParams& p, i64 row, const RowBuffers<T, Storage>& buffers, double temperature = 1) {
  const Storage* student = static_cast<const Storage*>(p.student) + row * p.student_row;
  const Storage* teacher = static_cast<const Storage*>(p.teacher) + row * p.teacher_row;
  return {widen_logits(student, p.classes, buffers.student), widen_logits(teacher, p.classes, buffers.teacher),
          p.classes, static_cast<T>(1 / temperature)};
}

// The gradient of the loss that the row belongs to.
template <typename T>
double incoming_grad(const LogitRowsParams& p, i64 row) {
  return static_cast<double>(static_cast<const T*>(p.grad_loss)[row / p.group_rows * p.grad_loss_stride]);
}

template <typename Storage>
Storage* gradient_row(const LogitRowsParams& p, void* gradient, i64 row) {
  return gradient ? static_cast<Storage*>(gradient) + row * p.classes : nullptr;
}

// Calls function(Types<arithmetic, storage>) for the dtype of the logits.
template <typename ComputeType, typename StorageType>
struct Types {
  using Compute = ComputeType;
  using Storage = StorageType;
};

template <typename Function>
void for_types(DType dtype, Function function) {
  switch (dtype) {
    case DType::kFloat64: return function(Types<double, double>{});
    case DType::kFloat16: return function(Types<float, Half>{});
    case DType::kBFloat16: return function(Types<float, BFloat16>{});
    default: return function(Types<float, float>{});
  }
}

// Shifted and scaled logits: exp of them never overflows.
template <typename T>
HARDFAST_HD T scaled(T logit, T shift, T inverse_temperature) {
  return (logit - shift) * inverse_temperature;
}

// Fills the row's statistics, with KL(teacher || student) or else KL(student || teacher). Returns the student's sum.
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
  const double gap = __builtin_log(sum_s / sum_t);
  const double kl = kFromTeacherSide ? weighted / sum_t + gap : weighted / sum_s - gap;
  const double result = kl < 0 ? 0 : kl;  // negative only by rounding; NaN stays
  stats[kStudentShift] = shift_s;
  stats[kStudentInverseSum] = static_cast<T>(1 / sum_s);
  stats[kTeacherShift] = shift_t;
  stats[kTeacherInverseSum] = static_cast<T>(1 / sum_t);
  stats[kLogSumGap] = static_cast<T>(gap);
  stats[kFromTeacher] = kFromTeacherSide ? static_cast<T>(result) : T(0);
  stats[kFromStudent] = kFromTeacherSide ? T(0) : static_cast<T>(result);
  return sum_s;
}

// Statistics of a row by value: what a loop reads again and again must not seem to change under its stores.
template <typename T>
struct RowStats {
  T at[kRowStats];

  explicit RowStats(const T* stats) { __builtin_memcpy(at, stats, sizeof at); }
};

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

HARDFAST_END
