// transcript.cc: words out of pieces, and a transcript as JSON.
#include "transcript.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "json.h"

namespace earshot {
namespace {

constexpr char kWordStart[] = "\xE2\x96\x81";  // U+2581
constexpr size_t kWordStartBytes = 3;

// The spelling of a piece: every U+2581 is a space.
std::string Spelling(const std::string& piece) {
  std::string out;
  for (size_t i = 0; i < piece.size();) {
    if (piece.compare(i, kWordStartBytes, kWordStart) == 0) {
      out += ' ';
      i += kWordStartBytes;
    } else {
      out += piece[i++];
    }
  }
  return out;
}

std::string Trim(const std::string& text) {
  const size_t from = text.find_first_not_of(' ');
  return from == std::string::npos ? "" : text.substr(from, text.find_last_not_of(' ') - from + 1);
}

// JSON has no infinities; a network with absurd weights can make them.
std::string Number(double value) {
  if (std::isnan(value)) return "null";
  char buffer[40];
  std::snprintf(buffer, sizeof buffer, "%.9g", std::clamp(value, -1e308, 1e308));
  for (char* c = buffer; *c != '\0'; ++c) {
    if (*c == ',') *c = '.';  // the locale's decimal point
  }
  return buffer;
}

template <typename T>
std::string List(const std::vector<T>& values) {
  std::string out = "[";
  for (size_t i = 0; i < values.size(); ++i) {
    if (i > 0) out += ", ";
    out += Number(static_cast<double>(values[i]));
  }
  return out + "]";
}

}  // namespace

bool StartsWord(const std::string& piece) { return piece.compare(0, kWordStartBytes, kWordStart) == 0; }

Transcript MakeTranscript(TokenPath path, const Model& model, size_t num_frames, double score) {
  Transcript out;
  out.num_frames = num_frames;
  out.score = score;
  double sum = 0;
  size_t pieces = 0;
  std::string raw;
  const auto finish = [&] {
    if (pieces == 0) return;
    Word& word = out.words.back();
    word.text = Trim(word.text);
    word.confidence = static_cast<float>(std::exp(sum / static_cast<double>(pieces)));
    if (word.text.empty()) out.words.pop_back();
    sum = 0;
    pieces = 0;
  };
  for (size_t i = 0; i < path.tokens.size(); ++i) {
    const std::string& piece = model.pieces()[static_cast<size_t>(path.tokens[i])];
    if (StartsWord(piece) || pieces == 0) {
      finish();
      Word word;
      word.start_frame = path.frames[i];
      out.words.push_back(word);
    }
    const std::string spelling = Spelling(piece);
    Word& word = out.words.back();
    word.text += spelling;
    word.end_frame = path.frames[i] + 1;
    raw += spelling;
    sum += path.log_probs[i];
    ++pieces;
  }
  finish();
  for (size_t i = 0; i + 1 < out.words.size(); ++i) {
    Word& word = out.words[i];
    word.end_frame = std::max(std::min(word.end_frame, out.words[i + 1].start_frame), word.start_frame + 1);
  }
  out.text = Trim(raw);
  out.path = std::move(path);
  return out;
}

std::string ToJson(const Transcript& transcript) {
  std::string out = "{\"text\": " + JsonQuote(transcript.text) + ", \"words\": [";
  for (size_t i = 0; i < transcript.words.size(); ++i) {
    const Word& word = transcript.words[i];
    if (i > 0) out += ", ";
    out += "{\"word\": " + JsonQuote(word.text) + ", \"start_frame\": " + std::to_string(word.start_frame) +
           ", \"end_frame\": " + std::to_string(word.end_frame) + ", \"confidence\": " + Number(word.confidence) + "}";
  }
  out += "], \"tokens\": " + List(transcript.path.tokens) + ", \"frames\": " + List(transcript.path.frames) +
         ", \"log_probs\": " + List(transcript.path.log_probs) + ", \"num_frames\": " +
         std::to_string(transcript.num_frames) + ", \"frame_ms\": " + std::to_string(Model::kFrameMs) +
         ", \"score\": " + Number(transcript.score) + "}";
  return out;
}

}  // namespace earshot
