// The sampler that parameters ask for, as a type.
#pragma once

#include "warp_sampler.h"

HARDFAST_BEGIN

template <typename S>
struct Tag {
  using Type = S;
};

// Calls function(Tag<Sampler<...>>) with the type that the parameters ask for. Bicubic taps are padded one by one, so
// one type serves all rules there. float64 is for checking gradients rather than for speed: one type serves all rules
// there too, which halves the time to compile.
template <typename Function>
inline void by_sampler(const WarpParams& p, const Function& function) {
  if (p.dtype == DType::kFloat64) {
    switch (p.mode) {
      case Mode::kNearest: return function(Tag<Sampler<double, AnyPadding, Mode::kNearest>>{});
      case Mode::kBicubic: return function(Tag<Sampler<double, ConstantPadding, Mode::kBicubic>>{});
      default: return function(Tag<Sampler<double, AnyPadding, Mode::kBilinear>>{});
    }
  }
  if (p.mode == Mode::kBicubic) return function(Tag<Sampler<float, ConstantPadding, Mode::kBicubic>>{});
  const bool nearest = p.mode == Mode::kNearest;
  switch (p.padding) {
    case Padding::kBorder:
      return nearest ? function(Tag<Sampler<float, BorderPadding, Mode::kNearest>>{})
                     : function(Tag<Sampler<float, BorderPadding, Mode::kBilinear>>{});
    case Padding::kReflection:
      return nearest ? function(Tag<Sampler<float, ReflectionPadding, Mode::kNearest>>{})
                     : function(Tag<Sampler<float, ReflectionPadding, Mode::kBilinear>>{});
    default:
      return nearest ? function(Tag<Sampler<float, ConstantPadding, Mode::kNearest>>{})
                     : function(Tag<Sampler<float, ConstantPadding, Mode::kBilinear>>{});
  }
}

HARDFAST_END
