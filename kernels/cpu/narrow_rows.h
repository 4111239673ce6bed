// Rows of few logits, eight at a time with a lane each: along a row of ten most of a vector is unused, and maxima and
// sums are taken number by number. What a row gets does not depend on its lane, nor on the rows beside it.
#pragma once

#include "logit_rows.h"

HARDFAST_BEGIN

constexpr i64 kNarrow = 16;  // logits of a row at most
constexpr i64 kRowLanes = 8;

template <typename T>
struct NarrowRows {
  alignas(64) T student[kNarrow * kRowLanes], teacher[kNarrow * kRowLanes];  // logits; then their exponentials
  alignas(64) T weighted[kNarrow * kRowLanes];                               // as in RowTerms
};

template <typename T, typename Storage>
Vec8<T> widen8(const Storage* source) {
  T values[8];
  for (int k = 0; k < 8; ++k) values[k] = widen(source[k]);
  return load8(values);
}

template <typename T, typename Storage>
void narrow8(Vec8<T> vector, Storage* target) {
  T values[8];
  store8(values, vector);
  for (int k = 0; k < 8; ++k) target[k] = narrow<Storage>(values[k]);
}

// Lanes beyond the rows repeat the first one. Of eight classes or more, the last eight overlap those before.
template <typename T, typename Storage>
void load_lanes(const Storage* first, i64 stride, i64 rows, i64 classes, T* lanes) {
  const Storage* row[kRowLanes];
  for (i64 lane = 0; lane < kRowLanes; ++lane) row[lane] = first + (lane < rows ? lane * stride : 0);
  for (i64 block = 0; classes >= 8 && block < classes; block += 8) {
    const i64 at = block + 8 <= classes ? block : classes - 8;
    Vec8<T> v[8];
    for (int lane = 0; lane < 8; ++lane) v[lane] = widen8<T>(row[lane] + at);
    transpose8(v);
    for (int k = 0; k < 8; ++k) store8(lanes + kRowLanes * (at + k), v[k]);
  }
  for (i64 k = 0; classes < 8 && k < classes; ++k) {
    for (i64 lane = 0; lane < kRowLanes; ++lane) lanes[kRowLanes * k + lane] = widen(row[lane][k]);
  }
}

// The student's logits from a row on, and those of both models.
template <typename Storage, typename T>
void load_student(const LogitRowsParams& p, i64 row, i64 rows, NarrowRows<T>& tile) {
  load_lanes(static_cast<const Storage*>(p.student) + row * p.student_row, p.student_row, rows, p.classes,
             tile.student);
}

template <typename Storage, typename T>
void load_models(const LogitRowsParams& p, i64 row, i64 rows, NarrowRows<T>& tile) {
  load_student<Storage>(p, row, rows, tile);
  load_lanes(static_cast<const Storage*>(p.teacher) + row * p.teacher_row, p.teacher_row, rows, p.classes,
             tile.teacher);
}

template <typename T, typename Storage>
void store_lanes(const T* lanes, i64 rows, i64 classes, Storage* first) {
  for (i64 block = 0; classes >= 8 && block < classes; block += 8) {
    const i64 at = block + 8 <= classes ? block : classes - 8;
    Vec8<T> v[8];
    for (int k = 0; k < 8; ++k) v[k] = load8(lanes + kRowLanes * (at + k));
    transpose8(v);
    for (int lane = 0; lane < rows; ++lane) narrow8<T>(v[lane], first + lane * classes + at);
  }
  for (i64 k = 0; classes < 8 && k < classes; ++k) {
    for (i64 lane = 0; lane < rows; ++lane) first[lane * classes + k] = narrow<Storage>(lanes[kRowLanes * k + lane]);
  }
}

// Shifts and scales the logits of every lane; returns the shifts.
template <typename T>
Vec8<T> scale_lanes(T* lanes, i64 classes, T inverse_temperature) {
  Vec8<T> shift = splat8(-static_cast<T>(__builtin_inf()));
  for (i64 k = 0; k < classes; ++k) {
    const Vec8<T> logits = load8(lanes + kRowLanes * k);
    shift = logits > shift ? logits : shift;
  }
  for (i64 k = 0; k < classes; ++k) {
    store8(lanes + kRowLanes * k, (shift - load8(lanes + kRowLanes * k)) * -inverse_temperature);
  }
  return shift;
}

template <typename T>
Vec8<T> sum_lanes(const T* lanes, i64 classes) {
  Vec8<T> sum{};
  for (i64 k = 0; k < classes; ++k) sum += load8(lanes + kRowLanes * k);
  return sum;
}

// Logits become the exponentials of what they have more than the shifts.
template <typename T>
void exp_lanes(T* lanes, i64 classes, Vec8<T> shift) {
  for (i64 k = 0; k < classes; ++k) store8(lanes + kRowLanes * k, load8(lanes + kRowLanes * k) - shift);
#pragma omp simd
  for (i64 i = 0; i < kRowLanes * classes; ++i) lanes[i] = exp_nonpositive(lanes[i]);
}

// row_forward() of the rows that load_lanes() has brought, with their terms; `stride` lies between their statistics.
template <typename T>
Vec8<T> narrow_forward(bool from_teacher, NarrowRows<T>& tile, i64 rows, i64 classes, T inverse_temperature, T* stats,
                       i64 stride) {
  const Vec8<T> shift_s = scale_lanes(tile.student, classes, inverse_temperature);
  const Vec8<T> shift_t = scale_lanes(tile.teacher, classes, inverse_temperature);
  T* const first = from_teacher ? tile.teacher : tile.student;
  T* const second = from_teacher ? tile.student : tile.teacher;
#pragma omp simd
  for (i64 i = 0; i < kRowLanes * classes; ++i) {
    const T exp_first = exp_nonpositive(first[i]);
    tile.weighted[i] = kl_term(exp_first, first[i] - second[i]);
    first[i] = exp_first;
    second[i] = exp_nonpositive(second[i]);
  }
  const Vec8<T> sum_s = sum_lanes(tile.student, classes), sum_t = sum_lanes(tile.teacher, classes);
  const Vec8<T> weighted = sum_lanes(tile.weighted, classes);
  for (i64 lane = 0; lane < rows; ++lane) {
    set_stats(from_teacher, shift_s[lane], static_cast<double>(sum_s[lane]), shift_t[lane],
              static_cast<double>(sum_t[lane]), static_cast<double>(weighted[lane]), stats + stride * lane);
  }
  return sum_s;
}

// The exponentials become gradients. Each lane has scales of its own.
template <typename T>
void narrow_gradients(bool from_teacher, NarrowRows<T>& tile, i64 classes, Vec8<T> scale_first, Vec8<T> scale_second,
                      Vec8<T> offset) {
  T* const first = from_teacher ? tile.teacher : tile.student;
  T* const second = from_teacher ? tile.student : tile.teacher;
  for (i64 i = 0; i < kRowLanes * classes; i += kRowLanes) {
    const Vec8<T> exp_first = load8(first + i), exp_second = load8(second + i);
    store8(first + i, scale_first * (exp_first * offset + load8(tile.weighted + i)));
    store8(second + i, exp_second * scale_second - exp_first * scale_first);
  }
}

HARDFAST_END
