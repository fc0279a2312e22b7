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

Transcript MakeTranscript(TokenPath path, const std::vector<WordEnd>& words, size_t num_frames, double score) {
  Transcript out;
  out.num_frames = num_frames;
  out.score = score;
  size_t from = 0;
  for (const WordEnd& said : words) {
    double sum = 0;
    for (size_t i = from; i < said.end; ++i) sum += path.log_probs[i];
    Word word;
    word.text = said.text;
    word.start_frame = path.frames[from];
    word.end_frame = path.frames[said.end - 1] + 1;
    word.confidence = static_cast<float>(std::exp(sum / static_cast<double>(said.end - from)));
    from = said.end;
    if (word.text.empty()) continue;
    out.text += (out.words.empty() ? "" : " ") + word.text;
    out.words.push_back(std::move(word));
  }
  for (size_t i = 0; i + 1 < out.words.size(); ++i) {
    Word& word = out.words[i];
    word.end_frame = std::max(std::min(word.end_frame, out.words[i + 1].start_frame), word.start_frame + 1);
  }
  out.path = std::move(path);
  return out;
}

std::string SpelledBy(const int32_t* pieces, size_t count, const Model& model) {
  std::string text;
  for (size_t i = 0; i < count; ++i) text += Spelling(model.pieces()[static_cast<size_t>(pieces[i])]);
  return Trim(text);
}

Transcript MakeTranscript(TokenPath path, const Model& model, size_t num_frames, double score) {
  std::vector<WordEnd> words;
  const int32_t* tokens = path.tokens.data();
  for (size_t i = 0, from = 0; i < path.tokens.size(); ++i) {
    const bool last = i + 1 == path.tokens.size();
    if (!last && !StartsWord(model.pieces()[static_cast<size_t>(tokens[i + 1])])) continue;
    words.push_back({SpelledBy(tokens + from, i + 1 - from, model), i + 1});
    from = i + 1;
  }
  Transcript out = MakeTranscript(std::move(path), words, num_frames, score);
  out.text = SpelledBy(out.path.tokens.data(), out.path.tokens.size(), model);
  return out;
}

size_t WholeWords(const std::vector<int32_t>& tokens, const Model& model) {
  size_t words = 0;
  for (size_t i = 1, from = 0; i < tokens.size(); ++i) {
    if (!StartsWord(model.pieces()[static_cast<size_t>(tokens[i])])) continue;
    if (!SpelledBy(tokens.data() + from, i - from, model).empty()) ++words;
    from = i;
  }
  return words;
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
