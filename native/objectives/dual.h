// Dual numbers: a value with its derivatives by the pooled log-ratio s and by the token's own log-prob. A rule evaluated on
// them yields its gradient, so no derivative is written by hand.
#pragma once
#include <cmath>

#include "../core/philox.h"  // RANK_GRPO_HD

namespace rank_grpo {

struct Dual {
  double value, ds, dl;
  RANK_GRPO_HD Dual(double v = 0, double s = 0, double l = 0) : value(v), ds(s), dl(l) {}
};

// One link of the chain rule: a slope of 0 stays 0, also against an infinite one (a gate that has closed, an advantage of 0).
RANK_GRPO_HD inline double chain(double slope, double inner) { return slope == 0 || inner == 0 ? 0 : slope * inner; }
// f(x), given f and f' at x.
RANK_GRPO_HD inline Dual chained(double value, double slope, Dual x) { return {value, chain(slope, x.ds), chain(slope, x.dl)}; }

RANK_GRPO_HD inline Dual operator*(double a, Dual x) { return chained(chain(a, x.value), a, x); }
RANK_GRPO_HD inline Dual operator*(Dual x, Dual y) {
  return {x.value * y.value, chain(y.value, x.ds) + chain(x.value, y.ds), chain(y.value, x.dl) + chain(x.value, y.dl)};
}
RANK_GRPO_HD inline Dual operator+(Dual x, Dual y) { return {x.value + y.value, x.ds + y.ds, x.dl + y.dl}; }
RANK_GRPO_HD inline Dual operator-(Dual x, Dual y) { return {x.value - y.value, x.ds - y.ds, x.dl - y.dl}; }
RANK_GRPO_HD inline Dual operator-(Dual x) { return {-x.value, -x.ds, -x.dl}; }
RANK_GRPO_HD inline Dual operator/(Dual x, Dual y) { return x * chained(1 / y.value, -1 / (y.value * y.value), y); }
RANK_GRPO_HD inline Dual exp(Dual x) { return chained(std::exp(x.value), std::exp(x.value), x); }
RANK_GRPO_HD inline Dual log(Dual x) { return chained(std::log(x.value), 1 / x.value, x); }
RANK_GRPO_HD inline Dual square(Dual x) { return chained(x.value * x.value, 2 * x.value, x); }
RANK_GRPO_HD inline Dual sigmoid(Dual x) {  // of either sign without overflow
  const double e = std::exp(-std::abs(x.value)), y = x.value < 0 ? e / (1 + e) : 1 / (1 + e);
  return chained(y, e / ((1 + e) * (1 + e)), x);
}
RANK_GRPO_HD inline Dual tanh(Dual x) {
  const double y = std::tanh(x.value);
  return chained(y, 1 - y * y, x);
}
RANK_GRPO_HD inline Dual abs(Dual x) { return x.value < 0 ? -x : x; }
RANK_GRPO_HD inline Dual min(Dual x, Dual y) { return y.value < x.value ? y : x; }
RANK_GRPO_HD inline Dual max(Dual x, Dual y) { return y.value > x.value ? y : x; }
RANK_GRPO_HD inline Dual clamp(Dual x, double low, double high) { return x.value < low ? Dual(low) : x.value > high ? Dual(high) : x; }

// The value without its derivatives. The probe (probe.cc) hooks in here: a central difference must hold what a gradient does not pass.
#ifdef RANK_GRPO_PROBE
double held(double value);
#else
RANK_GRPO_HD inline double held(double value) { return value; }
#endif
RANK_GRPO_HD inline Dual stop_gradient(Dual x) { return {held(x.value), 0, 0}; }

}  // namespace rank_grpo
