// What the maps need of the sizes of image, output and control grid: divisions, done once for all kernels of a call.
#pragma once

#include "affine.h"
#include "flow.h"

HARDFAST_BEGIN

inline void set_scales(WarpParams& p) {
  p.scale = {axis_scale(p.width, p.out_height, p.out_width, p.align_corners),
             axis_scale(p.height, p.out_height, p.out_width, p.align_corners), unit_scale(p.out_width, p.align_corners),
             unit_scale(p.out_height, p.align_corners)};
  p.flow_columns = flow_axis(p.flow_width, p.out_width, p.align_corners, p.spline);
  p.flow_rows = flow_axis(p.flow_height, p.out_height, p.align_corners, p.spline);
}

HARDFAST_END
