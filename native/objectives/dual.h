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

// A product with a constant 0 is 0, also against an infinite value: an advantage of 0 means no loss and no gradient.
RANK_GRPO_HD inline Dual operator*(double a, Dual x) { return a == 0 ? Dual() : Dual(a * x.value, a * x.ds, a * x.dl); }
RANK_GRPO_HD inline Dual operator*(Dual x, Dual y) {
  return {x.value * y.value, x.ds * y.value + x.value * y.ds, x.dl * y.value + x.value * y.dl};
}
RANK_GRPO_HD inline Dual operator+(Dual x, Dual y) { return {x.value + y.value, x.ds + y.ds, x.dl + y.dl}; }
RANK_GRPO_HD inline Dual operator-(Dual x, Dual y) { return {x.value - y.value, x.ds - y.ds, x.dl - y.dl}; }
RANK_GRPO_HD inline Dual operator-(Dual x) { return {-x.value, -x.ds, -x.dl}; }
RANK_GRPO_HD inline Dual exp(Dual x) {
  const double e = std::exp(x.value);
  return {e, e * x.ds, e * x.dl};
}
RANK_GRPO_HD inline Dual stop_gradient(Dual x) { return {x.value, 0, 0}; }
RANK_GRPO_HD inline Dual min(Dual x, Dual y) { return y.value < x.value ? y : x; }
RANK_GRPO_HD inline Dual max(Dual x, Dual y) { return y.value > x.value ? y : x; }
RANK_GRPO_HD inline Dual clamp(Dual x, double low, double high) { return x.value < low ? Dual(low) : x.value > high ? Dual(high) : x; }

}  // namespace rank_grpo
