// bind_biasing.cc: spelling, pronouncing, hotwords and language models for Python.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "biasing.h"
#include "letter_to_sound.h"
#include "phrases.h"
#include "speller.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <typename T>
using Array = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <typename T>
std::vector<T> Copied(const Array<T>& values) {
  return {values.data(), values.data() + values.shape(0)};
}

// Searches hold the GIL, so one scratch is enough.
struct PyLetterToSound {
  earshot::LetterToSound model;
  earshot::LetterToSoundScratch scratch;
};

nb::list Pronounce(PyLetterToSound& self, const nb::bytes& letters, size_t count) {
  nb::list out;
  for (const earshot::Pronunciation& found : self.model.Best({letters.c_str(), letters.size()}, count, &self.scratch)) {
    out.append(nb::make_tuple(nb::bytes(found.phones.data(), found.phones.size()), found.score));
  }
  return out;
}

nb::list ToList(const std::vector<int32_t>& values) {
  nb::list out;
  for (const int32_t value : values) out.append(value);
  return out;
}

nb::list Spell(const earshot::Speller& self, const std::string& text, size_t ways) {
  nb::list out;
  earshot::SpellScratch scratch;
  for (const earshot::Spelling& spelling : self.Spell(text, ways, &scratch)) {
    out.append(nb::make_tuple(ToList(spelling.pieces), spelling.score));
  }
  return out;
}

// Phrases of words as the engine takes them: spelled and, with phones, pronounced. How a word is spelled and said is
// asked for once. Threads may share it.
class PhraseCompiler {
 public:
  // `speller` must outlive it; without phones `num_phones` is 0.
  PhraseCompiler(const earshot::Speller& speller, size_t num_phones) : speller_(speller), num_phones_(num_phones) {}

  // Phrases that are words of letters a to z, with a blank between two, in one case; None for others.
  static nb::list Plain(const nb::list& phrases, bool upper) {
    nb::list out;
    std::string text;
    for (const nb::handle phrase : phrases) {
      Py_ssize_t size = 0;
      const char* letters = PyUnicode_Check(phrase.ptr()) ? PyUnicode_AsUTF8AndSize(phrase.ptr(), &size) : nullptr;
      if (letters == nullptr) {
        PyErr_Clear();
        out.append(nb::none());
        continue;
      }
      text.assign(letters, static_cast<size_t>(size));
      bool blank = true;  // before the first letter, as after a blank
      bool plain = !text.empty(), changed = false;
      for (char& c : text) {
        const char lower = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
        plain = plain && (lower == ' ' ? !blank : lower >= 'a' && lower <= 'z');
        blank = lower == ' ';
        const char cased = static_cast<char>(upper && lower != ' ' ? lower - 'a' + 'A' : lower);
        changed = changed || cased != c;
        c = cased;
      }
      if (!plain || blank) {
        out.append(nb::none());
      } else if (changed) {
        out.append(nb::str(text.data(), text.size()));
      } else {
        out.append(phrase);
      }
    }
    return out;
  }

  // How a word is said, as phones; none: nobody knows.
  void Add(const std::string& word, const std::vector<nb::bytes>& ways) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Word& known = Known(word);
    known.asked = true;
    known.ways.clear();
    for (const nb::bytes& way : ways) known.ways.emplace_back(way.c_str(), way.size());
  }

  // Tries of phrases. Those that cannot be spelled are left out, and their positions are in the second list; an empty
  // text counts as one. In the trie of pieces a phrase is worth `piece_share` of its score a piece; in that of phones
  // `sound_share` of it a phone, less `sound_cost`, and with `evidence` as much more or less as attention says. The
  // third list has words that are to be told to `Add` first: then there are no tries.
  nb::tuple Compile(const std::vector<std::string>& phrases, const std::vector<float>& scores, float piece_share,
                    float sound_share, float sound_cost, std::pair<float, float> evidence) {
    if (phrases.size() != scores.size()) {
      throw nb::value_error(("hotwords: " + std::to_string(phrases.size()) + " phrases and " + std::to_string(scores.size()) +
                             " scores; there must be one for each.").c_str());
    }
    std::vector<int32_t> unspelled;
    std::vector<std::string> missing;
    PyHotwords out;
    {
      const nb::gil_scoped_release release;
      const std::lock_guard<std::mutex> lock(mutex_);
      Learn(phrases, &missing);
      if (missing.empty()) {
        out = Compiled(phrases, scores, piece_share, sound_share, sound_cost, {evidence.first, evidence.second}, &unspelled);
      }
    }
    nb::list words;
    for (const std::string& word : missing) words.append(nb::str(word.data(), word.size()));
    return nb::make_tuple(missing.empty() ? nb::cast(std::move(out)) : nb::none(), ToList(unspelled), words);
  }

  // Forgets its words where they are too many. To be called when a list is done with, which may have more.
  void Trim() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (words_.size() >= kMaxWords) words_.clear();
  }

  // Phrases as trained biasing takes them, words in their likeliest way to be said; one that cannot be spelled is empty.
  // Words that were not told to `Add` are not said.
  earshot::PhraseRows Rows(const std::vector<std::string>& phrases) {
    const nb::gil_scoped_release release;
    const std::lock_guard<std::mutex> lock(mutex_);
    earshot::PhraseRows rows;
    std::vector<const Word*> words;
    for (const std::string& phrase : phrases) {
      words.clear();
      ForWords(phrase, [&](const std::string& word) { words.push_back(&Known(word)); });
      const bool spelled = std::all_of(words.begin(), words.end(), [](const Word* word) { return !word->pieces.empty(); });
      for (const Word* word : spelled ? words : std::vector<const Word*>{}) Append(*word, &rows);
      rows.begin.push_back(static_cast<int32_t>(rows.pieces.size()));
    }
    return rows;
  }

 private:
  static constexpr size_t kMaxWords = size_t{1} << 19;  // that are remembered
  struct Word {
    std::vector<int32_t> pieces;     // none: it cannot be spelled
    std::vector<std::string> ways;
    bool asked = false;
  };

  template <typename Each>
  static void ForWords(const std::string& phrase, Each each) {
    for (size_t from = 0; from < phrase.size();) {
      const size_t end = std::min(phrase.find(' ', from), phrase.size());
      if (end > from) each(phrase.substr(from, end - from));
      from = end + 1;
    }
  }

  Word& Known(const std::string& text) {
    const auto [at, fresh] = words_.try_emplace(text);
    if (fresh) {
      std::vector<earshot::Spelling> spelled = speller_.Spell(text, 1, &scratch_);
      if (!spelled.empty()) at->second.pieces = std::move(spelled.front().pieces);
    }
    return at->second;
  }

  // Letters lie evenly on the phones of a word, at least one on each piece; as `earshot.train.alignment.sounds_of` has it.
  void Append(const Word& word, earshot::PhraseRows* rows) const {
    const std::string none, &said = word.ways.empty() ? none : word.ways.front();
    const auto before = static_cast<int32_t>(rows->phones.size()), count = static_cast<int32_t>(said.size());
    int32_t all = 0, letters = 0;
    for (const int32_t piece : word.pieces) all += speller_.letters()[static_cast<size_t>(piece)];
    for (const int32_t piece : word.pieces) {
      letters += speller_.letters()[static_cast<size_t>(piece)];
      const int32_t own = (2 * count * letters + all) / std::max(1, 2 * all);
      rows->pieces.push_back(piece);
      rows->ends.push_back(before + std::max(std::min(1, count), own));
    }
    for (const char phone : said) rows->phones.push_back(static_cast<uint8_t>(phone));
  }

  void Learn(const std::vector<std::string>& phrases, std::vector<std::string>* missing) {
    std::unordered_set<std::string> asked;
    for (const std::string& phrase : phrases) {
      ForWords(phrase, [&](const std::string& word) {
        const Word& known = Known(word);
        if (num_phones_ > 0 && !known.asked && !known.pieces.empty() && asked.insert(word).second) missing->push_back(word);
      });
    }
  }

  PyHotwords Compiled(const std::vector<std::string>& phrases, const std::vector<float>& scores, float piece_share,
                      float sound_share, float sound_cost, earshot::PhraseEvidence evidence,
                      std::vector<int32_t>* unspelled) const {
    std::vector<int32_t> pieces, begin{0};
    std::vector<float> boost;
    earshot::PhraseSoundTable sounds;
    std::vector<const Word*> words;
    for (size_t i = 0; i < phrases.size(); ++i) {
      words.clear();
      ForWords(phrases[i], [&](const std::string& word) { words.push_back(&words_.at(word)); });
      const bool spelled = !words.empty() && phrases[i].size() <= earshot::Speller::kMaxBytes &&
                           std::all_of(words.begin(), words.end(), [](const Word* word) { return !word->pieces.empty(); });
      if (!spelled) {
        unspelled->push_back(static_cast<int32_t>(i));
        continue;
      }
      for (const Word* word : words) pieces.insert(pieces.end(), word->pieces.begin(), word->pieces.end());
      boost.push_back(piece_share * scores[i] * static_cast<float>(static_cast<int32_t>(pieces.size()) - begin.back()));
      if (num_phones_ > 0) Say(words, boost.size() - 1, &sounds);
      sounds.a_phone.push_back(sound_share * scores[i]);
      sounds.given.push_back(static_cast<uint32_t>(i));
      begin.push_back(static_cast<int32_t>(pieces.size()));
    }
    PyHotwords out;
    if (num_phones_ > 0) {
      sounds.pieces = pieces;
      sounds.spelled.assign(begin.begin(), begin.end());
      out.sounds = earshot::PhraseSounds::Create(std::move(sounds), num_phones_, sound_cost, speller_.starts_word(), evidence);
    }
    out.shared = earshot::Hotwords::Create(pieces, begin, boost, speller_.starts_word());
    return out;
  }

  // Adds the ways to say a phrase, in the order of their first words' likelihood, if all its words can be said.
  static void Say(const std::vector<const Word*>& words, size_t phrase, earshot::PhraseSoundTable* sounds) {
    constexpr size_t kMaxWays = 4;
    size_t all = 1;
    for (const Word* word : words) all = std::min(kMaxWays, all * word->ways.size());
    std::vector<const std::string*> chosen;
    for (size_t way = 0; way < all; ++way) {
      size_t choice = way, length = 0;
      chosen.clear();
      for (const Word* word : words) {
        chosen.push_back(&word->ways[choice % word->ways.size()]);
        choice /= word->ways.size();
        length += chosen.back()->size();
      }
      if (length > earshot::PhraseSounds::kMaxPhones) continue;  // too long to be told by sound
      for (const std::string* phones : chosen) {
        sounds->phones += *phones;
        sounds->word_phones.push_back(static_cast<uint8_t>(phones->size()));
      }
      sounds->begin.push_back(static_cast<uint32_t>(sounds->phones.size()));
      sounds->words.push_back(static_cast<uint32_t>(sounds->word_phones.size()));
      sounds->phrase.push_back(static_cast<uint32_t>(phrase));
    }
  }

  const earshot::Speller& speller_;
  size_t num_phones_;
  std::mutex mutex_;
  std::unordered_map<std::string, Word> words_;
  earshot::SpellScratch scratch_;
};

nb::list Walk(const PyHotwords& self, const Array<int32_t>& pieces) {
  nb::list scores;
  double score = 0;
  int32_t node = earshot::Hotwords::kRoot;
  for (size_t i = 0; i < pieces.shape(0); ++i) {
    const int32_t piece = pieces.data()[i];
    if (piece < 0 || static_cast<size_t>(piece) >= self.shared->vocabulary()) throw nb::value_error("hotwords: a piece that there is not.");
    const double bound = score + std::min(self.shared->MostGain(node), self.shared->MostGain(node, piece));
    node = self.shared->Step(node, piece, &score);
    if (score > bound) throw std::logic_error("hotwords: a piece brought more than the bound of its node");
    scores.append(score);
  }
  scores.append(score + self.shared->End(node));
  return scores;
}

// What would be put into a search that hears these phones: frame, first frame, gain, pieces and their frames.
nb::list Spot(const PyHotwords& self, const nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>& log_probs) {
  nb::list out;
  if (self.sounds == nullptr) return out;
  if (log_probs.shape(1) != self.sounds->num_phones() + 1) throw nb::value_error("hotwords: rows must be blank and the phones.");
  earshot::SpotterState state;
  earshot::SpotterScratch scratch;
  std::vector<earshot::SpottedPhrase> found;
  std::vector<int32_t> pieces, frames;
  for (size_t frame = 0; frame < log_probs.shape(0); ++frame) {
    found.clear();
    self.sounds->Advance(&state, frame, log_probs.data() + frame * log_probs.shape(1), &scratch, &found);
    for (const earshot::SpottedPhrase& phrase : found) {
      self.sounds->Spell(state, phrase, frame, &pieces, &frames);
      out.append(nb::make_tuple(frame, phrase.start, phrase.gain, ToList(pieces), ToList(frames)));
    }
  }
  return out;
}

nb::tuple Scores(const PyNgram& self, const Array<int32_t>& symbols, bool end) {
  const earshot::Ngram& ngram = *self.shared;
  nb::list scores;
  earshot::NgramState state = ngram.Start();
  for (size_t i = 0; i < symbols.shape(0); ++i) {
    const int32_t symbol = symbols.data()[i];
    if (symbol < 0 || static_cast<size_t>(symbol) >= ngram.vocabulary()) throw nb::value_error("language model: a symbol that there is not.");
    scores.append(ngram.Step(&state, symbol));
  }
  if (end) scores.append(ngram.Score(state, earshot::Ngram::kBoundary));
  nb::list nodes;
  for (size_t k = 0; k + 1 < ngram.order(); ++k) {
    if (state.nodes[k] != earshot::NgramState::kNone) nodes.append(state.nodes[k]);
  }
  return nb::make_tuple(scores, nodes);
}

}  // namespace

void bind_biasing(nb::module_& m) {
  nb::class_<earshot::Speller>(m, "Speller", "Spells words in word pieces, by the pieces' scores.")
      .def(nb::init<const std::vector<std::string>&, const std::vector<float>&>(), "pieces"_a, "scores"_a)
      .def_static("of", [](nb::handle model) { return earshot::Speller::Of(*NativeModel(model)).release(); }, "model"_a,
                  nb::rv_policy::take_ownership)
      .def("spell", &Spell, "text"_a, "ways"_a = 1);

  nb::class_<PyLetterToSound>(m, "LetterToSound", "Says words that no dictionary has, by their letters.")
      .def("__init__", [](PyLetterToSound* self, const Array<int32_t>& first, const Array<uint16_t>& units, const Array<int32_t>& suffix,
                          const Array<int32_t>& state, const Array<float>& log_prob, const Array<float>& backoff,
                          const std::vector<nb::bytes>& phones, const Array<int32_t>& letters, int32_t start) {
        earshot::UnitContexts contexts{Copied(first), Copied(units), Copied(suffix), Copied(state), Copied(log_prob), Copied(backoff),
                                       {}, Copied(letters), start};
        for (const nb::bytes& each : phones) contexts.phones.emplace_back(each.c_str(), each.size());
        new (self) PyLetterToSound{earshot::LetterToSound(std::move(contexts)), {}};
      }, nb::kw_only(), "first"_a, "units"_a, "suffix"_a, "state"_a, "log_prob"_a, "backoff"_a, "phones"_a, "letters"_a, "start"_a)
      .def("best", &Pronounce, "letters"_a, "count"_a);

  nb::class_<PyHotwords>(m, "Hotwords", "Phrases to be heard more readily; shared by any number of streams.")
      .def_static("of_pieces", [](const std::vector<std::vector<int32_t>>& phrases, const std::vector<float>& boosts,
                                  const std::vector<uint8_t>& starts_word) {
        std::vector<int32_t> pieces, begin{0};
        for (const auto& phrase : phrases) {
          pieces.insert(pieces.end(), phrase.begin(), phrase.end());
          begin.push_back(static_cast<int32_t>(pieces.size()));
        }
        return PyHotwords{earshot::Hotwords::Create(pieces, begin, boosts, starts_word), nullptr};
      }, "phrases"_a, "boosts"_a, "starts_word"_a)
      .def("walk", &Walk, "pieces"_a)
      .def("spot", &Spot, "log_probs"_a)
      .def_prop_ro("num_nodes", [](const PyHotwords& self) { return self.shared->num_nodes(); })
      .def_prop_ro("num_sounds", [](const PyHotwords& self) { return self.sounds == nullptr ? size_t{0} : self.sounds->num_ways(); })
      .def_prop_ro("size_bytes", [](const PyHotwords& self) { return self.shared->size_bytes(); });

  using Rows = earshot::PhraseRows;
  nb::class_<Rows>(m, "PhraseRows", "Phrases in pieces, and how they are said; what a PhraseEncoder takes.")
      .def("__init__", [](Rows* self, const Array<int32_t>& pieces, const Array<int32_t>& begin, const Array<int32_t>& phones,
                          const Array<int32_t>& ends) {
        new (self) Rows{Copied(pieces), Copied(begin), Copied(phones), Copied(ends)};
      }, "pieces"_a, "begin"_a, "phones"_a, "ends"_a)
      .def("__init__", [](Rows* self, const Array<int32_t>& pieces, const Array<int32_t>& begin) {
        new (self) Rows{Copied(pieces), Copied(begin), {}, {}};
      }, "pieces"_a, "begin"_a, "Phrases that nobody can say.")
      .def_ro("pieces", &Rows::pieces)
      .def_ro("begin", &Rows::begin)
      .def_ro("phones", &Rows::phones)
      .def_ro("ends", &Rows::ends);

  nb::class_<PhraseCompiler>(m, "PhraseCompiler", "Makes hotwords of phrases; remembers their words.")
      .def(nb::init<const earshot::Speller&, size_t>(), "speller"_a, "num_phones"_a, nb::keep_alive<1, 2>())
      .def_static("plain", &PhraseCompiler::Plain, "phrases"_a, "upper"_a = false)
      .def("add", &PhraseCompiler::Add, "word"_a, "ways"_a)
      .def("rows", &PhraseCompiler::Rows, "phrases"_a)
      .def("trim", &PhraseCompiler::Trim)
      .def("compile", &PhraseCompiler::Compile, "phrases"_a, "scores"_a, nb::kw_only(), "piece_share"_a = 1.0f, "sound_share"_a = 0.0f,
           "sound_cost"_a = 0.0f, "evidence"_a = std::make_pair(0.0f, 0.0f));

  nb::class_<PyNgram>(m, "Ngram", "A language model as a model file carries it.")
      .def_static("find", [](nb::handle model) -> nb::object {
        auto found = earshot::Ngram::Find(NativeModel(model));
        return found == nullptr ? nb::none() : nb::cast(PyNgram{std::move(found)});
      }, "model"_a)
      .def("scores", &Scores, "symbols"_a, "end"_a = true)
      .def("find_word", [](const PyNgram& self, const std::string& word) {
        if (!self.shared->of_words()) throw nb::value_error("language model: it is of pieces, not of words.");
        return self.shared->FindWord(earshot::Ngram::ExtendHash(earshot::Ngram::kHashStart, word));
      }, "word"_a)
      .def_prop_ro("of_words", [](const PyNgram& self) { return self.shared->of_words(); })
      .def_prop_ro("order", [](const PyNgram& self) { return self.shared->order(); })
      .def_prop_ro("vocabulary", [](const PyNgram& self) { return self.shared->vocabulary(); })
      .def_prop_ro("num_ngrams", [](const PyNgram& self) { return self.shared->num_ngrams(); })
      .def_prop_ro("num_pieces", [](const PyNgram& self) { return self.shared->num_pieces(); })
      .def_prop_ro("weight", [](const PyNgram& self) { return self.shared->weight(); })
      .def_prop_ro("internal_weight", [](const PyNgram& self) { return self.shared->internal_weight(); })
      .def_prop_ro("bonus", [](const PyNgram& self) { return self.shared->bonus(); })
      .def_prop_ro("unknown_piece", [](const PyNgram& self) { return self.shared->unknown_piece(); });
}
