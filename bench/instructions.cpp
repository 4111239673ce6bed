// Runs one kernel on made-up data a given number of times, for bench/instructions.py to count what it executes.
//
//   count_instructions warp affine|projective|flow<side> forward|parameters|image B C H W repetitions
//   count_instructions kl forward|backward|both rows classes repetitions
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../kernels/cpu/isa.h"
#include "../kernels/kl_params.h"
#include "../kernels/math/scales.h"

namespace {

using namespace hardfast;

std::vector<float> random_values(std::int64_t count, float scale) {
  static std::minstd_rand generator;
  std::uniform_real_distribution<float> values(-scale, scale);
  std::vector<float> result(static_cast<size_t>(count));
  for (float& value : result) value = values(generator);
  return result;
}

template <typename View, typename Pointer>
void set_view(View& view, Pointer* data, const WarpParams& p) {
  view = {data, p.channels * p.height * p.width, p.height * p.width, p.width, 1};
}

int run_warp(const std::string& map, const std::string& pass, const std::int64_t (&size)[4], int repetitions) {
  WarpParams p{};
  p.batch = p.image_count = p.map_count = size[0];
  p.fill_count = p.color_count = p.samples_y = p.samples_x = 1;
  p.channels = size[1];
  p.height = p.out_height = size[2];
  p.width = p.out_width = size[3];
  p.dtype = DType::kFloat32;
  p.mode = Mode::kBilinear;
  p.padding = Padding::kConstant;
  const std::int64_t pixels = size[0] * size[1] * size[2] * size[3];
  const std::vector<float> image = random_values(pixels, 1), grad = random_values(pixels, 1);
  std::vector<float> result(static_cast<size_t>(pixels)), parameters, grad_parameters;
  set_view(p.image, image.data(), p);
  set_view(p.grad_output, grad.data(), p);
  set_view(p.output, result.data(), p);
  set_view(p.grad_image, result.data(), p);
  if (map.rfind("flow", 0) == 0) {
    const std::int64_t side = std::atoll(map.c_str() + 4);
    p.map = Map::kFlow;
    p.flow_height = p.flow_width = side;
    parameters = random_values(p.batch * 2 * side * side, 0.1f);
    p.flow = {parameters.data(), 2 * side * side, side * side, side, 1};
  } else {
    const std::int64_t rows = map == "affine" ? 2 : 3;
    p.map = map == "affine" ? Map::kAffine : Map::kProjective;
    parameters = random_values(p.batch * 3 * rows, 0.1f);
    for (size_t i = 0; i < parameters.size(); ++i) {
      const size_t at = i % static_cast<size_t>(3 * rows);
      if (at % 4 == 0) parameters[i] += 1;
      if (at >= 6) parameters[i] = at == 8 ? 1 : 0.1f * parameters[i];
    }
    p.matrix = {parameters.data(), 3 * rows, 3, 1};
  }
  set_scales(p);
  grad_parameters.resize(parameters.size());
  const WarpKernels& kernels = cpu_kernels().warp;
  std::vector<double> sums;
  std::vector<Reach> reaches;
  WarpScratch scratch;
  if (pass == "parameters") {
    (p.map == Map::kFlow ? p.grad_flow : p.grad_matrix) = grad_parameters.data();
    sums.resize(static_cast<size_t>(p.batch * strips(p) * item_sums(p)));
    scratch.sums = sums.data();
  }
  if (pass == "image" && needs_reaches(p)) {
    reaches.resize(static_cast<size_t>(p.batch * reach_tiling(p).count()));
    scratch.reaches = reaches.data();
  }
  for (int i = 0; i < repetitions; ++i) {
    if (pass == "forward") {
      kernels.forward(p, scratch, 0, p.batch * output_tiling(p).count());
    } else if (pass == "image") {
      if (scratch.reaches) kernels.reaches(p, scratch, 0, p.batch);
      kernels.grad_image(p, scratch, 0, p.image_count * input_tiling(p).count());
    } else if (p.map == Map::kFlow && flow_gradient(p) == FlowGradient::kBands) {
      kernels.grad_flow(p, scratch, 0, p.map_count * bands(p));
    } else {
      kernels.grad_parameters(p, scratch, 0, p.batch * strips(p));
      kernels.join(p, scratch, 0, 1);
    }
  }
  return 0;
}

int run_kl(const std::string& pass, std::int64_t rows, std::int64_t classes, int repetitions) {
  const std::vector<float> student = random_values(rows * classes, 6), teacher = random_values(rows * classes, 6);
  std::vector<float> grad_student(student.size()), grad_teacher(student.size());
  std::vector<float> row_stats(static_cast<size_t>(rows * kRowStats));
  float loss = 0;
  const float grad = 1;
  KlDisagreementParams p{};
  p.rows = p.group_rows = p.divisor = rows;
  p.classes = p.student_row = p.teacher_row = classes;
  p.groups = 1;
  p.dtype = DType::kFloat32;
  p.student = student.data();
  p.teacher = teacher.data();
  p.temperature = 2;
  p.divergence = Divergence::kForward;
  p.loss = &loss;
  p.row_stats = row_stats.data();
  p.grad_loss = &grad;
  p.grad_student = grad_student.data();
  p.grad_teacher = grad_teacher.data();
  const KlDisagreementKernels& kernels = cpu_kernels().kl_disagreement;
  const auto range = pass == "forward"    ? kernels.forward_range
                     : pass == "backward" ? kernels.backward_range
                                          : kernels.gradient_range;
  for (int i = 0; i < repetitions; ++i) range(p, 0, rows);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 9 && std::strcmp(argv[1], "warp") == 0) {
    const std::int64_t size[4] = {std::atoll(argv[4]), std::atoll(argv[5]), std::atoll(argv[6]), std::atoll(argv[7])};
    return run_warp(argv[2], argv[3], size, std::atoi(argv[8]));
  }
  if (argc == 6 && std::strcmp(argv[1], "kl") == 0) {
    return run_kl(argv[2], std::atoll(argv[3]), std::atoll(argv[4]), std::atoi(argv[5]));
  }
  std::fprintf(stderr, "the arguments stand at the head of bench/instructions.cpp\n");
  return 2;
}
