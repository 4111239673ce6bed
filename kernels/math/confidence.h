// A disagreement about the probability p of the label, as a function of the log-odds of both models,
// log_odds = log(p / (1 - p)), which keep p and 1 - p exact where either is nearly one.
#pragma once

#include "exponential.h"
#include "macros.h"

HARDFAST_BEGIN

template <typename T>
struct Confidence {
  T p, rest;  // rest = 1 - p
  T log_p, log_rest;
};

template <typename T>
HARDFAST_HD Confidence<T> confidence_of(T log_odds) {
  const T size = log_odds < T(0) ? -log_odds : log_odds;
  const T small = exp_nonpositive(-size);
  const T larger = T(1) / (T(1) + small), smaller = small * larger;
  const T log_larger = -log1p_unit(small), log_smaller = log_larger - size;
  return log_odds < T(0) ? Confidence<T>{smaller, larger, log_smaller, log_larger}
                         : Confidence<T>{larger, smaller, log_larger, log_smaller};
}

template <typename T>
HARDFAST_HD T probability_power(T p, T log_p, T gamma) {
  return gamma == T(1) ? p : exp_nonpositive(gamma * log_p);
}

// d (p ** gamma) / d log_odds, from dp / d log_odds = p (1 - p).
template <typename T>
HARDFAST_HD T grad_probability_power(T p, T log_p, T rest, T gamma) {
  return gamma * probability_power(p, log_p, gamma) * rest;
}

HARDFAST_END
