// bind_biasing.cc: spelling, pronouncing, hotwords and language models for Python.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "biasing.h"
#include "letter_to_sound.h"
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

// Phrases spelled and put into a trie in one call; a phrase that cannot be spelled is left out, and its
// position is in the second list.
nb::tuple HotwordsOf(const earshot::Speller& speller, const std::vector<std::string>& phrases, const std::vector<float>& scores,
                     size_t ways, double within) {
  if (phrases.size() != scores.size()) {
    throw nb::value_error(("hotwords: " + std::to_string(phrases.size()) + " phrases and " + std::to_string(scores.size()) +
                           " scores; there must be one for each.").c_str());
  }
  std::vector<int32_t> pieces, begin{0}, unspelled;
  std::vector<float> boost;
  PyHotwords out;
  {
    const nb::gil_scoped_release release;
    earshot::SpellScratch scratch;
    for (size_t i = 0; i < phrases.size(); ++i) {
      const std::vector<earshot::Spelling> spellings = speller.Spell(phrases[i], ways, &scratch);
      if (spellings.empty()) unspelled.push_back(static_cast<int32_t>(i));
      for (const earshot::Spelling& spelling : spellings) {
        if (spelling.score < spellings.front().score - within) break;
        pieces.insert(pieces.end(), spelling.pieces.begin(), spelling.pieces.end());
        begin.push_back(static_cast<int32_t>(pieces.size()));
        // However it is spelled, a phrase is worth the same.
        boost.push_back(scores[i] * static_cast<float>(spellings.front().pieces.size()));
      }
    }
    out.shared = earshot::Hotwords::Create(pieces, begin, boost, speller.starts_word());
  }
  return nb::make_tuple(std::move(out), ToList(unspelled));
}

nb::list Walk(const PyHotwords& self, const Array<int32_t>& pieces) {
  nb::list scores;
  double score = 0;
  int32_t node = earshot::Hotwords::kRoot;
  for (size_t i = 0; i < pieces.shape(0); ++i) {
    const int32_t piece = pieces.data()[i];
    if (piece < 0 || static_cast<size_t>(piece) >= self.shared->vocabulary()) throw nb::value_error("hotwords: a piece that there is not.");
    const double bound = score + self.shared->MostGain(node);
    node = self.shared->Step(node, piece, &score);
    if (score > bound) throw std::logic_error("hotwords: a piece brought more than the bound of its node");
    scores.append(score);
  }
  scores.append(score + self.shared->End(node));
  return scores;
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
      .def_static("spelled", &HotwordsOf, "speller"_a, "phrases"_a, "scores"_a, "ways"_a = 1, "within"_a = 1e9)
      .def_static("of_pieces", [](const std::vector<std::vector<int32_t>>& phrases, const std::vector<float>& boosts,
                                  const std::vector<uint8_t>& starts_word) {
        std::vector<int32_t> pieces, begin{0};
        for (const auto& phrase : phrases) {
          pieces.insert(pieces.end(), phrase.begin(), phrase.end());
          begin.push_back(static_cast<int32_t>(pieces.size()));
        }
        return PyHotwords{earshot::Hotwords::Create(pieces, begin, boosts, starts_word)};
      }, "phrases"_a, "boosts"_a, "starts_word"_a)
      .def("walk", &Walk, "pieces"_a)
      .def_prop_ro("num_nodes", [](const PyHotwords& self) { return self.shared->num_nodes(); })
      .def_prop_ro("size_bytes", [](const PyHotwords& self) { return self.shared->size_bytes(); });

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
