// model_file.h: the `.ear` container: bytes in, checked header and tensors out.
//
// Knows preamble, header, sections, codecs and checksums (docs/formats/ear.md,
// sections 1 to 3), not what the graphs in the header mean: see graph.h. All
// checks happen once, in Open; afterwards every tensor can be read without one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "json.h"

namespace earshot {

// Reads `<path>: <problem>. <remedy>.`
class ModelFileError : public std::runtime_error {
 public:
  ModelFileError(const std::string& path, const std::string& problem, const std::string& remedy)
      : std::runtime_error(path + ": " + problem + ". " + remedy + "."),
        path_(path), problem_(problem), remedy_(remedy) {}
  const std::string& path() const { return path_; }
  const std::string& problem() const { return problem_; }
  const std::string& remedy() const { return remedy_; }

 private:
  std::string path_, problem_, remedy_;
};

enum class Codec : uint8_t {
  kF32, kF32R16, kI8R16x4, kU8, kI8B16x1, kI8B16x4, kI4B16x1, kI4B16x4, kI4R16x4,
};
const char* CodecName(Codec codec);
bool IsSparse(Codec codec);  // a mask says which blocks are stored
bool IsPacked(Codec codec);  // one of the five of version 2

// Where the parts of a section in one of the five codecs of version 2 start.
struct PackedLayout {
  PackedLayout(Codec codec, size_t M, size_t K);
  size_t block_columns;  // a bit of a mask stands for so many; 1 without masks
  size_t per_vector;     // packed columns in 64 bytes
  size_t padded_rows, padded_columns;
  size_t mask_words;     // of a block of rows; 0 without masks
  size_t masks, scales, vectors;  // bytes from the start of the section
};

struct Tensor {
  std::string name;
  Codec codec = Codec::kF32;
  std::vector<size_t> shape;       // 1..4 positive sizes
  const uint8_t* data = nullptr;   // 64-byte aligned, valid while the file lives
  size_t bytes = 0;
  uint32_t crc32 = 0;
  // Of the codecs of version 2: 128 times the sum of what is stored of each of the padded rows.
  std::vector<int32_t> row_sums;

  size_t Elements() const;
  const float* f32() const { return reinterpret_cast<const float*>(data); }
  // Values in logical order (row-major `shape`), whatever the codec.
  std::vector<float> Dequantise() const;
};

class ModelFile {
 public:
  static constexpr size_t kPreambleBytes = 32;
  static constexpr size_t kMaxHeaderBytes = size_t{1} << 20;
  static constexpr size_t kMaxTensors = 4096;
  static constexpr size_t kMaxNameBytes = 128;

  // Maps and checks the file; throws ModelFileError.
  static std::shared_ptr<const ModelFile> Open(const std::string& path);
  // The same over a copy of `size` bytes; `path` is only for messages.
  static std::shared_ptr<const ModelFile> FromBytes(const std::string& path, const void* bytes,
                                                    size_t size);
  ~ModelFile();
  ModelFile(const ModelFile&) = delete;
  ModelFile& operator=(const ModelFile&) = delete;

  const std::string& path() const { return path_; }
  size_t size() const { return size_; }
  uint32_t version() const { return version_; }
  std::string_view header_text() const { return header_text_; }
  JsonValue header() const { return header_->root(); }
  const std::vector<Tensor>& tensors() const { return tensors_; }
  const Tensor* Find(std::string_view name) const;

  // For checks of what the header means: throws ModelFileError for this path.
  [[noreturn]] void Fail(const std::string& problem, const std::string& remedy) const;
  // The same with the remedy for a file that its exporter got wrong.
  [[noreturn]] void Bad(const std::string& problem) const;

 private:
  explicit ModelFile(const std::string& path) : path_(path) {}
  void Map();
  void Check();
  void CheckTensors();
  void CheckContent(const Tensor& tensor) const;
  // Also fills `row_sums`.
  void CheckPacked(Tensor* tensor) const;

  std::string path_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
  uint32_t version_ = 0;
  bool mapped_ = false;
  void* owned_ = nullptr;
  std::string_view header_text_;
  std::unique_ptr<JsonDocument> header_;
  std::vector<Tensor> tensors_;
  std::unordered_map<std::string_view, size_t> by_name_;
};

// CRC-32 as in zlib; `crc` is the value of the bytes before, 0 at first.
uint32_t Crc32(uint32_t crc, const void* data, size_t size);

}  // namespace earshot
