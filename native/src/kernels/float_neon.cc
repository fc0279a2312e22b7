// float_neon.cc: float kernels in 4 lanes. C headers only, see kernels.h.

#include <arm_neon.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels/tables.h"

#define EARSHOT_ISA_SPACE neon

namespace earshot {
namespace neon {
namespace {

using V = float32x4_t;
constexpr size_t kLanes = 4;
constexpr size_t kLoneBlocks = 2;   // 8 sums
constexpr size_t kGroupBlocks = 1;  // 4 x 4 sums, 4 columns, 1 value of the 32 registers

inline V Load(const float* p) { return vld1q_f32(p); }
inline void Store(float* p, V v) { vst1q_f32(p, v); }
inline V Set1(float v) { return vdupq_n_f32(v); }
inline V Add(V a, V b) { return vaddq_f32(a, b); }
inline V Sub(V a, V b) { return vsubq_f32(a, b); }
inline V Mul(V a, V b) { return vmulq_f32(a, b); }
inline V Div(V a, V b) { return vdivq_f32(a, b); }
inline V Fma(V a, V b, V c) { return vfmaq_f32(c, a, b); }
inline V Fnma(V a, V b, V c) { return vfmsq_f32(c, a, b); }
// Compare and select, not vmax: b when one is not a number, as on the other instruction sets.
inline V Max(V a, V b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline V Min(V a, V b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
inline V Round(V v) { return vrndnq_f32(v); }
inline V Pow2(V n) {
  const int32x4_t biased = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
  return vreinterpretq_f32_s32(vshlq_n_s32(biased, 23));
}
inline V Abs(V v) { return vabsq_f32(v); }
inline V CopySign(V magnitude, V sign) {
  return vbslq_f32(vdupq_n_u32(0x80000000u), sign, magnitude);
}
inline void StoreS8(int8_t* q, V v) {
  const int16x4_t words = vqmovn_s32(vcvtnq_s32_f32(v));
  const int8x8_t bytes = vqmovn_s16(vcombine_s16(words, words));
  int8_t lane[8];
  vst1_s8(lane, bytes);
  memcpy(q, lane, 4);
}

}  // namespace
}  // namespace neon
}  // namespace earshot

#include "kernels/float_vector.inc"
