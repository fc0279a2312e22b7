// model_file.cc: opening and checking `.ear` files, and their checksums.
#include "model_file.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "kernels/kernels.h"

#if defined(_WIN32)
#include <cstdio>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace earshot {
namespace {

constexpr uint8_t kMagic[8] = {0x89, 'E', 'A', 'R', 0x0D, 0x0A, 0x1A, 0x0A};
constexpr uint32_t kNewestVersion = 3;
constexpr size_t kAlign = 64;
constexpr size_t kVectorBytes = 64;
constexpr size_t kLevels = 16;
constexpr size_t kMaxColumns = 131072;                // int8 dot products stay in int32 below this
constexpr uint64_t kMaxElements = uint64_t{1} << 31;
#if defined(MAP_POPULATE)
constexpr size_t kMaxPopulatedBytes = size_t{64} << 20;
#endif

constexpr char kCopyAgain[] =
    "The file is damaged or cut short: copy it again, then run `earshot model verify`";
constexpr char kExportAgain[] = "Export the model again (docs/formats/ear.md)";

uint64_t RoundUp(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

uint32_t ReadU32(const uint8_t* p) {
  return uint32_t{p[0]} | uint32_t{p[1]} << 8 | uint32_t{p[2]} << 16 | uint32_t{p[3]} << 24;
}

uint64_t ReadU64(const uint8_t* p) { return uint64_t{ReadU32(p)} | uint64_t{ReadU32(p + 4)} << 32; }

uint64_t ReadMask(const uint8_t* words, size_t index) { return ReadU64(words + 8 * index); }

size_t CountBits(uint64_t word) {
  size_t n = 0;
  for (; word != 0; word &= word - 1) ++n;
  return n;
}

float Bfloat16(const uint8_t* half) {
  const uint32_t bits = uint32_t{half[0]} << 16 | uint32_t{half[1]} << 24;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Columns that a block of 16 rows stores.
size_t StoredColumns(const PackedLayout& at, const uint8_t* data, size_t block) {
  if (at.mask_words == 0) return at.padded_columns;
  size_t n = 0;
  for (size_t i = 0; i < at.mask_words; ++i) {
    n += CountBits(ReadMask(data + at.masks, block * at.mask_words + i));
  }
  return n * at.block_columns;
}

// Bytes of a section whose masks lie at `data`.
size_t PackedBytes(const PackedLayout& at, const uint8_t* data) {
  size_t vectors = 0;
  for (size_t block = 0; block < at.padded_rows / 16; ++block) {
    vectors += (StoredColumns(at, data, block) + at.per_vector - 1) / at.per_vector;
  }
  return at.vectors + vectors * kVectorBytes;
}

// True if any value is infinite or not a number: an exponent of all ones.
bool AnyNotFinite(const uint8_t* data, size_t count) {
  uint32_t any = 0;
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, data + 4 * i, 4);
    any |= (bits & 0x7F800000u) == 0x7F800000u ? 1u : 0u;
  }
  return any != 0;
}

}  // namespace

uint32_t Crc32(uint32_t crc, const void* data, size_t size) {
  return kernels().crc32(crc, static_cast<const uint8_t*>(data), size);
}

const char* CodecName(Codec codec) {
  switch (codec) {
    case Codec::kF32: return "f32";
    case Codec::kF32R16: return "f32_r16";
    case Codec::kI8R16x4: return "i8_r16x4";
    case Codec::kU8: return "u8";
    case Codec::kI8B16x1: return "i8_b16x1";
    case Codec::kI8B16x4: return "i8_b16x4";
    case Codec::kI4B16x1: return "i4_b16x1";
    case Codec::kI4B16x4: return "i4_b16x4";
    case Codec::kI4R16x4: return "i4_r16x4";
  }
  return "?";
}

bool IsSparse(Codec codec) {
  return codec == Codec::kI8B16x1 || codec == Codec::kI8B16x4 || codec == Codec::kI4B16x1 ||
         codec == Codec::kI4B16x4;
}

bool IsPacked(Codec codec) { return IsSparse(codec) || codec == Codec::kI4R16x4; }

PackedLayout::PackedLayout(Codec codec, size_t M, size_t K) {
  const bool four_bits = codec != Codec::kI8B16x1 && codec != Codec::kI8B16x4;
  block_columns = codec == Codec::kI8B16x4 || codec == Codec::kI4B16x4 ? 4 : 1;
  per_vector = four_bits ? 8 : 4;
  padded_rows = RoundUp(M, 16);
  padded_columns = RoundUp(K, 64);
  mask_words = IsSparse(codec) ? RoundUp(padded_columns / block_columns, 64) / 64 : 0;
  masks = four_bits ? kLevels : 0;
  scales = masks + 8 * mask_words * (padded_rows / 16);
  vectors = RoundUp(scales + 2 * padded_rows, kVectorBytes);
}

size_t Tensor::Elements() const {
  size_t n = 1;
  for (const size_t s : shape) n *= s;
  return n;
}

std::vector<float> Tensor::Dequantise() const {
  std::vector<float> out(Elements());
  if (codec == Codec::kF32) {
    std::memcpy(out.data(), data, bytes);
  } else if (codec == Codec::kU8) {
    for (size_t i = 0; i < out.size(); ++i) out[i] = data[i];
  } else if (IsPacked(codec)) {
    const size_t M = shape[0], K = shape[1];
    const PackedLayout at(codec, M, K);
    const uint8_t* vectors = data + at.vectors;
    for (size_t block = 0; block * 16 < M; ++block) {
      size_t place = 0;
      for (size_t k = 0; k < at.padded_columns; ++k) {
        const size_t bit = k / at.block_columns;
        if (at.mask_words > 0 &&
            !(ReadMask(data + at.masks, block * at.mask_words + bit / 64) >> (bit % 64) & 1)) {
          continue;
        }
        const uint8_t* column = vectors + place / at.per_vector * kVectorBytes + place % 4;
        for (size_t r = 0; k < K && r < 16 && block * 16 + r < M; ++r) {
          uint8_t q = column[4 * r];
          if (at.per_vector == 8) q = data[place % 8 < 4 ? q & 15 : q >> 4];
          const float scale = Bfloat16(data + at.scales + 2 * (block * 16 + r));
          out[(block * 16 + r) * K + k] = static_cast<float>(static_cast<int8_t>(q)) * scale;
        }
        ++place;
      }
      vectors += (place + at.per_vector - 1) / at.per_vector * kVectorBytes;
    }
  } else {
    const size_t M = shape[0], K = shape[1];
    const size_t Mp = RoundUp(M, 16), Kp = RoundUp(K, 64);
    const auto* q = reinterpret_cast<const int8_t*>(data);
    const float* scale = codec == Codec::kI8R16x4 ? reinterpret_cast<const float*>(data + Mp * Kp) : nullptr;
    for (size_t m = 0; m < M; ++m) {
      for (size_t k = 0; k < K; ++k) {
        out[m * K + k] = codec == Codec::kF32R16
                             ? f32()[(m / 16 * K + k) * 16 + m % 16]
                             : q[(m / 16 * (Kp / 4) + k / 4) * 64 + m % 16 * 4 + k % 4] * scale[m];
      }
    }
  }
  return out;
}

void ModelFile::Fail(const std::string& problem, const std::string& remedy) const {
  throw ModelFileError(path_, problem, remedy);
}

void ModelFile::Bad(const std::string& problem) const { Fail(problem, kExportAgain); }

#if defined(_WIN32)
void ModelFile::Map() {
  std::FILE* file = std::fopen(path_.c_str(), "rb");
  if (file == nullptr) Fail("the file cannot be opened", "Give the path of a model file");
  std::vector<uint8_t> bytes;
  uint8_t buffer[65536];
  for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, file)) > 0;) {
    bytes.insert(bytes.end(), buffer, buffer + n);
  }
  std::fclose(file);
  size_ = bytes.size();
  owned_ = ::operator new(size_ + 1, std::align_val_t{kAlign});
  if (size_ > 0) std::memcpy(owned_, bytes.data(), size_);
  data_ = static_cast<const uint8_t*>(owned_);
}
#else
void ModelFile::Map() {
  // Non-blocking, so that the path of a pipe is an error and not a wait.
  const int file = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) {
    Fail(std::string("the file cannot be opened: ") + std::strerror(errno),
         "Give the path of a readable model file");
  }
  struct stat info;
  const bool known = ::fstat(file, &info) == 0;
  if (!known || !S_ISREG(info.st_mode)) {
    ::close(file);
    Fail("this is not a regular file", "Give the path of a model file");
  }
  size_ = static_cast<size_t>(info.st_size);
  if (size_ > 0) {
    int flags = MAP_PRIVATE;
#if defined(MAP_POPULATE)
    // All of a model is read next anyway, and faults one by one cost more. Of a file that may be
    // something else, or claims to be huge, only what the checks reach is read.
    uint8_t start[sizeof kMagic];
    if (size_ <= kMaxPopulatedBytes && ::pread(file, start, sizeof start, 0) == sizeof start &&
        std::memcmp(start, kMagic, sizeof start) == 0) {
      flags |= MAP_POPULATE;
    }
#endif
    void* address = ::mmap(nullptr, size_, PROT_READ, flags, file, 0);
    const int error = errno;
    ::close(file);
    if (address == MAP_FAILED) {
      size_ = 0;
      Fail(std::string("the file cannot be mapped: ") + std::strerror(error),
           "Free some memory or copy the file to a local disk");
    }
    data_ = static_cast<const uint8_t*>(address);
    mapped_ = true;
  } else {
    ::close(file);
  }
}
#endif

ModelFile::~ModelFile() {
#if !defined(_WIN32)
  if (mapped_) ::munmap(const_cast<uint8_t*>(data_), size_);
#endif
  if (owned_ != nullptr) ::operator delete(owned_, std::align_val_t{kAlign});
}

std::shared_ptr<const ModelFile> ModelFile::Open(const std::string& path) {
  std::shared_ptr<ModelFile> file(new ModelFile(path));
  file->Map();
  file->Check();
  return file;
}

std::shared_ptr<const ModelFile> ModelFile::FromBytes(const std::string& path, const void* bytes,
                                                      size_t size) {
  std::shared_ptr<ModelFile> file(new ModelFile(path));
  file->owned_ = ::operator new(size + 1, std::align_val_t{kAlign});
  if (size > 0) std::memcpy(file->owned_, bytes, size);
  file->data_ = static_cast<const uint8_t*>(file->owned_);
  file->size_ = size;
  file->Check();
  return file;
}

const Tensor* ModelFile::Find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

void ModelFile::Check() {
  const auto number = [](uint64_t n) { return std::to_string(n); };
  if (size_ < sizeof kMagic || std::memcmp(data_, kMagic, sizeof kMagic) != 0) {
    Fail("this is not a model file: its first 8 bytes are not `\\x89EAR\\r\\n\\x1a\\n` (the file has " +
             number(size_) + " bytes)",
         "Give a file that ends in .ear, or copy it again in binary mode");
  }
  if (size_ < kPreambleBytes) {
    Fail("the file has " + number(size_) + " bytes; a model file has at least " +
             number(kPreambleBytes), kCopyAgain);
  }
  version_ = ReadU32(data_ + 8);
  if (version_ < 1 || version_ > kNewestVersion) {
    Fail("the format version is " + number(version_) + "; this reader knows versions 1 to " +
             number(kNewestVersion),
         "Update earshot, or export the model for an older version");
  }
  const uint64_t header_bytes = ReadU32(data_ + 12);
  if (header_bytes < 2 || header_bytes > kMaxHeaderBytes) {
    Fail("the header size is " + number(header_bytes) + "; it must be in 2.." +
             number(kMaxHeaderBytes), kCopyAgain);
  }
  if (ReadU64(data_ + 16) != size_) {
    Fail("the file has " + number(size_) + " bytes but says it has " + number(ReadU64(data_ + 16)),
         kCopyAgain);
  }
  if (ReadU32(data_ + 28) != 0) {
    Fail("the reserved field is " + number(ReadU32(data_ + 28)) + "; it must be 0", kCopyAgain);
  }
  if (kPreambleBytes + header_bytes > size_) {
    Fail("the header ends at byte " + number(kPreambleBytes + header_bytes) + " but the file has " +
             number(size_), kCopyAgain);
  }
  const uint32_t check = Crc32(Crc32(0, data_, 24), data_ + kPreambleBytes, header_bytes);
  if (check != ReadU32(data_ + 24)) {
    Fail("the checksum of the header is " + number(check) + " but the file says " +
             number(ReadU32(data_ + 24)), kCopyAgain);
  }
  header_text_ = std::string_view(reinterpret_cast<const char*>(data_) + kPreambleBytes, header_bytes);
  try {
    header_ = std::make_unique<JsonDocument>(header_text_);
  } catch (const JsonError& error) {
    Bad(std::string("the header has ") + error.what());
  }
  if (header().kind() != JsonKind::kObject) {
    Bad(std::string("the header is ") + JsonKindName(header().kind()) + "; it must be an object");
  }
  CheckTensors();
}

void ModelFile::CheckTensors() {
  const auto number = [](uint64_t n) { return std::to_string(n); };
  const JsonValue list = header().Find("tensors");
  if (!list || list.kind() != JsonKind::kArray) Bad("the header has no list `tensors`");
  if (list.size() > kMaxTensors) {
    Bad("the header lists " + number(list.size()) + " tensors; at most " + number(kMaxTensors) +
        " are allowed");
  }
  tensors_.reserve(list.size());
  uint64_t end = kPreambleBytes + header_text_.size();  // of what came before
  const auto check_padding = [&](uint64_t from, uint64_t to) {
    if (to > size_) {
      Fail("the padding after byte " + number(from) + " ends at byte " + number(to) +
               " but the file has " + number(size_), kCopyAgain);
    }
    for (uint64_t i = from; i < to; ++i) {
      if (data_[i] != 0) {
        Fail("the padding byte " + number(i) + " is " + number(data_[i]) + "; it must be 0", kCopyAgain);
      }
    }
  };
  for (JsonValue item = list.first(); item; item = item.next()) {
    const std::string at = "tensor " + number(tensors_.size());
    if (item.kind() != JsonKind::kObject) Bad(at + " is " + JsonKindName(item.kind()) + "; it must be an object");
    const auto integer = [&](const std::string& where, const char* key) {
      const JsonValue value = item.Find(key);
      if (!value || value.kind() != JsonKind::kNumber || !value.IsInteger() || value.integer() < 0) {
        Bad(where + " has no `" + key + "` that is a whole number");
      }
      return static_cast<uint64_t>(value.integer());
    };
    Tensor tensor;
    const JsonValue name = item.Find("name");
    if (!name || name.kind() != JsonKind::kString || name.string().empty() ||
        name.string().size() > kMaxNameBytes) {
      Bad(at + " has no `name` of 1.." + number(kMaxNameBytes) + " bytes");
    }
    tensor.name = name.string();
    const std::string who = "tensor " + Quoted(tensor.name);
    for (JsonValue v = item.first(); v; v = v.next()) {
      const std::string_view key = v.key();
      if (key != "name" && key != "codec" && key != "shape" && key != "offset" && key != "bytes" &&
          key != "crc32") {
        Bad(who + " has the unknown key " + Quoted(key));
      }
    }
    const JsonValue codec = item.Find("codec");
    if (!codec || codec.kind() != JsonKind::kString) Bad(who + " has no `codec` that is a string");
    bool known = false;
    for (const Codec c : {Codec::kF32, Codec::kF32R16, Codec::kI8R16x4, Codec::kU8, Codec::kI8B16x1,
                          Codec::kI8B16x4, Codec::kI4B16x1, Codec::kI4B16x4, Codec::kI4R16x4}) {
      if (codec.string() == CodecName(c)) {
        tensor.codec = c;
        known = true;
      }
    }
    if (!known) Bad(who + " has the unknown codec " + Quoted(codec.string()));
    if (IsPacked(tensor.codec) && version_ < 2) {
      Bad(who + " has the codec " + CodecName(tensor.codec) + ", which version 1 does not have; the file must say version 2");
    }
    const JsonValue shape = item.Find("shape");
    if (!shape || shape.kind() != JsonKind::kArray || shape.size() < 1 || shape.size() > 4) {
      Bad(who + " has no `shape` of 1..4 sizes");
    }
    uint64_t elements = 1;
    for (JsonValue v = shape.first(); v; v = v.next()) {
      if (v.kind() != JsonKind::kNumber || !v.IsInteger() || v.integer() < 1 ||
          static_cast<uint64_t>(v.integer()) > kMaxElements) {
        Bad(who + " has a size in `shape` that is not a positive whole number");
      }
      tensor.shape.push_back(static_cast<size_t>(v.integer()));
      elements *= static_cast<uint64_t>(v.integer());  // both are at most 2^31: no overflow
      if (elements > kMaxElements) Bad(who + " has more than " + number(kMaxElements) + " values");
    }
    uint64_t bytes = 0;
    switch (tensor.codec) {
      case Codec::kF32:
        bytes = 4 * elements;
        break;
      case Codec::kU8:
        if (tensor.shape.size() != 1) Bad(who + " has codec u8 and " + number(tensor.shape.size()) + " dimensions; it must have 1");
        bytes = elements;
        break;
      default: {
        if (tensor.shape.size() != 2) {
          Bad(who + " has codec " + CodecName(tensor.codec) + " and " + number(tensor.shape.size()) +
              " dimensions; it must have 2");
        }
        const uint64_t M = tensor.shape[0], K = tensor.shape[1];
        if (K >= kMaxColumns) Bad(who + " has " + number(K) + " columns; fewer than " + number(kMaxColumns) + " are allowed");
        const uint64_t Mp = RoundUp(M, 16);
        if (IsPacked(tensor.codec)) {
          const PackedLayout at(tensor.codec, M, K);
          // What the masks ask for comes on top: they are read once it is known that they are there.
          bytes = IsSparse(tensor.codec) ? at.vectors : at.vectors + Mp * at.padded_columns / 2;
        } else {
          bytes = tensor.codec == Codec::kF32R16 ? 4 * Mp * K : Mp * RoundUp(K, 64) + 8 * Mp;
        }
        break;
      }
    }
    const uint64_t offset = integer(who, "offset");
    const uint64_t said = integer(who, "bytes");
    if (IsSparse(tensor.codec) ? said < bytes : said != bytes) {
      Bad(who + " says " + number(said) + " bytes; its shape and codec need " +
          (IsSparse(tensor.codec) ? "at least " : "") + number(bytes));
    }
    bytes = said;
    const uint64_t expected = RoundUp(end, kAlign);
    if (offset != expected) {
      Bad(who + " starts at byte " + number(offset) + "; it must start at byte " + number(expected));
    }
    if (offset > size_ || bytes > size_ - offset) {
      Fail(who + " ends at byte " + number(offset + bytes) + " but the file has " + number(size_), kCopyAgain);
    }
    const uint64_t crc = integer(who, "crc32");
    if (crc > UINT32_MAX) Bad(who + " has the `crc32` " + number(crc) + "; it must be below 2^32");
    check_padding(end, offset);
    tensor.data = data_ + offset;
    tensor.bytes = bytes;
    tensor.crc32 = static_cast<uint32_t>(crc);
    const uint32_t actual = Crc32(0, tensor.data, tensor.bytes);
    if (actual != tensor.crc32) {
      Fail(who + " has the checksum " + number(actual) + " but the header says " + number(crc), kCopyAgain);
    }
    if (IsPacked(tensor.codec)) {
      CheckPacked(&tensor);
    } else {
      CheckContent(tensor);
    }
    end = offset + bytes;
    tensors_.push_back(std::move(tensor));
  }
  const uint64_t last = RoundUp(end, kAlign);
  if (last != size_) {
    Fail("the last section ends at byte " + number(end) + ", so the file must have " + number(last) +
             " bytes; it has " + number(size_), kCopyAgain);
  }
  check_padding(end, last);
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (!by_name_.emplace(tensors_[i].name, i).second) {
      Bad("two tensors have the name " + Quoted(tensors_[i].name));
    }
  }
}

void ModelFile::CheckContent(const Tensor& tensor) const {
  const std::string who = "tensor " + Quoted(tensor.name);
  if (tensor.codec == Codec::kU8) return;
  if (tensor.codec == Codec::kF32 || tensor.codec == Codec::kF32R16) {
    if (AnyNotFinite(tensor.data, tensor.bytes / 4)) Bad(who + " has a value that is not finite");
    if (tensor.codec == Codec::kF32) return;
  }
  const size_t M = tensor.shape[0], K = tensor.shape[1];
  const size_t Mp = RoundUp(M, 16), Kp = RoundUp(K, 64);
  if (tensor.codec == Codec::kF32R16) {
    const float* block = tensor.f32() + (Mp / 16 - 1) * K * 16;
    for (size_t k = 0; k < K; ++k) {
      for (size_t r = M % 16; r > 0 && r < 16; ++r) {
        if (block[k * 16 + r] != 0.0f) Bad(who + " has a value beyond its last row that is not 0");
      }
    }
    return;
  }
  const auto* tiles = reinterpret_cast<const int8_t*>(tensor.data);
  const auto* scales = reinterpret_cast<const float*>(tensor.data + Mp * Kp);
  const auto* rowsums = reinterpret_cast<const int32_t*>(tensor.data + Mp * Kp + 4 * Mp);
  if (AnyNotFinite(tensor.data + Mp * Kp, Mp)) Bad(who + " has a scale that is not finite");
  const size_t groups = Kp / 4;
  for (size_t block = 0; block < Mp / 16; ++block) {
    const int8_t* base = tiles + block * groups * 64;
    int32_t sum[16] = {};
    int8_t lowest[64] = {};
    // 16-bit partial sums over at most 256 tiles: 256 * 127 < 2^15.
    for (size_t from = 0; from < groups; from += 256) {
      int16_t part[64] = {};
      const size_t to = std::min(groups, from + 256);
      for (size_t g = from; g < to; ++g) {
        for (size_t i = 0; i < 64; ++i) {
          const int8_t q = base[g * 64 + i];
          part[i] = static_cast<int16_t>(part[i] + q);
          lowest[i] = std::min(lowest[i], q);
        }
      }
      for (size_t i = 0; i < 64; ++i) sum[i / 4] += part[i];
    }
    if (*std::min_element(lowest, lowest + 64) == -128) Bad(who + " has the int8 value -128; -127..127 are allowed");
    for (size_t k = K; k < Kp; ++k) {
      for (size_t r = 0; r < 16; ++r) {
        if (base[k / 4 * 64 + r * 4 + k % 4] != 0) Bad(who + " has a value beyond its last column that is not 0");
      }
    }
    for (size_t r = 0; r < 16; ++r) {
      const size_t row = block * 16 + r;
      if (row >= M) {
        for (size_t g = 0; g < groups; ++g) {
          for (size_t i = 0; i < 4; ++i) {
            if (base[g * 64 + r * 4 + i] != 0) Bad(who + " has a value beyond its last row that is not 0");
          }
        }
        if (scales[row] != 0.0f) Bad(who + " has a scale beyond its last row that is not 0");
      }
      if (!(scales[row] >= 0.0f)) Bad(who + " has a scale below 0 in row " + std::to_string(row));
      // |sum| <= 127 * 131071, so 128 times it stays below 2^31.
      if (rowsums[row] != 128 * sum[r]) {
        Bad(who + " has the row sum " + std::to_string(rowsums[row]) + " in row " + std::to_string(row) +
            "; it must be " + std::to_string(128 * sum[r]));
      }
    }
  }
}

void ModelFile::CheckPacked(Tensor* tensor) const {
  const std::string who = "tensor " + Quoted(tensor->name);
  const size_t M = tensor->shape[0], K = tensor->shape[1];
  const PackedLayout at(tensor->codec, M, K);
  const uint8_t* data = tensor->data;
  if (at.mask_words > 0) {
    const size_t needed = PackedBytes(at, data);
    if (needed != tensor->bytes) {
      Bad(who + " says " + std::to_string(tensor->bytes) + " bytes; its masks need " + std::to_string(needed));
    }
  }
  const auto* levels = reinterpret_cast<const int8_t*>(data);
  if (at.per_vector == 8) {
    for (size_t i = 0; i < kLevels; ++i) {
      if (levels[i] == -128) Bad(who + " has the level -128; -127..127 are allowed");
      if (i > 0 && levels[i] < levels[i - 1]) Bad(who + " has levels that do not ascend");
    }
  }
  for (size_t row = 0; row < at.padded_rows; ++row) {
    const float scale = Bfloat16(data + at.scales + 2 * row);
    if (AnyNotFinite(reinterpret_cast<const uint8_t*>(&scale), 1)) Bad(who + " has a scale that is not finite");
    if (!(scale >= 0.0f)) Bad(who + " has a scale below 0 in row " + std::to_string(row));
    if (row >= M && scale != 0.0f) Bad(who + " has a scale beyond its last row that is not 0");
  }
  for (size_t i = at.scales + 2 * at.padded_rows; i < at.vectors; ++i) {
    if (data[i] != 0) Bad(who + " has a byte between scales and values that is not 0");
  }

  // A byte of two codes adds the levels of both to its row.
  int16_t pair_sum[256] = {};
  for (size_t i = 0; i < 256 && at.per_vector == 8; ++i) {
    pair_sum[i] = static_cast<int16_t>(levels[i & 15] + levels[i >> 4]);
  }
  tensor->row_sums.assign(at.padded_rows, 0);
  const size_t used_blocks = (K + at.block_columns - 1) / at.block_columns;
  const uint8_t* vectors = data + at.vectors;
  for (size_t block = 0; block < at.padded_rows / 16; ++block) {
    size_t beyond = at.mask_words > 0 ? 0 : at.padded_columns - K;  // stored columns from K on
    for (size_t i = 0; i < at.mask_words; ++i) {
      const uint64_t word = ReadMask(data + at.masks, block * at.mask_words + i);
      const size_t first = i * 64;
      const uint64_t allowed = used_blocks >= first + 64 ? ~uint64_t{0}
                               : used_blocks > first     ? (uint64_t{1} << (used_blocks - first)) - 1
                                                         : 0;
      if ((word & ~allowed) != 0) Bad(who + " has a mask bit beyond its last column");
      const size_t last = used_blocks - 1;
      if (last / 64 == i && (word >> (last % 64) & 1)) beyond = used_blocks * at.block_columns - K;
    }
    const size_t stored = StoredColumns(at, data, block);
    const size_t count = (stored + at.per_vector - 1) / at.per_vector;
    int32_t sum[16] = {};
    int8_t lowest[64] = {};
    // 16-bit partial sums over at most 128 vectors: 128 * 2 * 127 < 2^15.
    for (size_t from = 0; from < count; from += 128) {
      int16_t part[64] = {};
      const size_t to = std::min(count, from + 128);
      if (at.per_vector == 4) {
        for (size_t v = from; v < to; ++v) {
          for (size_t i = 0; i < 64; ++i) {
            const auto q = static_cast<int8_t>(vectors[v * 64 + i]);
            part[i] = static_cast<int16_t>(part[i] + q);
            lowest[i] = std::min(lowest[i], q);
          }
        }
      } else {
        for (size_t v = from; v < to; ++v) {
          for (size_t i = 0; i < 64; ++i) {
            part[i] = static_cast<int16_t>(part[i] + pair_sum[vectors[v * 64 + i]]);
          }
        }
      }
      for (size_t i = 0; i < 64; ++i) sum[i / 4] += part[i];
    }
    if (*std::min_element(lowest, lowest + 64) == -128) Bad(who + " has the int8 value -128; -127..127 are allowed");
    const size_t places = count * at.per_vector;
    for (size_t place = stored - beyond; place < places; ++place) {
      for (size_t r = 0; r < 16; ++r) {
        const uint8_t q = vectors[place / at.per_vector * 64 + 4 * r + place % 4];
        const int bits = at.per_vector == 4 ? q : place % 8 < 4 ? q & 15 : q >> 4;
        if (bits != 0) Bad(who + " has a value beyond its last column that is not 0");
      }
    }
    for (size_t r = 0; r < 16; ++r) {
      const size_t row = block * 16 + r;
      for (size_t v = 0; row >= M && v < count; ++v) {
        for (size_t i = 0; i < 4; ++i) {
          if (vectors[v * 64 + r * 4 + i] != 0) Bad(who + " has a value beyond its last row that is not 0");
        }
      }
      // Places behind the last stored column meet activations of 0 and are not part of the sum.
      if (at.per_vector == 8) sum[r] -= levels[0] * static_cast<int32_t>(places - stored);
      // |sum| <= 127 * 131072, so 128 times it stays below 2^31.
      tensor->row_sums[row] = 128 * sum[r];
    }
    vectors += count * kVectorBytes;
  }
}

}  // namespace earshot
