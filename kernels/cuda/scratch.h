// Scratch that the gradients need besides their outputs: what it holds and how much of it there is.
#pragma once

#include "tiles.h"

HARDFAST_BEGIN

// 64-bit words that a fixed-point sum in T takes.
template <typename T>
constexpr int kWords = sizeof(T) == 8 ? 2 : 1;

// Pixels of the input, both ends included; empty if the first is beyond the last.
struct Box {
  std::int32_t first_x, last_x, first_y, last_y;
};

// A box that zeros make empty and that grows by integer maxima, whose order does not matter.
struct GrowingBox {
  unsigned before_x, end_x, before_y, end_y;  // 2^32 - 1 - first, last + 1
};

// Groups of 8 x 8 tiles of one sample's output; a tile is numbered within its group.
struct TileGroups {
  i64 columns, count;
};

HARDFAST_HD TileGroups tile_groups(const OutputTiling& tiling) {
  const i64 columns = ceil_div(tiling.columns, kGroupSide);
  return {columns, columns * ceil_div(tiling.rows, kGroupSide)};
}

HARDFAST_HD i64 group_of_tile(const OutputTiling& tiling, const TileGroups& groups, i64 tile) {
  return tile / tiling.columns / kGroupSide * groups.columns + tile % tiling.columns / kGroupSide;
}

// -1 beyond the output's edges.
HARDFAST_HD i64 tile_of_group(const OutputTiling& tiling, const TileGroups& groups, i64 group, int within) {
  const i64 column = group % groups.columns * kGroupSide + within % kGroupSide;
  const i64 row = group / groups.columns * kGroupSide + within / kGroupSide;
  return column < tiling.columns && row < tiling.rows ? row * tiling.columns + column : -1;
}

HARDFAST_HD int word_count(const WarpParams& p) { return p.dtype == DType::kFloat64 ? 2 : 1; }

// How many blocks share the sums of one image that many outputs come from.
HARDFAST_HD i64 image_shares(const WarpParams& p, const InputTiling& cut) {
  const i64 bytes = 8 * word_count(p) * p.channels * p.height * p.width;
  if (p.image_count == p.batch || bytes > larger(held_bytes(p) / kScratchPart, kSharedImageBytes)) return 1;
  return larger(smaller(p.batch, ceil_div(kSharedImageBlocks, cut.count())), 1);
}

// For the gradient to the image: 8 bytes for each image, 16 for each tile of the output and for each group of tiles;
// and for a shared image that blocks share, at most a hundredth of what is held, or 4 MiB. A tile has 1,024 pixels, or
// 256 where the tiles would be fewer than 1,024.
struct GradImageScratch {
  unsigned long long* largest;  // [image_count], zeros: bits of doubles, which are ordered as the doubles
  GrowingBox* groups;           // [batch, groups], zeros
  unsigned long long* sums;     // [words, C, H, W], zeros, where blocks share an image; else null
  Box* boxes;                   // [batch, tiles]
};

// In 64-bit numbers: those that have to be zero, which come first, and all.
struct ScratchSize {
  i64 zeros, all;
};

// Also lays the scratch out from `begin` on.
inline ScratchSize grad_image_scratch(const WarpParams& p, unsigned long long* begin, GradImageScratch& scratch) {
  const OutputTiling tiling = output_tiling(p);
  const int words = word_count(p);
  const i64 counts = (p.image_count + 1) / 2 * 2;  // boxes begin at 16 bytes
  const i64 groups = 2 * p.batch * tile_groups(tiling).count;
  const i64 shared = image_shares(p, input_tiling(p, words)) > 1 ? words * p.channels * p.height * p.width : 0;
  const i64 sums = (shared + 1) / 2 * 2;
  scratch.largest = begin;
  scratch.groups = reinterpret_cast<GrowingBox*>(begin + counts);
  scratch.sums = shared > 0 ? begin + counts + groups : nullptr;
  scratch.boxes = reinterpret_cast<Box*>(begin + counts + groups + sums);
  return {counts + groups + sums, counts + groups + sums + 2 * p.batch * tiling.count()};
}

// Partial sums of one strip, in doubles, of the gradients to what the pixels of a sample share: at most a hundredth of
// what is held, or one strip for each sample.
HARDFAST_HD i64 matrix_sums(const WarpParams& p) { return p.map == Map::kAffine ? 6 : 9; }
HARDFAST_HD i64 thin_plate_sums(const WarpParams& p) { return 4 * p.control_points + 6; }
// The fill value of each channel, then the colours [C, C + 1]: also where only one of them is asked for, so that the
// strips, and thus each gradient's rounding, are the same with the other and without.
HARDFAST_HD i64 constant_sums(const WarpParams& p) {
  return p.channels + (p.color.data ? p.channels * (p.channels + 1) : 0);
}

inline i64 map_sums(const WarpParams& p) {
  if (p.map == Map::kFlow) return 0;  // each control point is summed by its owner
  return p.map == Map::kThinPlate ? thin_plate_sums(p) : matrix_sums(p);
}

HARDFAST_HD i64 strip_count(const WarpParams& p, i64 values) {
  return p.batch * strips(p, output_tiling(p).count(), values).count;
}

// How many blocks share the control points of one strip: where strips are few, so that all of a GPU is used.
HARDFAST_HD i64 control_groups(const WarpParams& p) {
  const i64 wanted = kReductionBlocks / larger(strip_count(p, thin_plate_sums(p)), 1);
  return larger(smaller(wanted, ceil_div(p.control_points + 3, kControlsPerBlock)), 1);
}

HARDFAST_END
