// The entry points of one instruction set, each defined in its own file.
#pragma once

#include "../math/macros.h"
#include "warp.h"

HARDFAST_BEGIN

WarpRange forward_range, grad_parameters_range, join_range, grad_flow_range, reaches_range, grad_image_range;

HARDFAST_END
