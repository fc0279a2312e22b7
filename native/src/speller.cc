// speller.cc: see speller.h. Dynamic programming over bytes: from each byte that something ends
// before, all pieces that follow.
#include "speller.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "transcript.h"

namespace earshot {
namespace {

constexpr size_t kReserved = 3;
constexpr size_t kWordStartBytes = 3;  // of U+2581
constexpr uint16_t kWordStart = 1;     // its class

// The fields of a protobuf message, one after another.
class Fields {
 public:
  Fields(const uint8_t* data, size_t size) : at_(data), end_(data + size) {}
  // False at the end; throws std::invalid_argument where the bytes are no message.
  bool Next() {
    if (at_ == end_) return false;
    const uint64_t key = Varint();
    number = key >> 3;
    switch (key & 7) {
      case 0: value = Varint(); break;
      case 1: Take(8); break;
      case 2: Take(Varint()); break;
      case 5: Take(4); break;
      default: Fail();
    }
    return true;
  }
  uint64_t number = 0, value = 0;
  std::string_view bytes;  // of a field that is no varint

 private:
  [[noreturn]] static void Fail() { throw std::invalid_argument("the model's tokenizer is no SentencePiece model"); }
  void Take(uint64_t size) {
    if (size > static_cast<uint64_t>(end_ - at_)) Fail();
    bytes = {reinterpret_cast<const char*>(at_), static_cast<size_t>(size)};
    at_ += size;
  }
  uint64_t Varint() {
    uint64_t out = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ == end_) Fail();
      const uint8_t byte = *at_++;
      out |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return out;
    }
    Fail();
  }
  const uint8_t* at_;
  const uint8_t* end_;
};

Fields Inside(std::string_view bytes) { return {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}; }

}  // namespace

Speller::Speller(const std::vector<std::string>& pieces, const std::vector<float>& scores) : scores_(scores), class_of_(256, 0) {
  if (scores.size() != pieces.size()) {
    throw std::invalid_argument("speller: " + std::to_string(pieces.size()) + " pieces and " + std::to_string(scores.size()) +
                                " scores; there must be one score for each piece.");
  }
  std::vector<std::vector<uint16_t>> rows(pieces.size());
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (!std::isfinite(scores_[i])) {
      throw std::invalid_argument("speller: the score of piece " + std::to_string(i) + " is not finite; it must be a number.");
    }
    starts_word_.push_back(StartsWord(pieces[i]));
    letters_.push_back(static_cast<int32_t>(pieces[i].size() - (starts_word_[i] ? kWordStartBytes : 0)));
    if (i < kReserved) continue;
    if (starts_word_[i]) rows[i].push_back(kWordStart);
    for (size_t at = starts_word_[i] ? kWordStartBytes : 0; at < pieces[i].size(); ++at) {
      uint16_t& c = class_of_[static_cast<uint8_t>(pieces[i][at])];
      if (c == 0) c = static_cast<uint16_t>(num_classes_++);
      rows[i].push_back(c);
    }
  }
  next_.assign(num_classes_, 0);
  piece_.push_back(-1);
  for (size_t i = kReserved; i < rows.size(); ++i) {
    size_t node = 0;
    for (const uint16_t c : rows[i]) {
      if (next_[node * num_classes_ + c] == 0) {
        next_[node * num_classes_ + c] = static_cast<int32_t>(piece_.size());
        piece_.push_back(-1);
        next_.resize(next_.size() + num_classes_, 0);
      }
      node = static_cast<size_t>(next_[node * num_classes_ + c]);
    }
    if (node != 0 && piece_[node] < 0) piece_[node] = static_cast<int32_t>(i);
  }
}

// sentencepiece_model.proto: ModelProto has pieces = 1 {piece = 1, score = 2} and trainer_spec = 2
// {model_type = 3, of which 1 is unigram and the default}.
std::unique_ptr<Speller> Speller::Of(const Model& model) {
  const Tensor* tensor = model.file().Find("tokenizer");
  if (tensor == nullptr) throw std::invalid_argument("the model carries no tokenizer to spell words with");
  std::vector<float> scores;
  bool same = true;
  Fields fields(tensor->data, tensor->bytes);
  while (fields.Next()) {
    Fields inner = Inside(fields.bytes);
    if (fields.number == 1) {
      float score = 0;
      const size_t id = scores.size();
      while (inner.Next()) {
        if (inner.number == 1) same = same && id < model.pieces().size() && inner.bytes == model.pieces()[id];
        if (inner.number == 2 && inner.bytes.size() == sizeof score) std::memcpy(&score, inner.bytes.data(), sizeof score);
      }
      scores.push_back(score);
    } else if (fields.number == 2) {
      while (inner.Next()) {
        if (inner.number == 3 && inner.value != 1) throw std::invalid_argument("the model's tokenizer is no unigram model");
      }
    }
  }
  if (!same || scores.size() != model.pieces().size()) throw std::invalid_argument("the model's tokenizer has other pieces than the model");
  return std::make_unique<Speller>(model.pieces(), scores);
}

std::vector<Spelling> Speller::Spell(std::string_view text, size_t ways, SpellScratch* scratch) const {
  std::vector<Spelling> out;
  if (text.empty() || text.size() > kMaxBytes || ways == 0) return out;
  ways = std::min(ways, kMaxWays);
  auto& classes = scratch->text_;
  classes.assign(1, kWordStart);
  for (const char c : text) classes.push_back(c == ' ' ? kWordStart : class_of_[static_cast<uint8_t>(c)]);
  const size_t length = classes.size();
  auto& counts = scratch->counts_;
  auto& all = scratch->ways_;
  counts.assign(length + 1, 0);
  all.resize(std::max(all.size(), (length + 1) * ways));
  all[0] = {0, -1, 0, 0};
  counts[0] = 1;
  for (size_t from = 0; from < length; ++from) {
    const size_t count = counts[from];
    if (count == 0) continue;
    const SpellScratch::Way* before = all.data() + from * ways;
    size_t node = 0;
    for (size_t at = from; at < length; ++at) {
      node = static_cast<size_t>(next_[node * num_classes_ + classes[at]]);
      if (node == 0) break;
      const int32_t piece = piece_[node];
      if (piece < 0) continue;
      SpellScratch::Way* here = all.data() + (at + 1) * ways;
      uint16_t& have = counts[at + 1];
      for (size_t rank = 0; rank < count; ++rank) {
        const double score = before[rank].score + scores_[static_cast<size_t>(piece)];
        if (have == ways && !(score > here[ways - 1].score)) break;
        size_t place = have < ways ? have++ : ways - 1;
        for (; place > 0 && score > here[place - 1].score; --place) here[place] = here[place - 1];
        here[place] = {score, piece, static_cast<uint16_t>(from), static_cast<uint16_t>(rank)};
      }
    }
  }
  out.resize(counts[length]);
  for (size_t rank = 0; rank < out.size(); ++rank) {
    out[rank].score = all[length * ways + rank].score;
    std::vector<int32_t>& pieces = out[rank].pieces;
    for (size_t at = length, way = rank; at > 0;) {
      const SpellScratch::Way& last = all[at * ways + way];
      pieces.push_back(last.piece);
      at = last.from;
      way = last.rank;
    }
    std::reverse(pieces.begin(), pieces.end());
  }
  return out;
}

}  // namespace earshot
