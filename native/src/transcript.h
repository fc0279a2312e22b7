// transcript.h: from the pieces of a path to words with times and confidences.
//
// Knows how pieces spell words, and where words lie in a path; knows nothing of networks. Times are encoder
// frames: what a frame is in seconds is for the caller to say.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model.h"
#include "token_tree.h"

namespace earshot {

struct Word {
  std::string text;
  int32_t start_frame = 0;
  int32_t end_frame = 0;    // exclusive, > start_frame
  float confidence = 0;     // geometric mean of its pieces' probabilities
};

struct Transcript {
  TokenPath path;
  std::string text;
  std::vector<Word> words;
  size_t num_frames = 0;    // encoder frames searched
  size_t settled_words = 0; // so many of the first words cannot change or grow any more
  double score = 0;         // log-probability of the path
};

// Does the piece begin with U+2581?
bool StartsWord(const std::string& piece);

// Where one word ends in a path.
struct WordEnd {
  std::string text;
  size_t end = 0;           // pieces, or phones, up to here
};

// A word lasts from its first piece or phone to one frame past its last, but not
// into the next word, and at least one frame.
Transcript MakeTranscript(TokenPath path, const std::vector<WordEnd>& words, size_t num_frames, double score);

// What some pieces spell.
std::string SpelledBy(const int32_t* pieces, size_t count, const Model& model);

// The same for a path of pieces: one that begins with U+2581 starts a word.
Transcript MakeTranscript(TokenPath path, const Model& model, size_t num_frames, double score);

// How many whole words begin a path, if pieces may still follow.
size_t WholeWords(const std::vector<int32_t>& tokens, const Model& model);

// One JSON object: text, words, tokens, frames, log_probs, num_frames, frame_ms, score.
std::string ToJson(const Transcript& transcript);

}  // namespace earshot
