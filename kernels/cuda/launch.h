// The launches of one warp, for the dtype and mode that its parameters name. Padding, align_corners and the like are
// branches that all threads take alike: compiled in, they would multiply the time to build by twelve.
#pragma once

#include "forward.h"
#include "grad_image.h"
#include "grad_parameters.h"
#include "launch_plain.h"
#include "plain_grad_image.h"
#include "warp.h"

HARDFAST_BEGIN

template <typename Compute, typename Stored, int kTapCount>
struct Variant {
  using T = Compute;
  using Storage = Stored;
  static constexpr int kTaps = kTapCount;
};

template <typename Storage, typename Function>
void with_taps(const WarpParams& p, const Function& function) {
  if (p.mode == Mode::kBicubic) return function(Variant<float, Storage, 4>{});
  function(Variant<float, Storage, 2>{});
}

// float64 is for checking gradients rather than for speed: there one kernel serves all modes.
using DoubleVariant = Variant<double, double, 4>;

// Calls function(Variant) with the storage type, for the forward.
template <typename Function>
void with_storage(const WarpParams& p, const Function& function) {
  switch (p.dtype) {
    case DType::kFloat64: return function(DoubleVariant{});
    case DType::kFloat16: return with_taps<Half>(p, function);
    case DType::kBFloat16: return with_taps<BFloat16>(p, function);
    case DType::kUInt8: return with_taps<std::uint8_t>(p, function);
    default: return with_taps<float>(p, function);
  }
}

// For the gradients, whose kernels tell the three narrower types apart themselves.
template <typename Function>
void with_variant(const WarpParams& p, const Function& function) {
  if (p.dtype == DType::kFloat64) return function(DoubleVariant{});
  with_taps<AnyFloat>(p, function);
}

template <template <typename> class Frame>
cudaError_t launch_forward(const WarpParams& p, cudaStream_t stream) {
  if (launch_plain_forward<typename PlainFrame<Frame<float>>::type>(p, stream)) return cudaGetLastError();
  const unsigned blocks = grid_size(p.batch * output_tiling(p).count());
  with_storage(p, [&](auto variant) {
    using V = decltype(variant);
    using T = typename V::T;
    launch(warp_forward_kernel<Frame<T>, T, typename V::Storage, V::kTaps>, blocks, stream, p);
  });
  return cudaGetLastError();
}

// Joins the partial sums [strips, stride] from `offset` on to gradients [groups, values].
template <typename Factor, typename T>
void launch_reduce(const WarpParams& p, i64 groups, i64 stride, i64 offset, i64 values, const double* sums, void* grad,
                   cudaStream_t stream) {
  if (!grad || groups * values == 0) return;
  const Reduction reduction = {groups, strip_count(p, stride) / groups, stride, offset, values};
  const unsigned blocks = grid_size(ceil_div(groups * values, kWarps));
  launch(warp_reduce_kernel<T, Factor>, blocks, stream, p, reduction, sums, static_cast<T*>(grad));
}

template <template <typename> class Frame, int kForms>
cudaError_t launch_grad_matrix(const WarpParams& p, double* sums, cudaStream_t stream) {
  const bool plain = launch_plain_grad_matrix<typename PlainFrame<Frame<float>>::type, kForms>(p, sums, stream);
  with_variant(p, [&](auto variant) {
    using V = decltype(variant);
    using T = typename V::T;
    if (!plain) {
      launch(warp_grad_matrix_kernel<Frame<T>, T, typename V::Storage, V::kTaps, kForms>,
             grid_size(strip_count(p, 3 * kForms)), stream, p, sums);
    }
    launch_reduce<MatrixFactor, T>(p, p.map_count, 3 * kForms, 0, 3 * kForms, sums, p.grad_matrix, stream);
  });
  return cudaGetLastError();
}

template <template <typename> class Frame>
cudaError_t launch_grad_constants(const WarpParams& p, double* sums, cudaStream_t stream) {
  const i64 stride = constant_sums(p);
  with_variant(p, [&](auto variant) {
    using V = decltype(variant);
    using T = typename V::T;
    launch(warp_grad_constants_kernel<Frame<T>, T, typename V::Storage, V::kTaps>, grid_size(strip_count(p, stride)),
           stream, p, sums);
    launch_reduce<NoFactor, T>(p, p.fill_count, stride, 0, p.channels, sums, p.grad_fill, stream);
    launch_reduce<NoFactor, T>(p, p.color_count, stride, p.channels, stride - p.channels, sums, p.grad_color, stream);
  });
  return cudaGetLastError();
}

template <typename Gather>
void launch_gather(const WarpParams& p, const GradImageScratch& scratch, cudaStream_t stream) {
  const ImageCut cut = ImageCut::of(p, kWords<typename Gather::T>);
  launch(warp_grad_image_kernel<Gather>, grid_size(cut.items), stream, p, scratch, cut);
}

template <typename Frame>
bool launch_plain_grad_image(const WarpParams& p, const GradImageScratch& scratch, cudaStream_t stream) {
  if (!is_plain(p)) return false;
  launch(warp_plain_reach_kernel<Frame>, tile_blocks(p), stream, p, output_tiling(p), scratch);
  switch (p.channels) {
    case 1: launch_gather<PlainGather<Frame, 1>>(p, scratch, stream); break;
    case 3: launch_gather<PlainGather<Frame, 3>>(p, scratch, stream); break;
    default: launch_gather<PlainGather<Frame, kChannelBlock>>(p, scratch, stream);
  }
  return true;
}

template <template <typename> class Frame, typename Plain = typename PlainFrame<Frame<float>>::type>
cudaError_t launch_grad_image(const WarpParams& p, const GradImageScratch& scratch, cudaStream_t stream) {
  const bool plain = launch_plain_grad_image<Plain>(p, scratch, stream);
  with_variant(p, [&](auto variant) {
    using V = decltype(variant);
    using T = typename V::T;
    using Storage = typename V::Storage;
    if (!plain) {
      const unsigned blocks = grid_size(p.batch * output_tiling(p).count());
      launch(warp_reach_kernel<Frame<T>, T, V::kTaps>, blocks, stream, p, scratch);
      launch(warp_largest_grad_kernel<T, Storage>, blocks, stream, p, scratch);
      launch_gather<TileGather<Frame<T>, T, Storage, V::kTaps>>(p, scratch, stream);
    }
    if (!scratch.sums) return;
    const unsigned elements = grid_size(ceil_div(p.channels * p.height * p.width, kThreads));
    launch(warp_shared_image_kernel<T, Storage>, elements, stream, p, scratch);
  });
  return cudaGetLastError();
}

HARDFAST_END
