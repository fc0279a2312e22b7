// model_fuzz.cc: opens mutants of a model file and runs one step of those that open.
//
// Usage: model_fuzz FILE.ear [mutants, default 20000] [seed, default 1]
//
// Half of the mutants are damaged as they are, mostly caught by a checksum. The
// other half have sizes, offsets and checksums made right again after names,
// numbers and weights were changed, so the checks behind the checksums and the
// engine itself get their share. Made to be built with sanitizers; any exception
// but ModelFileError, and any message without a problem and a remedy, is a bug.
#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "executor.h"
#include "model.h"
#include "recognizer.h"

namespace {

using earshot::Crc32;
using Bytes = std::vector<uint8_t>;

struct Random {
  explicit Random(uint64_t seed) : engine(seed) {}
  size_t Below(size_t n) { return n == 0 ? 0 : static_cast<size_t>(engine() % n); }
  std::mt19937_64 engine;
};

void PutU32(uint8_t* p, uint32_t v) {
  for (int i = 0; i < 4; ++i) p[i] = static_cast<uint8_t>(v >> (8 * i));
}

size_t Align(size_t n) { return (n + 63) / 64 * 64; }

// A file taken apart: header text and sections.
struct Parts {
  std::string header;
  std::vector<Bytes> sections;
};

// Writes the numbers behind the i-th `key` of the header, padded with spaces to
// the width that Spread left for them.
void Patch(std::string* header, const std::string& key, const std::vector<uint64_t>& numbers) {
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
void Spread(std::string* header, const std::string& key) {
  for (size_t at = 0; (at = header->find(key, at)) != std::string::npos;) {
    at += key.size();
    size_t end = at;
    while (end < header->size() && (*header)[end] == ' ') ++end;
    while (end < header->size() && (*header)[end] >= '0' && (*header)[end] <= '9') ++end;
    header->replace(at, end - at, 12, ' ');
  }
}

Bytes Join(Parts parts) {
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
  PutU32(out.data() + 8, 1);
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
std::vector<std::pair<size_t, size_t>> Spans(const std::string& text, bool strings) {
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

void MutateHeader(std::string* text, Random* random) {
  static const char* const kNumbers[] = {"0", "1", "2", "3", "4", "8", "16", "17", "32", "48", "64", "65", "80", "320",
                                         "-1", "0.5", "1e308", "131072", "2147483648", "4294967296", "9007199254740993",
                                         "99999999999999999999", "true", "null", "[]", "{}", "\"x\""};
  static const char* const kWords[] = {"\"x\"", "\"y\"", "\"when\"", "\"skipped\"", "\"hold\"", "\"pass\"", "\"relu\"",
                                       "\"tanh\"", "\"add\"", "\"stack\"", "\"lstm\"", "\"conv1d\"", "\"linear\"",
                                       "\"valid\"", "\"causal\"", "\"stateful\"", "\"f32\"", "\"i8_r16x4\"", "\"\""};
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

void MutateSection(Bytes* section, Random* random) {
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

void MutateRaw(Bytes* bytes, Random* random) {
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

void Run(const std::shared_ptr<const earshot::Model>& model, Random* random) {
  for (const auto& graph : model->graphs()) {
    const size_t frames = 9;
    std::vector<std::vector<float>> vectors;
    std::vector<std::vector<int32_t>> ids;
    std::vector<const void*> inputs;
    for (const int input : graph->inputs()) {
      const earshot::Value& value = graph->value(input);
      if (value.ids) {
        ids.emplace_back(frames);
        for (int32_t& id : ids.back()) id = static_cast<int32_t>(random->Below(std::min<size_t>(graph->id_limit(), 1000) + 1)) - 1;
        inputs.push_back(ids.back().data());
      } else {
        vectors.emplace_back(frames * value.width);
        for (float& x : vectors.back()) x = static_cast<float>(random->Below(2001)) / 100.0f - 10.0f;
        inputs.push_back(vectors.back().data());
      }
    }
    earshot::Executor executor(graph);
    earshot::GraphState one(graph), two(graph);
    earshot::Executor::Item items[2];
    for (size_t i = 0; i < 2; ++i) {
      items[i].inputs = inputs.data();
      items[i].frames = frames - 4 * i;
      items[i].flush = i == 1;
      items[i].state = i == 0 ? &one : &two;
    }
    executor.Step(items, 1);
    executor.Step(items, 2);
  }
  if (model->FindGraph("encoder") == nullptr || model->FindGraph("predictor") == nullptr || model->FindGraph("joiner") == nullptr) return;
  earshot::SearchConfig config;
  config.max_active_paths = 1 + random->Below(5);
  const auto recognizer = earshot::Recognizer::Create(model, config);
  const auto stream = recognizer->CreateStream();
  std::vector<float> samples(3000);
  for (float& x : samples) x = static_cast<float>(random->Below(2001)) / 1000.0f - 1.0f;
  stream->AcceptWaveform(samples.data(), samples.size());
  stream->InputFinished();
  earshot::Stream* const streams[] = {stream.get()};
  recognizer->DecodeStreams(streams, 1);
  earshot::ToJson(stream->Result());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: model_fuzz FILE.ear [mutants] [seed]\n");
    return 2;
  }
  const size_t mutants = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 20000;
  Random random(argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 1);
  std::ifstream stream(argv[1], std::ios::binary);
  const Bytes original((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  Parts parts;
  {
    const auto file = earshot::ModelFile::FromBytes(argv[1], original.data(), original.size());
    parts.header = file->header_text();
    for (const earshot::Tensor& tensor : file->tensors()) parts.sections.emplace_back(tensor.data, tensor.data + tensor.bytes);
  }
  Spread(&parts.header, "\"offset\":");
  Spread(&parts.header, "\"crc32\":");
  const Bytes joined = Join(parts);
  Run(earshot::Model::FromFile(earshot::ModelFile::FromBytes("the file itself", joined.data(), joined.size())), &random);

  size_t opened = 0;
  for (size_t i = 0; i < mutants; ++i) {
    Bytes bytes;
    if (i % 2 == 0) {
      bytes = original;
      MutateRaw(&bytes, &random);
    } else {
      Parts mutant = parts;
      for (size_t n = 1 + random.Below(3); n > 0; --n) {
        if (random.Below(3) != 0 || mutant.sections.empty()) {
          MutateHeader(&mutant.header, &random);
        } else {
          MutateSection(&mutant.sections[random.Below(mutant.sections.size())], &random);
        }
      }
      bytes = Join(std::move(mutant));
    }
    std::shared_ptr<const earshot::Model> model;
    try {
      model = earshot::Model::FromFile(earshot::ModelFile::FromBytes("mutant", bytes.data(), bytes.size()));
    } catch (const earshot::ModelFileError& error) {
      if (error.problem().empty() || error.remedy().empty()) {
        std::fprintf(stderr, "mutant %zu: an error without problem or remedy\n", i);
        return 1;
      }
      continue;
    }
    ++opened;
    Run(model, &random);
  }
  std::printf("%zu mutants: %zu refused, %zu opened and ran\n", mutants, mutants - opened, opened);
  return 0;
}
