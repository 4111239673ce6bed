// Gradients of every warp to its map, fill and colour, compiled once for each instruction set.
#include "by_sampler.h"
#include "warp_color.h"
#include "warp_kernels.h"

HARDFAST_BEGIN

namespace {

using i64 = std::int64_t;

template <typename Sampler>
class ParameterGradients;

template <typename T, typename Pad, Mode kMode>
class ParameterGradients<Sampler<T, Pad, kMode>> {
 public:
  // What is wanted of a pass over output tiles: sums of the map (or of a band of a flow), of fill and of colour.
  struct Sums {
    double *map, *fill, *color;
    ControlRows control;
    bool dense;  // the gradient to a dense flow, written in place
  };

  ParameterGradients(const WarpParams& p, i64 sample, const Sums& sums)
      : p_(p),
        sample_(sample),
        sums_(sums),
        sampler_(p, sample, sums.fill || sums.color || p.color.data || p.samples_x * p.samples_y > 1),
        ws_(sampler_.workspace()) {}

  void add_tile(const Tile& tile) {
    sampler_.visit(tile, [&](const ChannelBlock& block, i64 x, i64 y, i64 n) {
      if (reads_in_place()) {
        find_rows(block, x, y, n);
        return add_run(block, x, y, n, 0);
      }
      if (sums_.color) sample_mean(block, y, n);
      load_grad(p_, sample_, block, x, y, n, ws_);
      if (sums_.color) sum_grad_color(p_, n, ws_.mean, ws_.grads, sums_.color);
      if (p_.color.data) grad_color_input(p_, sample_, n, ws_.grads);
      scale_grads(block, n);
      if (kMode == Mode::kBilinear) split_grads(block, n);
      for (i64 s = 0; s < sampler_.subsamples(); ++s) add_run(block, x, y, n, s);
    });
    if (p_.map == Map::kFlow) map().flow().flush(sums_.control, sums_.map);
  }

  CoordinateMap<T>& map() { return sampler_.map(); }

 private:
  // Whether the output's gradient is read where it lies, one row a channel.
  bool reads_in_place() const {
    return kMode == Mode::kBilinear && p_.grad_output.column == 1 && sampler_.subsamples() == 1 && !p_.color.data &&
           !sums_.color && !sums_.fill;
  }

  void find_rows(const ChannelBlock& block, i64 x, i64 y, i64 n) {
    const ImageView<const void>& view = p_.grad_output;
    const i64 at = sample_ * view.batch + y * view.row + x * view.column + block.first * view.channel;
    channel_rows(view, block, at, n, ws_.pixels, grads_);
    if (n >= 8) return;
    // Whole vectors are read.
    for (i64 k = 0; k < block.lanes; ++k) {
      for (i64 i = 0; i < n; ++i) ws_.mean[8 * k + i] = grads_[k][i];
      grads_[k] = ws_.mean + 8 * k;
    }
  }

  void split_grads(const ChannelBlock& block, i64 n) {
    if (block.lanes == 1) {
      grads_[0] = ws_.grads;
      return;
    }
    T* rows[4];
    for (int k = 0; k < 4; ++k) grads_[k] = rows[k] = ws_.pixels + k * kPadded;
    deinterleave4(ws_.grads, n, rows[0], rows[1], rows[2], rows[3]);
  }

  void sample_mean(const ChannelBlock& block, i64 y, i64 n) {
    const i64 count = n * (block.lanes == 1 ? 1 : 4);
    const T scale = T(1) / static_cast<T>(sampler_.subsamples());
    for (i64 s = 0; s < sampler_.subsamples(); ++s) {
      sampler_.locate(block, y, s);
      sampler_.sample(block);
      for (i64 k = 0; k < count; ++k) ws_.mean[k] = (s == 0 ? T(0) : ws_.mean[k]) + scale * ws_.pixels[k];
    }
  }

  void scale_grads(const ChannelBlock& block, i64 n) {
    if (sampler_.subsamples() == 1) return;
    const T scale = T(1) / static_cast<T>(sampler_.subsamples());
    for (i64 k = 0; k < n * (block.lanes == 1 ? 1 : 4); ++k) ws_.grads[k] *= scale;
  }

  void add_run(const ChannelBlock& block, i64 x, i64 y, i64 n, i64 s) {
    sampler_.locate(block, y, s);
    if (sums_.fill) add_fill(block, y, n, s);
    if (kMode == Mode::kNearest || !(sums_.map || sums_.dense)) return;
    if (sums_.dense) return grad_dense(block, x, y, n);
    sampler_.grad_position(block, grads_);
    if (p_.channels > 4 && sampler_.subsamples() == 1 && !joins_blocks(block, y, n)) return;
    map().accumulate(sampler_.column_of(x, s), sampler_.row_of(y, s), sampler_.width(), sampler_.rows(), sums_.control,
                     sums_.map);
  }

  // Adds a run's gradient to the position to that of the blocks before; true where it was the last: what a map does
  // with it takes longer than the gradient itself.
  bool joins_blocks(const ChannelBlock& block, i64 y, i64 n) {
    const bool first = block.first == 0, last = block.first + block.lanes == block.channels;
    const i64 at = sampler_.place_of(y);
    T *const sum_x = ws_.position_x + at, *const sum_y = ws_.position_y + at;
    T *const to_x = last ? ws_.grad_x : sum_x, *const to_y = last ? ws_.grad_y : sum_y;
    for (i64 k = 0; k < n; ++k) {
      to_x[k] = ws_.grad_x[k] + (first ? T(0) : sum_x[k]);
      to_y[k] = ws_.grad_y[k] + (first ? T(0) : sum_y[k]);
    }
    return last;
  }

  void grad_dense(const ChannelBlock& block, i64 x, i64 y, i64 n) {
    const PositionTarget<T, true> to = map().dense_target(sample_, x, y);
    if constexpr (kMode == Mode::kBilinear && !Pad::kBends) {
      if (block.first == 0 && n >= 8) return sampler_.grad_position(block, grads_, to);
    }
    sampler_.grad_position(block, grads_);
    for (i64 k = 0; k < n; ++k) {
      to.x[k] = to.scale_x * ws_.grad_x[k] + (block.first == 0 ? T(0) : to.x[k]);
      to.y[k] = to.scale_y * ws_.grad_y[k] + (block.first == 0 ? T(0) : to.y[k]);
    }
  }

  void add_fill(const ChannelBlock& block, i64 y, i64 n, i64 s) {
    sampler_.find_uncovered(y, s);
    if (block.lanes == 1) {
      T sum = 0;
      for (i64 k = 0; k < n; ++k) sum += ws_.uncovered[k] * ws_.grads[k];
      sums_.fill[block.first] += static_cast<double>(sum);
      return;
    }
    Vec4<T> sum{};
    for (i64 k = 0; k < n; ++k) sum += splat4(ws_.uncovered[k]) * load4(ws_.grads + 4 * k);
    for (i64 k = 0; k < block.lanes; ++k) sums_.fill[block.first + k] += static_cast<double>(sum[k]);
  }

  const WarpParams& p_;
  i64 sample_;
  Sums sums_;
  Sampler<T, Pad, kMode> sampler_;
  Workspace<T>& ws_;
  const T* grads_[4] = {};  // of the run in hand, one row a channel, where they are wanted so
};

void clear(double* sums, i64 count) {
  for (i64 i = 0; i < count; ++i) sums[i] = 0;
}

// Writes the sums of one kind: of each sample its own, or of all samples in their order.
template <typename T>
void join_values(const WarpParams& p, const double* sums, i64 count, i64 targets, void* grad) {
  const i64 parts = targets == 1 ? p.batch * strips(p) : strips(p);
  for (i64 target = 0; target < targets; ++target) {
    for (i64 i = 0; i < count; ++i) {
      double total = 0;
      for (i64 part = 0; part < parts; ++part) total += sums[(target * parts + part) * item_sums(p) + i];
      static_cast<T*>(grad)[target * count + i] = static_cast<T>(total);
    }
  }
}

template <typename T>
void join(const WarpParams& p, double* sums) {
  if (const i64 count = map_sums(p)) {
    const i64 parts = p.map_count == 1 ? p.batch * strips(p) : strips(p);
    for (i64 target = 0; target < p.map_count; ++target) {
      double* total = sums + target * parts * item_sums(p);  // the first part takes the others
      for (i64 part = 1; part < parts; ++part) {
        for (i64 i = 0; i < count; ++i) total[i] += total[part * item_sums(p) + i];
      }
      CoordinateMap<T>(p, p.map_count == 1 ? 0 : target, Workspace<T>::of_this_thread()).finish(total, target);
    }
  }
  if (p.grad_fill) join_values<T>(p, sums + map_sums(p), fill_sums(p), p.fill_count, p.grad_fill);
  if (p.grad_color) {
    join_values<T>(p, sums + map_sums(p) + fill_sums(p), color_sums(p), p.color_count, p.grad_color);
  }
}

}  // namespace

void grad_parameters_range(const WarpParams& p, const WarpScratch& scratch, i64 begin, i64 end) {
  const Tiling tiling = output_tiling(p);
  const i64 count = strips(p);
  const bool dense = p.map == Map::kFlow && p.grad_flow && flow_gradient(p) == FlowGradient::kDirect;
  by_sampler(p, [&](auto tag) {
    using Gradients = ParameterGradients<typename decltype(tag)::Type>;
    for (i64 item = begin; item < end; ++item) {
      double* sums = scratch.sums + item * item_sums(p);
      clear(sums, item_sums(p));
      const typename Gradients::Sums parts = {map_sums(p) ? sums : nullptr,
                                              p.grad_fill ? sums + map_sums(p) : nullptr,
                                              p.grad_color ? sums + map_sums(p) + fill_sums(p) : nullptr,
                                              {0, p.flow_height},
                                              dense};
      Gradients gradients(p, item / count, parts);
      const i64 strip = item % count;
      for (i64 row = strip * tiling.rows / count; row < (strip + 1) * tiling.rows / count; ++row) {
        for (i64 column = 0; column < tiling.columns; ++column) {
          gradients.add_tile(tile_at(tiling, row * tiling.columns + column, p.out_height, p.out_width));
        }
      }
    }
  });
}

void join_range(const WarpParams& p, const WarpScratch& scratch, i64, i64) {
  if (p.dtype == DType::kFloat64) {
    join<double>(p, scratch.sums);
  } else {
    join<float>(p, scratch.sums);
  }
}

void grad_flow_range(const WarpParams& p, const WarpScratch&, i64 begin, i64 end) {
  const i64 samples = p.map_count == 1 ? p.batch : 1;
  double* sums = new double[static_cast<unsigned long>(2 * band_rows(p) * p.flow_width)];
  by_sampler(p, [&](auto tag) {
    using Gradients = ParameterGradients<typename decltype(tag)::Type>;
    for (i64 item = begin; item < end; ++item) {
      const i64 map = item / bands(p), first = item % bands(p) * band_rows(p), last = first + band_rows(p);
      const ControlRows control = {first, last < p.flow_height ? last : p.flow_height};
      clear(sums, 2 * (control.end - control.begin) * p.flow_width);
      for (i64 sample = map * samples; sample < (map + 1) * samples; ++sample) {
        Gradients gradients(p, sample, {sums, nullptr, nullptr, control, false});
        const ControlRows rows = gradients.map().flow().output_rows(control);
        if (rows.begin >= rows.end) continue;
        const Tiling tiling = split_evenly(rows.end - rows.begin, p.out_width, 128, 128);
        for (i64 tile = 0; tile < tiling.count(); ++tile) {
          Tile at = tile_at(tiling, tile, rows.end - rows.begin, p.out_width);
          at.y += rows.begin;
          gradients.add_tile(at);
        }
      }
      Gradients(p, map * samples, {sums, nullptr, nullptr, control, false}).map().finish_flow(sums, map, control);
    }
  });
  delete[] sums;
}

HARDFAST_END
