// ear_mutations.h: damages `.ear` files so that checksums still hold, for the fuzzers beside it.
//
// Knows how a file is laid out and what stands in its header, not what any of it
// means: most of what comes out must be refused, some of it opens.
#pragma once

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "model_file.h"

namespace earshot::fuzz {

using Bytes = std::vector<uint8_t>;

struct Random {
  explicit Random(uint64_t seed) : engine(seed) {}
  size_t Below(size_t n) { return n == 0 ? 0 : static_cast<size_t>(engine() % n); }
  std::mt19937_64 engine;
};

inline void PutU32(uint8_t* p, uint32_t v) {
  for (int i = 0; i < 4; ++i) p[i] = static_cast<uint8_t>(v >> (8 * i));
}

inline size_t Align(size_t n) { return (n + 63) / 64 * 64; }

// A file taken apart: version, header text and sections.
struct Parts {
  uint32_t version = 1;
  std::string header;
  std::vector<Bytes> sections;
};

// Writes the numbers behind the i-th `key` of the header, padded with spaces to
// the width that Spread left for them.
inline void Patch(std::string* header, const std::string& key, const std::vector<uint64_t>& numbers) {
  size_t at = 0;
  for (const uint64_t number : numbers) {
    at = header->find(key, at);
    if (at == std::string::npos) return;
    at += key.size();
    std::string text = std::to_string(number);
    text.resize(12, ' ');
    if (at + text.size() > header->size()) return;
    header->replace(at, text.size(), text);
  }
}

// Gives every offset and checksum 12 characters of room.
inline void Spread(std::string* header, const std::string& key) {
  for (size_t at = 0; (at = header->find(key, at)) != std::string::npos;) {
    at += key.size();
    size_t end = at;
    while (end < header->size() && (*header)[end] == ' ') ++end;
    while (end < header->size() && (*header)[end] >= '0' && (*header)[end] <= '9') ++end;
    header->replace(at, end - at, 12, ' ');
  }
}

inline Bytes Join(Parts parts) {
  std::vector<uint64_t> offsets, checks;
  size_t at = 32 + parts.header.size();
  for (const Bytes& section : parts.sections) {
    at = Align(at);
    offsets.push_back(at);
    checks.push_back(Crc32(0, section.data(), section.size()));
    at += section.size();
  }
  Patch(&parts.header, "\"offset\":", offsets);
  Patch(&parts.header, "\"crc32\":", checks);
  Bytes out(Align(at));
  std::memcpy(out.data(), "\x89" "EAR\r\n\x1a\n", 8);
  PutU32(out.data() + 8, parts.version);
  PutU32(out.data() + 12, static_cast<uint32_t>(parts.header.size()));
  PutU32(out.data() + 16, static_cast<uint32_t>(out.size()));
  std::memcpy(out.data() + 32, parts.header.data(), parts.header.size());
  for (size_t i = 0; i < offsets.size(); ++i) {
    if (!parts.sections[i].empty()) std::memcpy(out.data() + offsets[i], parts.sections[i].data(), parts.sections[i].size());
  }
  PutU32(out.data() + 24, Crc32(Crc32(0, out.data(), 24), out.data() + 32, parts.header.size()));
  return out;
}

// Spans of string literals and of numbers in JSON text (good enough to aim by).
inline std::vector<std::pair<size_t, size_t>> Spans(const std::string& text, bool strings) {
  std::vector<std::pair<size_t, size_t>> spans;
  for (size_t i = 0; i < text.size(); ++i) {
    const size_t start = i;
    if (text[i] == '"') {
      ++i;
      while (i < text.size() && text[i] != '"') i += text[i] == '\\' ? 2 : 1;
      if (strings) spans.emplace_back(start, std::min(i + 1, text.size()) - start);
    } else if (!strings && text[i] >= '0' && text[i] <= '9') {
      while (i < text.size() && (std::isdigit(static_cast<unsigned char>(text[i])) || text[i] == '.')) ++i;
      spans.emplace_back(start, i - start);
    }
  }
  return spans;
}

inline void MutateHeader(std::string* text, Random* random) {
  static const char* const kNumbers[] = {"0", "1", "2", "3", "4", "8", "16", "17", "32", "48", "64", "65", "80", "320",
                                         "-1", "0.5", "1e308", "131072", "2147483648", "4294967296", "9007199254740993",
                                         "99999999999999999999", "true", "null", "[]", "{}", "\"x\""};
  static const char* const kWords[] = {"\"x\"", "\"y\"", "\"when\"", "\"skipped\"", "\"hold\"", "\"pass\"", "\"relu\"",
                                       "\"tanh\"", "\"add\"", "\"stack\"", "\"lstm\"", "\"conv1d\"", "\"linear\"",
                                       "\"valid\"", "\"causal\"", "\"stateful\"", "\"f32\"", "\"f32_r16\"", "\"i8_r16x4\"", "\"i4_r16x4\"",
                                       "\"i8_b16x1\"", "\"i4_b16x4\"", "\"weight\"", "\"causal_attention\"", "\"distance\"", "\"\""};
  const bool strings = random->Below(2) == 0;
  const auto spans = Spans(*text, strings);
  if (spans.empty()) return;
  const auto span = spans[random->Below(spans.size())];
  switch (random->Below(5)) {
    case 0:
      text->replace(span.first, span.second,
                    strings ? kWords[random->Below(sizeof kWords / sizeof *kWords)] : kNumbers[random->Below(sizeof kNumbers / sizeof *kNumbers)]);
      break;
    case 1: {  // what stands elsewhere
      const auto other = spans[random->Below(spans.size())];
      text->replace(span.first, span.second, text->substr(other.first, other.second));
      break;
    }
    case 2: {  // a node or tensor twice, or one less
      const size_t open = text->rfind('{', span.first);
      const size_t close = text->find('}', span.first);
      if (open == std::string::npos || close == std::string::npos) break;
      const std::string object = text->substr(open, close + 1 - open);
      if (random->Below(2) == 0) {
        text->insert(close + 1, ", " + object);
      } else {
        text->erase(open, object.size());
      }
      break;
    }
    case 3: {  // a gate
      const size_t at = text->find("\"op\":", span.first);
      static const char* const kGates[] = {"\"when\": \"gate\", ", "\"when\": \"gate\", \"skipped\": \"hold\", ", "\"skipped\": \"pass\", "};
      if (at != std::string::npos) text->insert(at, kGates[random->Below(3)]);
      break;
    }
    default:
      (*text)[random->Below(text->size())] = static_cast<char>(random->Below(256));
  }
}

inline void MutateSection(Bytes* section, Random* random) {
  if (section->empty()) return;
  static const float kFloats[] = {0.0f, -0.0f, 1.0f, 1e-38f, 1e-45f, 1e30f, 3e38f, -3e38f, INFINITY, NAN};
  for (size_t n = 1 + random->Below(8); n > 0; --n) {
    const size_t at = random->Below(section->size());
    if (random->Below(2) == 0 && at / 4 * 4 + 4 <= section->size()) {
      std::memcpy(section->data() + at / 4 * 4, &kFloats[random->Below(10)], 4);
    } else {
      (*section)[at] = static_cast<uint8_t>(random->Below(256));
    }
  }
}

inline void MutateRaw(Bytes* bytes, Random* random) {
  for (size_t n = 1 + random->Below(4); n > 0 && !bytes->empty(); --n) {
    const size_t at = random->Below(random->Below(2) == 0 ? std::min<size_t>(bytes->size(), 64) : bytes->size());
    const auto begin = bytes->begin() + static_cast<std::ptrdiff_t>(at);
    switch (random->Below(4)) {
      case 0: (*bytes)[at] ^= static_cast<uint8_t>(1u << random->Below(8)); break;
      case 1: (*bytes)[at] = static_cast<uint8_t>(random->Below(2) == 0 ? 255 : 0); break;
      case 2: bytes->erase(begin, begin + static_cast<std::ptrdiff_t>(random->Below(std::min<size_t>(100, bytes->size() - at)))); break;
      default: bytes->insert(begin, random->Below(100), static_cast<uint8_t>(random->Below(256)));
    }
  }
}

// Takes a sound file apart, with room for other offsets and checksums; throws ModelFileError.
inline Parts TakeApart(const void* bytes, size_t size) {
  Parts parts;
  const auto file = ModelFile::FromBytes("a file", bytes, size);
  parts.version = static_cast<const uint8_t*>(bytes)[8];
  parts.header = file->header_text();
  for (const Tensor& tensor : file->tensors()) parts.sections.emplace_back(tensor.data, tensor.data + tensor.bytes);
  Spread(&parts.header, "\"offset\":");
  Spread(&parts.header, "\"crc32\":");
  return parts;
}

// One to three changes of names, numbers and weights.
inline void MutateParts(Parts* parts, Random* random) {
  for (size_t n = 1 + random->Below(3); n > 0; --n) {
    if (random->Below(3) != 0 || parts->sections.empty()) {
      MutateHeader(&parts->header, random);
    } else {
      MutateSection(&parts->sections[random->Below(parts->sections.size())], random);
    }
  }
}

}  // namespace earshot::fuzz
