// Forward pass of every warp, compiled once for each instruction set (HARDFAST_ISA names it).
#include "by_sampler.h"
#include "warp_color.h"
#include "warp_kernels.h"

HARDFAST_BEGIN

namespace {

using i64 = std::int64_t;

template <typename T>
void store_run(const WarpParams& p, const ChannelBlock& block, i64 at, i64 n, T* values, T* rows) {
  if (block.lanes == 1) {
    store_plane(p.output, block, at, n, values);
  } else {
    store_pixels(p.output, block, at, n, values, rows);
  }
}

// The mean of n sub-sampled pixels, in ws.mean.
template <typename S, typename T>
void sample_mean(S& sampler, const ChannelBlock& block, i64 y, i64 n, Workspace<T>& ws) {
  const i64 count = n * (block.lanes == 1 ? 1 : 4);
  for (i64 s = 0; s < sampler.subsamples(); ++s) {
    sampler.locate(block, y, s);
    sampler.sample(block);
    for (i64 k = 0; k < count; ++k) ws.mean[k] = (s == 0 ? T(0) : ws.mean[k]) + ws.pixels[k];
  }
  const T scale = T(1) / static_cast<T>(sampler.subsamples());
  if (sampler.subsamples() > 1) {
    for (i64 k = 0; k < count; ++k) ws.mean[k] *= scale;
  }
}

// n pixels with their two to four channels side by side.
template <bool kNearest, typename T>
void sample_pixels(i64 channels, i64 n, i64 pitch, const Workspace<T>& ws, T* pixels) {
  switch (channels) {
    case 2: return sample_channels<kNearest, 2>(n, pitch, ws, pixels);
    case 3: return sample_channels<kNearest, 3>(n, pitch, ws, pixels);
    default: return sample_channels<kNearest, 4>(n, pitch, ws, pixels);
  }
}

// n pixels in rows of one channel each.
template <bool kNearest, typename T>
void sample_rows(i64 channels, i64 n, i64 pitch, const Workspace<T>& ws, T* const (&rows)[4]) {
  switch (channels) {
    case 2: return sample_planes_widest<kNearest, 2>(n, pitch, ws, rows);
    case 3: return sample_planes_widest<kNearest, 3>(n, pitch, ws, rows);
    default: return sample_planes_widest<kNearest, 4>(n, pitch, ws, rows);
  }
}

template <typename T, typename Pad, Mode kMode>
void forward_tile(const WarpParams& p, i64 sample, const Tile& tile, Tag<Sampler<T, Pad, kMode>>) {
  constexpr bool kNearest = kMode == Mode::kNearest;
  Sampler<T, Pad, kMode> sampler(p, sample, false);
  Workspace<T>& ws = sampler.workspace();
  const bool plain = sampler.subsamples() == 1 && !p.color.data;
  sampler.visit(tile, [&](const ChannelBlock& block, i64 x, i64 y, i64 n) {
    const i64 at = sample * p.output.batch + y * p.output.row + x * p.output.column;
    if (!plain) {
      sample_mean(sampler, block, y, n, ws);
      if (p.color.data) apply_color(p, sample, n, ws.mean);
      return store_run(p, block, at, n, ws.mean, ws.rows);
    }
    sampler.locate(block, y, 0);
    if (kMode != Mode::kBicubic && block.lanes == 1 && p.output.column == 1) {
      T* row = row_target(p.dtype, p.output.data, at + block.first * p.output.channel, ws.pixels);
      sample_plane<kNearest>(n, sampler.pitch(), ws, row);
      commit_row(p.dtype, p.output.data, at + block.first * p.output.channel, row, n);
    } else if (kMode != Mode::kBicubic && is_interleaved(p.output, p.channels) && p.channels <= 4) {
      T* pixels = row_target(p.dtype, p.output.data, at, ws.rows);
      sample_pixels<kNearest>(p.channels, n, sampler.pitch(), ws, pixels);
      commit_row(p.dtype, p.output.data, at, pixels, n * p.channels);
    } else if (kMode == Mode::kBicubic || block.lanes == 1 || is_interleaved(p.output, p.channels)) {
      sampler.sample(block);
      store_run(p, block, at, n, ws.pixels, ws.rows);
    } else {
      T* rows[4];
      block_rows(p.output, block, at, n, ws.rows, rows);
      sample_rows<kNearest>(block.lanes, n, sampler.pitch(), ws, rows);
      commit_rows(p.output, block, at, n, rows);
    }
  });
}

}  // namespace

void forward_range(const WarpParams& p, const WarpScratch&, i64 begin, i64 end) {
  const Tiling tiling = output_tiling(p);
  by_sampler(p, [&](auto tag) {
    for (i64 item = begin; item < end; ++item) {
      forward_tile(p, item / tiling.count(), tile_at(tiling, item % tiling.count(), p.out_height, p.out_width), tag);
    }
  });
}

extern const WarpKernels warp_kernels;
const WarpKernels warp_kernels = {forward_range,   grad_parameters_range, join_range,
                                  grad_flow_range, reaches_range,         grad_image_range};

HARDFAST_END
