// kernels.h: the table of inner loops, one per instruction set.
//
// Knows vectors, packed matrices and nothing of graphs, files or states. Included by files that are
// compiled for one instruction set only, so it holds C declarations: no templates, no inline
// functions, no C++ library header.
//
// Everywhere: row-major, frames outermost, all buffers owned by the caller, no alignment needed but for
// the scratch of `fbank`.
// Each frame is computed by itself in a fixed order, so its bits do not depend on how many
// frames are in the call, nor on its place among them.
#ifndef EARSHOT_KERNELS_KERNELS_H_
#define EARSHOT_KERNELS_KERNELS_H_

#include <stddef.h>
#include <stdint.h>

namespace earshot {

// A matrix of which some columns of 16 rows are left out, or with 4 bits a weight: codecs i8_b16x1,
// i8_b16x4, i4_b16x1, i4_b16x4 and i4_r16x4 of docs/formats/ear.md, section 3.
struct PackedWeights {
  size_t rows;              // M
  size_t columns;           // K
  size_t block_columns;     // that a bit of a mask stands for: 1 or 4
  const uint64_t* masks;    // [Mp/16][words of 64 blocks]; null: every column is stored
  const int8_t* levels;     // 16 levels; null: 8-bit values
  const uint16_t* scale;    // [Mp], bfloat16
  const int32_t* rowsum;    // [Mp], 128 * (sum of the row's stored values)
  const uint8_t* vectors;   // 64 bytes each: 16 rows x 4 packed columns, or x 8 in 4 bits
  const uint8_t* end;       // behind the last vector; nothing is read from there on
};

// Log mel filterbank features (fbank.h), in samples but for the last: windows and what lies between
// their beginnings, the complex points of their transform, which even and odd samples share, and the
// doubles that the kernel computes in.
enum : size_t { kFbankWindow = 400, kFbankShift = 160, kFbankPoints = 256, kFbankScratch = 4096 };

struct FbankTables {
  size_t bins;
  const double* window;                      // [400]
  const double *cosine, *sine;               // [kFbankPoints], e^(-2 pi i k / 256)
  const double *split_cosine, *split_sine;   // [kFbankPoints], e^(-2 pi i k / 512)
  const size_t *first, *end;                 // [bins], points of the transform under a triangle
  const double* weights;                     // of those points, bin by bin
};

struct Kernels {
  const char* isa;

  // y[t*ldy + m] (+)= sum_k w[m][k] * x[t*ldx + k] + bias[m], k ascending in one accumulator per
  // row. `w` is in codec f32_r16: [Mp/16][K][16]. `bias` may be null. `accumulate` adds to y.
  void (*linear_f32)(const float* w, const float* bias, size_t M, size_t K, const float* x,
                     size_t ldx, size_t T, float* y, size_t ldy, bool accumulate);

  // Quantises x[K] to q[Kp] (zero padded): returns s = max|x| / 127, q = round_half_even(x / s).
  // A vector of zeros, or with s below FLT_MIN, gives zeros and scale 0.
  float (*quantize_s8)(const float* x, size_t K, size_t Kp, int8_t* q);

  // y[t*ldy + m] (+)= acc * (xscale[t] * scale[m]) + bias[m], acc = sum_k w[m][k] * xq[t*Kp + k]
  // exact in int32. Weights in codec i8_r16x4: tiles [Mp/16][Kp/4][16][4] in -127..127, scale[Mp],
  // rowsum[Mp] = 128 * (sum of the row's int8 values). xq in -127..127, zero beyond K.
  void (*linear_i8)(const int8_t* tiles, const float* scale, const int32_t* rowsum,
                    const float* bias, size_t M, size_t K, const int8_t* xq, const float* xscale,
                    size_t T, float* y, size_t ldy, bool accumulate);

  // The same with `w`; bits equal those of linear_i8 with the weights that `w` stands for, where scales
  // have eight significant bits. `scratch` holds packed_scratch_bytes(K, T) and needs no alignment.
  void (*linear_packed)(const PackedWeights* w, const float* bias, const int8_t* xq,
                        const float* xscale, size_t T, float* y, size_t ldy, bool accumulate,
                        uint8_t* scratch);

  // One LSTM step of H units (a multiple of 16) from pre-activations pre[4H] that include the bias,
  // ordered [unit block of 16][gate i, f, g, o][16 units]. Updates c[H], writes h[H].
  void (*lstm_gates)(const float* pre, size_t H, float* c, float* h);

  // In place. Absolute error below 1e-6; log_softmax's is relative to the largest |x|.
  void (*tanh_f32)(float* x, size_t n);
  void (*sigmoid_f32)(float* x, size_t n);
  void (*log_softmax_f32)(float* x, size_t n);

  // log(sum(exp(x[i]))), n >= 1.
  float (*log_sum_exp_f32)(const float* x, size_t n);
  // x[i] = exp(x[i] + shift).
  void (*exp_shift_f32)(float* x, size_t n, float shift);

  // Natural logs of the mel energies of T windows, not below log(FLT_EPSILON): out[T][bins] from
  // samples[160 * (T - 1) + 400], finite. Equal in all bits on every instruction set. `scratch` holds
  // kFbankScratch doubles and lies at a multiple of 32 bytes.
  void (*fbank)(const FbankTables* tables, const float* samples, size_t T, double* scratch, float* out);

  // CRC-32 as in zlib; `crc` is the value of the bytes before, 0 at first.
  uint32_t (*crc32)(uint32_t crc, const uint8_t* data, size_t size);
};

// What linear_packed needs beside its arguments: per frame, one copy of its quantised vector and the
// parts of it that two blocks of rows use, each with room behind it.
size_t packed_scratch_bytes(size_t K, size_t T);

// The table chosen at first use: the best that this CPU runs, or the one that the environment
// variable EARSHOT_ISA names. Throws std::invalid_argument if that one is unknown or unavailable.
const Kernels& kernels();

// The table of one instruction set, or null if this build or this CPU does not have it.
const Kernels* kernels_for(const char* isa);

// Names that kernels_for accepts here, best first, ended by a null pointer.
const char* const* available_isas();

}  // namespace earshot

#endif  // EARSHOT_KERNELS_KERNELS_H_
