// dispatch.cc: which instruction sets this build and this CPU have, and which one is used.

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/tables.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace earshot {
namespace {

#if defined(__x86_64__)

struct CpuFeatures {
  bool avx2 = false;
  bool avxvnni = false;
  bool avx512vnni = false;
  bool avx512vbmi2 = false;  // with avx512vnni
};

CpuFeatures ReadCpu() {
  CpuFeatures features;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return features;
  const bool fma_and_pclmul = (c & (1u << 12)) && (c & (1u << 1));
  const bool os_saves_registers = c & (1u << 27);
  if (!os_saves_registers) return features;
  unsigned xcr0_low = 0, xcr0_high = 0;
  __asm__ volatile("xgetbv" : "=a"(xcr0_low), "=d"(xcr0_high) : "c"(0));
  const bool os_ymm = (xcr0_low & 0x06u) == 0x06u;
  const bool os_zmm = (xcr0_low & 0xE6u) == 0xE6u;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return features;
  const unsigned highest_subleaf = a;
  features.avx2 = os_ymm && fma_and_pclmul && (b & (1u << 5));
  const unsigned f_dq_bw_vl = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);
  features.avx512vnni =
      features.avx2 && os_zmm && (b & f_dq_bw_vl) == f_dq_bw_vl && (c & (1u << 11));
  features.avx512vbmi2 = features.avx512vnni && (c & (1u << 6)) && (c & (1u << 1));
  if (highest_subleaf >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
    features.avxvnni = features.avx2 && (a & (1u << 4));
  }
  return features;
}

#endif

#define EARSHOT_TABLE(name, integer, packed, floating, fbank, checksum)                          \
  {                                                                                              \
    name, floating::LinearF32, floating::QuantizeS8, integer::LinearI8, packed::LinearPacked,    \
        floating::LstmGates, floating::TanhF32, floating::SigmoidF32, floating::LogSoftmaxF32,   \
        floating::LogSumExpF32, floating::ExpShiftF32, fbank::FbankFrames, checksum::Crc32       \
  }

constexpr CompressTable MakeCompressTable() {
  CompressTable table = {};
  for (unsigned mask = 0; mask < 256; ++mask) {
    unsigned found = 0;
    for (unsigned bit = 0; bit < 8; ++bit) {
      if (mask >> bit & 1u) table.places[mask][found++] = static_cast<uint8_t>(bit);
    }
    while (found < 8) table.places[mask][found++] = 0x80;
  }
  return table;
}

const std::vector<Kernels>& Available() {
  static const std::vector<Kernels> tables = [] {
    std::vector<Kernels> found;
#if defined(__x86_64__)
    const CpuFeatures cpu = ReadCpu();
    if (cpu.avx512vbmi2) {
      found.push_back(EARSHOT_TABLE("avx512vnni", avx512vnni, avx512vbmi2, avx512vnni, avx2, avx2));
    }
    // Cascade and Cooper Lake cannot compress bytes in a register: sparse and 4-bit products are AVX2's there.
    if (cpu.avx512vnni) {
      found.push_back(EARSHOT_TABLE("avx512vnni_avx2", avx512vnni, avx2, avx512vnni, avx2, avx2));
    }
    if (cpu.avxvnni) found.push_back(EARSHOT_TABLE("avxvnni", avxvnni, avxvnni, avx2, avx2, avx2));
    if (cpu.avx2) found.push_back(EARSHOT_TABLE("avx2", avx2, avx2, avx2, avx2, avx2));
#elif defined(__aarch64__)
#if defined(__linux__)
    constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
    if (getauxval(AT_HWCAP) & kDotProduct) {
      found.push_back(EARSHOT_TABLE("neondot", neondot, neondot, neon, scalar, scalar));
    }
#elif defined(__APPLE__)
    found.push_back(EARSHOT_TABLE("neondot", neondot, neondot, neon, scalar, scalar));  // every Apple aarch64 CPU
#endif
    found.push_back(EARSHOT_TABLE("neon", neon, neon, neon, scalar, scalar));
#endif
    found.push_back(EARSHOT_TABLE("scalar", scalar, scalar, scalar, scalar, scalar));
    return found;
  }();
  return tables;
}

const Kernels& Choose() {
  const char* wanted = std::getenv("EARSHOT_ISA");
  if (wanted == nullptr || *wanted == '\0') return Available().front();
  if (const Kernels* table = kernels_for(wanted)) return *table;
  std::string names;
  for (const Kernels& table : Available()) names += (names.empty() ? "" : ", ") + std::string(table.isa);
  throw std::invalid_argument("EARSHOT_ISA is '" + std::string(wanted) +
                              "', which this CPU or this build does not have; it must be one of " +
                              names + ". Unset it to take the fastest.");
}

}  // namespace

extern const CompressTable kCompressTable = MakeCompressTable();

size_t packed_scratch_bytes(size_t K, size_t T) {
  return 3 * T * ((K + 63) / 64 * 64 + kPackedRoom);
}

const Kernels& kernels() {
  static const Kernels& chosen = Choose();
  return chosen;
}

const Kernels* kernels_for(const char* isa) {
  for (const Kernels& table : Available()) {
    if (std::strcmp(table.isa, isa) == 0) return &table;
  }
  // What Cascade Lake has went by this name, too.
  return std::strcmp(isa, "avx512vnni") == 0 ? kernels_for("avx512vnni_avx2") : nullptr;
}

const char* const* available_isas() {
  static const std::vector<const char*> names = [] {
    std::vector<const char*> list;
    for (const Kernels& table : Available()) list.push_back(table.isa);
    list.push_back(nullptr);
    return list;
  }();
  return names.data();
}

}  // namespace earshot
