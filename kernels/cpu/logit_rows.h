// What the CPU kernels on rows of logits share: rows in the arithmetic's type, maxima, and the divergence of a row.
// A row is read from memory once; the passes over it after the first find it in cache.
#pragma once

#include "../kl_params.h"
#include "../math/disagreement.h"
#include "vectors.h"

HARDFAST_BEGIN

using i64 = std::int64_t;

// Sums are float over this many classes, and double above: nearly as exact as double throughout, and twice as fast.
constexpr i64 kBlock = 128;

template <typename T>
T max_of(const T* values, i64 n) {
  // The second one stays where either is NaN: it may then come straight from memory.
  const auto larger = [](Vec8<T> a, Vec8<T> b) __attribute__((always_inline)) { return a > b ? a : b; };
  T result = -static_cast<T>(__builtin_inf());
  i64 k = 0;
  if (n >= 8) {
    Vec8<T> lanes[4];  // several vectors of running maxima, to hide the latency of each
    for (int j = 0; j < 4; ++j) lanes[j] = splat8(result);
    for (; k + 32 <= n; k += 32) {
      for (int j = 0; j < 4; ++j) lanes[j] = larger(lanes[j], load8(values + k + 8 * j));
    }
    for (; k < n; k += 8) lanes[0] = larger(lanes[0], load8(values + (k + 8 <= n ? k : n - 8)));  // the last overlap
    const Vec8<T> all = larger(larger(lanes[0], lanes[1]), larger(lanes[2], lanes[3]));
    for (int j = 0; j < 8; ++j) result = all[j] > result ? all[j] : result;
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

// The gradient of the loss that the row belongs to; 1 if none is given.
template <typename T>
double incoming_grad(const LogitRowsParams& p, i64 row) {
  if (!p.grad_loss) return 1;
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

// Shifted and scaled logits: exp of them never overflows. The differences are the other way round because one of them
// is then a single instruction on a logit in memory.
template <typename T>
HARDFAST_HD T scaled(T logit, T shift, T inverse_temperature) {
  return (shift - logit) * -inverse_temperature;
}

// What the gradients of a row are made of, class by class.
template <typename T>
struct RowTerms {
  T *exp_student, *exp_teacher;
  T* weighted;  // the difference of both logits, times the exponential that the divergence is weighted by
};

// Fills the row's statistics from its sums, with KL(teacher || student) or else KL(student || teacher).
template <typename T>
void set_stats(bool from_teacher, T shift_s, double sum_s, T shift_t, double sum_t, double weighted, T* stats) {
  const double inverse_s = 1 / sum_s, inverse_t = 1 / sum_t;
  const double gap = __builtin_log(sum_s * inverse_t);
  const double kl = from_teacher ? weighted * inverse_t + gap : weighted * inverse_s - gap;
  const double result = kl < 0 ? 0 : kl;  // negative only by rounding; NaN stays
  stats[kStudentShift] = shift_s;
  stats[kStudentInverseSum] = static_cast<T>(inverse_s);
  stats[kTeacherShift] = shift_t;
  stats[kTeacherInverseSum] = static_cast<T>(inverse_t);
  stats[kLogSumGap] = static_cast<T>(gap);
  stats[kFromTeacher] = from_teacher ? static_cast<T>(result) : T(0);
  stats[kFromStudent] = from_teacher ? T(0) : static_cast<T>(result);
}

// Sums over classes.
template <typename T>
struct RowSums {
  T student, teacher, weighted;
};

// Those of `count` classes from `begin` on, for logits below the shifts.
template <bool kFromTeacherSide, bool kKeep, typename T>
HARDFAST_HD RowSums<T> sum_classes(const RowView<T>& row, T shift_s, T shift_t, i64 begin, i64 count,
                                   const RowTerms<T>& terms) {
  const T *const student = row.student + begin, *const teacher = row.teacher + begin;
  T *const exp_student = terms.exp_student + begin, *const exp_teacher = terms.exp_teacher + begin;
  T* const weighted = terms.weighted + begin;
  const T scale = row.inverse_temperature;
  T sum_s = 0, sum_t = 0, sum = 0;
#pragma omp simd reduction(+ : sum_s, sum_t, sum)
  for (i64 k = 0; k < count; ++k) {
    const T s = scaled(student[k], shift_s, scale), t = scaled(teacher[k], shift_t, scale);
    const T exp_s = exp_nonpositive(s), exp_t = exp_nonpositive(t);
    const T term = kFromTeacherSide ? kl_term(exp_t, t - s) : kl_term(exp_s, s - t);
    sum_s += exp_s;
    sum_t += exp_t;
    sum += term;
    if (kKeep) {
      exp_student[k] = exp_s;
      exp_teacher[k] = exp_t;
      weighted[k] = term;
    }
  }
  return {sum_s, sum_t, sum};
}

// Memory that is asked for while a row is computed: what the next row reads, and what this one writes.
struct Ahead {
  static constexpr int kStreams = 4;
  const void* streams[kStreams];  // or null
  i64 element;                    // bytes

  HARDFAST_HD void fetch(i64 begin) const {
    constexpr i64 kLine = 64;
    for (const void* stream : streams) {
      if (!stream) continue;
      const char* at = static_cast<const char*>(stream) + begin * element;
      for (i64 byte = 0; byte < kBlock * element; byte += kLine) __builtin_prefetch(at + byte);
    }
  }
};

// Fills the row's statistics, and its terms if they are kept. Returns the student's sum.
template <bool kFromTeacherSide, bool kKeep = false, typename T>
double row_forward(const RowView<T> row, T* stats, const RowTerms<T> terms = {}, const Ahead ahead = {}) {
  const T shift_s = max_of(row.student, row.classes), shift_t = max_of(row.teacher, row.classes);
  double sum_s = 0, sum_t = 0, weighted = 0;
  for (i64 begin = 0; begin < row.classes; begin += kBlock) {
    const i64 left = row.classes - begin;
    ahead.fetch(begin);
    // Of a length that is known beforehand, a block takes no code but its own.
    const RowSums<T> sums = left >= kBlock
                                ? sum_classes<kFromTeacherSide, kKeep>(row, shift_s, shift_t, begin, kBlock, terms)
                                : sum_classes<kFromTeacherSide, kKeep>(row, shift_s, shift_t, begin, left, terms);
    sum_s += static_cast<double>(sums.student);
    sum_t += static_cast<double>(sums.teacher);
    weighted += static_cast<double>(sums.weighted);
  }
  set_stats(kFromTeacherSide, shift_s, sum_s, shift_t, sum_t, weighted, stats);
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
