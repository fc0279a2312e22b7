// tables.h: declares what each instruction set's files define; only dispatch.cc and those files
// read it. C declarations only, for the reason given in kernels.h.
#ifndef EARSHOT_KERNELS_TABLES_H_
#define EARSHOT_KERNELS_TABLES_H_

#include "kernels/kernels.h"

#define EARSHOT_DECLARE_LINEAR_I8(space)                                                         \
  namespace earshot {                                                                            \
  namespace space {                                                                              \
  void LinearI8(const int8_t* tiles, const float* scale, const int32_t* rowsum,                  \
                const float* bias, size_t M, size_t K, const int8_t* xq, const float* xscale,    \
                size_t T, float* y, size_t ldy, bool accumulate);                                \
  }                                                                                              \
  }

#define EARSHOT_DECLARE_PACKED(space)                                                            \
  namespace earshot {                                                                            \
  namespace space {                                                                              \
  void LinearPacked(const PackedWeights* w, const float* bias, const int8_t* xq,                 \
                    const float* xscale, size_t T, float* y, size_t ldy, bool accumulate,        \
                    uint8_t* scratch);                                                           \
  }                                                                                              \
  }

#define EARSHOT_DECLARE_FLOAT(space)                                                             \
  namespace earshot {                                                                            \
  namespace space {                                                                              \
  void LinearF32(const float* w, const float* bias, size_t M, size_t K, const float* x,          \
                 size_t ldx, size_t T, float* y, size_t ldy, bool accumulate);                   \
  float QuantizeS8(const float* x, size_t K, size_t Kp, int8_t* q);                              \
  void LstmGates(const float* pre, size_t H, float* c, float* h);                                \
  void TanhF32(float* x, size_t n);                                                              \
  void SigmoidF32(float* x, size_t n);                                                           \
  void LogSoftmaxF32(float* x, size_t n);                                                        \
  float LogSumExpF32(const float* x, size_t n);                                                  \
  void ExpShiftF32(float* x, size_t n, float shift);                                             \
  }                                                                                              \
  }

#define EARSHOT_DECLARE_FBANK(space)                                                             \
  namespace earshot {                                                                            \
  namespace space {                                                                              \
  void FbankFrames(const FbankTables* tables, const float* samples, size_t T, double* scratch,   \
                   float* out);                                                                  \
  }                                                                                              \
  }

EARSHOT_DECLARE_LINEAR_I8(scalar)
EARSHOT_DECLARE_FLOAT(scalar)
EARSHOT_DECLARE_LINEAR_I8(avx2)
EARSHOT_DECLARE_FLOAT(avx2)
EARSHOT_DECLARE_LINEAR_I8(avxvnni)
EARSHOT_DECLARE_LINEAR_I8(avx512vnni)
EARSHOT_DECLARE_FLOAT(avx512vnni)
EARSHOT_DECLARE_LINEAR_I8(neon)
EARSHOT_DECLARE_FLOAT(neon)
EARSHOT_DECLARE_LINEAR_I8(neondot)

namespace earshot {
namespace scalar {
uint32_t Crc32(uint32_t crc, const uint8_t* p, size_t size);
}
namespace avx2 {
uint32_t Crc32(uint32_t crc, const uint8_t* p, size_t size);
}
}  // namespace earshot

EARSHOT_DECLARE_FBANK(scalar)
EARSHOT_DECLARE_FBANK(avx2)

EARSHOT_DECLARE_PACKED(scalar)
EARSHOT_DECLARE_PACKED(avx2)
EARSHOT_DECLARE_PACKED(avxvnni)
EARSHOT_DECLARE_PACKED(avx512vbmi2)
EARSHOT_DECLARE_PACKED(neon)
EARSHOT_DECLARE_PACKED(neondot)

namespace earshot {

// Bytes of scratch between frames, beyond the padded columns: a gather writes whole registers, and a
// product reads zeros past the end instead of counting to it.
enum : size_t { kPackedRoom = 128 };

// places[m][i] is the place of the i-th set bit of m; places behind the last one are 0x80, which a
// byte shuffle turns into zero.
struct CompressTable {
  uint8_t places[256][8];
};
extern const CompressTable kCompressTable;

}  // namespace earshot

#endif  // EARSHOT_KERNELS_TABLES_H_
