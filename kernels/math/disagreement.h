// Terms of the divergences between a teacher's and a student's distribution, and their gradients to the logits.
// p and q are probabilities, gap = log p - log q. Classes of probability zero count as zero.
#pragma once

#include "exponential.h"
#include "macros.h"

HARDFAST_BEGIN

// One class of KL(p || q) = sum p * (log p - log q). A NaN in p stays.
template <typename T>
HARDFAST_HD T kl_term(T p, T gap) {
  return p == T(0) ? T(0) : p * gap;
}

// d KL(p || q) / d (logits of p), for p = softmax(logits).
template <typename T>
HARDFAST_HD T grad_kl_first(T p, T gap, T divergence) {
  return p == T(0) ? T(0) : p * (gap - divergence);
}

// d KL(p || q) / d (logits of q).
template <typename T>
HARDFAST_HD T grad_kl_second(T p, T q) {
  return q - p;
}

// Jensen-Shannon: the logarithms of p and of q over their mean m.
template <typename T>
struct MixtureGaps {
  T p, q;  // log(p / m), log(q / m)
};

template <typename T>
HARDFAST_HD MixtureGaps<T> mixture_gaps(T gap) {
  // log(p / m) = log 2 - log(1 + exp(-gap)), with the exponent kept below zero on either side.
  const T size = gap < T(0) ? -gap : gap;
  const T larger = T(0.693147180559945309) - log1p_unit(exp_nonpositive(-size));
  const T smaller = larger - size;
  return gap < T(0) ? MixtureGaps<T>{smaller, larger} : MixtureGaps<T>{larger, smaller};
}

// d (KL(p || m) + KL(q || m)) / d (logits of p): the terms through m cancel.
template <typename T>
HARDFAST_HD T grad_mixture(T p, T gap_to_mixture, T divergence) {
  return grad_kl_first(p, gap_to_mixture, divergence);
}

HARDFAST_END
