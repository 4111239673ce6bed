// How much scratch the gradients of the warps take on a GPU, for tests/test_emulated_gpu.py.
#include "../../kernels/cuda/scratch.h"

using namespace hardfast;

struct Scratch {
  std::int64_t map_strips, map_bytes, constant_strips, constant_bytes, image_bytes, thin_plate_blocks;
};

// `sizes`: B, images, C, H, W, H_out, W_out, control points.
extern "C" Scratch scratch_of(int dtype, int map, const std::int64_t* sizes, bool color) {
  WarpParams p{};
  p.dtype = static_cast<DType>(dtype);
  p.map = static_cast<Map>(map);
  p.batch = sizes[0];
  p.image_count = sizes[1];
  p.channels = sizes[2];
  p.height = sizes[3];
  p.width = sizes[4];
  p.out_height = sizes[5];
  p.out_width = sizes[6];
  p.control_points = sizes[7];
  p.color.data = color ? &p : nullptr;
  const std::int64_t map_strips = strip_count(p, map_sums(p)), constant_strips = strip_count(p, constant_sums(p));
  GradImageScratch image{};
  return {map_strips,
          8 * map_strips * map_sums(p),
          constant_strips,
          8 * constant_strips * constant_sums(p),
          8 * grad_image_scratch(p, nullptr, image).all,
          strip_count(p, thin_plate_sums(p)) * control_groups(p)};
}
