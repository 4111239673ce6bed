// Rounding in the argument's own type. The plain builtin takes double, which a GPU then computes in double.
#pragma once

#include "macros.h"

HARDFAST_BEGIN

HARDFAST_HD float round_down(float value) { return __builtin_floorf(value); }
HARDFAST_HD double round_down(double value) { return __builtin_floor(value); }

// Ties to even.
HARDFAST_HD float round_nearest(float value) { return __builtin_rintf(value); }
HARDFAST_HD double round_nearest(double value) { return __builtin_rint(value); }

HARDFAST_END
