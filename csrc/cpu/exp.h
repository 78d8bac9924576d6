// exp(x) for x ≤ 0, the only half a softmax needs once the largest logit is subtracted: within 2 units in the last
// place over the whole range, subnormal results included; exactly 1 at 0, 0 at −∞, NaN at NaN.
//
// x = n·ln 2 + r with |r| ≤ ln 2 / 2; exp(r) by the polynomial of Cephes' expf (S. Moshier), times 2ⁿ in two steps,
// so that the last one alone may round to a subnormal number.
#pragma once

#include "vector.h"

namespace myconv2d::MYCONV2D_ISA {

using Floats = Vector<float>::type;
using Ints = Vector<int32_t>::type;

inline Floats broadcast(float value) { return Floats{} + value; }

inline Floats exp_of_nonpositive(Floats x) {
  const Floats lowest = broadcast(-104.0f);  // exp rounds to 0 from here on
  x = x < lowest ? lowest : x;               // NaN stays
  const Floats shifter = broadcast(12582912.0f);  // 1.5 · 2²³: what is added to it is rounded to an integer
  const Floats shifted = x * 1.44269504f + shifter;
  const Floats n = shifted - shifter;
  const Floats r = (x - n * 0.693359375f) - n * -2.12194440e-4f;  // ln 2 in two parts, the first product exact
  Floats p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  Ints bits;
  std::memcpy(&bits, &shifted, sizeof bits);  // n in the lowest bits; the shifter's own are shifted out
  bits = (bits << 23) + ((127 + 64) << 23);
  Floats power;  // 2ⁿ⁺⁶⁴, never subnormal
  std::memcpy(&power, &bits, sizeof power);
  return p * power * 0x1p-64f;
}

}  // namespace myconv2d::MYCONV2D_ISA
