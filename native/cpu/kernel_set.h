// What a set of kernels is compiled from. Standard headers come before a set's target pragma: their inline functions must not be compiled
// for an instruction set that another machine lacks.
#pragma once
// GCC 12 takes the "undefined" operand inside its own intrinsics for a mistake of ours, also where they are inlined.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

#include "attention.h"
#include "kernels.h"
#include "logprob.h"
#include "matmul.h"
#include "pointwise.h"
#include "probe.h"
#include "score.h"
