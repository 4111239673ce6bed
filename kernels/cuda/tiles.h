// How the warps cut their work on a GPU: every size is here, with its reason. All follow from the shapes alone, never
// from the GPU, and so do all results. The reasons are reckoned, not yet measured.
#pragma once

#include <cstdint>

#include "../math/macros.h"
#include "../warp_params.h"

HARDFAST_BEGIN

using i64 = std::int64_t;

// A warp of threads covers 32 neighbouring columns: its loads and stores coalesce for maps near the identity.
constexpr int kTileWidth = 32;
// Eight such rows make a block. Sixteen leave no more than one block per multiprocessor at 64 registers and more;
// four make twice as many blocks, each of which pays for its frame.
constexpr int kBlockRows = 8;
constexpr int kThreads = kTileWidth * kBlockRows;
constexpr int kWarps = kThreads / 32;
// Blocks that a multiprocessor must hold: it leaves 128 registers to a thread, and 255 in double. Not told, the
// compiler takes fewer and spills.
template <typename T>
constexpr int kResidentBlocks = sizeof(T) == 8 ? 1 : 2;
// The gradient to the image by 16 taps spills at 128 registers from compute capability 10.0 on.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr bool kCubicImageNeedsAll = true;
#else
constexpr bool kCubicImageNeedsAll = false;
#endif
template <typename T, int kTaps>
constexpr int kResidentImageBlocks = kCubicImageNeedsAll && kTaps == 4 ? 1 : kResidentBlocks<T>;
// A thread takes four rows of a tile, so that the frame, which one thread makes in double, serves 1,024 pixels. Where
// that leaves too few tiles to fill a GPU of some 130 multiprocessors, it takes one.
constexpr int kTallTile = 4 * kBlockRows;
constexpr i64 kEnoughTiles = 1024;
// Channels whose loads are in flight together, and the most that a colour matrix mixes.
constexpr int kChannelBlock = 4;
// A grid has fewer than 2^31 blocks; beyond, blocks take several tiles in turn.
constexpr i64 kMaxBlocks = (i64{1} << 31) - 1;

// Blocks that sum gradients to parameters, where their partial sums are small beside the image: eight for each of some
// 256 multiprocessors. More only lengthen the list of partial sums, which is scratch and is read once more.
constexpr i64 kReductionBlocks = 2048;
// Scratch stays within this part of image, output and the output's gradient, which every call for gradients holds.
constexpr i64 kScratchPart = 100;
// Tiles per such block at most: a thread then adds at most 256 floats before they are added as doubles.
constexpr i64 kTilesPerStrip = 64;
// Control points of a thin plate that a block sums at least: finding the pixels' gradients, which each block does
// again, is then a small part of its work.
constexpr i64 kControlsPerBlock = 32;

// The gradient to the image is summed in shared memory: 4,096 words of 64 bits, 32 KiB, which leaves room for three
// blocks in the 100 KiB of the smallest multiprocessors (sm_86, sm_89, sm_120) and fits the 48 KiB that need no opt-in.
constexpr int kSharedWords = 4096;
// Tiles of the output are looked up in groups of 8 x 8, so that a tile of the input need not ask all of them.
constexpr int kGroupSide = 8;
constexpr int kGroupTiles = kGroupSide * kGroupSide;
// Frames made at once, each by a thread of its own.
constexpr int kFramesAtOnce = 32;
// Blocks that share the sums of one image that many outputs come from.
constexpr i64 kSharedImageBlocks = 1024;
// What they may take for these sums even where it is more than a hundredth: where it is not enough, the image has so
// many tiles that without sharing there are some 128 blocks.
constexpr i64 kSharedImageBytes = i64{4} << 20;

HARDFAST_HD i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
HARDFAST_HD i64 smaller(i64 a, i64 b) { return a < b ? a : b; }
HARDFAST_HD i64 larger(i64 a, i64 b) { return a > b ? a : b; }

// Tiles of one sample's output.
struct OutputTiling {
  i64 columns, rows;
  int height;

  HARDFAST_HD i64 count() const { return columns * rows; }
};

HARDFAST_HD OutputTiling output_tiling(const WarpParams& p) {
  const i64 columns = ceil_div(p.out_width, kTileWidth), rows = ceil_div(p.out_height, kTallTile);
  if (p.batch * columns * rows >= kEnoughTiles) return {columns, rows, kTallTile};
  return {columns, ceil_div(p.out_height, kBlockRows), kBlockRows};
}

// Of image, output and the output's gradient.
HARDFAST_HD i64 held_bytes(const WarpParams& p) {
  const i64 element = p.dtype == DType::kFloat64 ? 8 : (p.dtype == DType::kFloat32 ? 4 : 2);
  return element * p.channels * (p.image_count * p.height * p.width + 2 * p.batch * p.out_height * p.out_width);
}

// Runs of tiles that one block sums over.
struct Strips {
  i64 count, tiles;  // per sample; of each strip, the last may have fewer
};

// `values` doubles are what the block leaves of its strip.
HARDFAST_HD Strips strips(const WarpParams& p, i64 tiles, i64 values) {
  const i64 batch = larger(p.batch, 1), bytes = 8 * larger(values, 1);
  const i64 fitting = smaller(tiles, held_bytes(p) / (kScratchPart * batch * bytes));
  const i64 wanted = larger(ceil_div(kReductionBlocks, batch), ceil_div(tiles, kTilesPerStrip));
  const i64 each = ceil_div(tiles, larger(smaller(wanted, fitting), 1));
  return {ceil_div(tiles, larger(each, 1)), each};
}

// Tiles of the input that one block owns, with the channels that it sums at once: up to 4,096 words in all. Double sums
// take two words. Tall and wide tiles are reached by fewer tiles of the output from outside; several channels share the
// work of finding their positions.
struct InputTiling {
  i64 columns, rows, channel_groups;
  int width, height, channels;

  HARDFAST_HD i64 count() const { return columns * rows * channel_groups; }
};

HARDFAST_HD InputTiling input_tiling(const WarpParams& p, int words) {
  InputTiling tiling;
  tiling.channels = static_cast<int>(larger(smaller(p.channels, words == 2 ? 2 : 4), 1));
  const int pixels = kSharedWords / words / tiling.channels;  // 4096, 2048, 1365 or 1024
  tiling.width = pixels >= 2048 ? 64 : 32;
  tiling.height = pixels / tiling.width;
  tiling.columns = ceil_div(p.width, tiling.width);
  tiling.rows = ceil_div(p.height, tiling.height);
  tiling.channel_groups = ceil_div(p.channels, tiling.channels);
  return tiling;
}

HARDFAST_END
