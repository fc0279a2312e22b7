// phrase_sounds.cc: see phrase_sounds.h.
#include "phrase_sounds.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

namespace earshot {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr double kAgain = 0.5;  // nats that a phrase must have gained to be found again in the same place

}  // namespace

void SpotterState::Reset() {
  tokens_.clear();
  oldest_ = 0;
  newest_ = -1;
  said_.clear();
  rows_.clear();
  first_ = 0;
}

size_t SpotterState::Oldest(size_t frame) const {
  return oldest_ > newest_ ? frame : std::min(frame, static_cast<size_t>(oldest_));
}

bool SpotterState::Began(size_t frame) const {
  return oldest_ <= newest_ && newest_ == static_cast<int32_t>(frame);
}

std::shared_ptr<const PhraseSounds> PhraseSounds::Create(PhraseSoundTable table, size_t num_phones, float cost,
                                                         std::vector<uint8_t> starts_word, PhraseEvidence evidence) {
  const auto check = [](bool good, const char* problem) {
    if (!good) throw std::invalid_argument(std::string("hotwords: ") + problem);
  };
  const auto rows = [&](const std::vector<uint32_t>& begin, size_t count, size_t items) {
    check(begin.size() == count + 1 && begin.front() == 0 && begin.back() == items && std::is_sorted(begin.begin(), begin.end()),
          "the rows of their sounds do not add up.");
  };
  check(cost >= 0 && cost <= 1000, "the cost of a phrase must be in 0..1000.");
  check(evidence.share >= 0 && evidence.share <= 100 && evidence.even >= 0 && evidence.even <= 100,
        "the share of evidence and where it is even must be in 0..100.");
  const size_t ways = table.phrase.size(), phrases = table.a_phone.size();
  rows(table.begin, ways, table.phones.size());
  rows(table.words, ways, table.word_phones.size());
  rows(table.spelled, phrases, table.pieces.size());
  check(table.given.size() == phrases, "the places of the phrases do not add up.");
  for (const float a_phone : table.a_phone) check(a_phone >= 0 && a_phone <= 1000, "what a phone is worth must be in 0..1000.");
  for (const char phone : table.phones) {
    const auto column = static_cast<uint8_t>(phone);
    check(column >= 1 && column <= num_phones, "a phone that there is not.");
  }
  for (const int32_t piece : table.pieces) {
    check(piece >= 0 && static_cast<size_t>(piece) < starts_word.size(), "a piece that there is not.");
  }
  std::shared_ptr<PhraseSounds> out(new PhraseSounds());
  out->order_.reserve(ways);
  for (size_t way = 0; way < ways; ++way) {
    const uint32_t phrase = table.phrase[way];
    check(phrase < phrases, "a phrase that there is not.");
    const auto first = table.word_phones.begin() + table.words[way], last = table.word_phones.begin() + table.words[way + 1];
    const auto pieces = table.pieces.begin() + table.spelled[phrase], end = table.pieces.begin() + table.spelled[phrase + 1];
    const auto spelled = std::count_if(pieces, end, [&](int32_t piece) { return starts_word[static_cast<size_t>(piece)] != 0; });
    const size_t phones = table.begin[way + 1] - table.begin[way];
    check(std::accumulate(first, last, size_t{0}) == phones && spelled == last - first && std::find(first, last, 0) == last &&
              pieces != end && starts_word[static_cast<size_t>(*pieces)] != 0,
          "the words of a phrase do not add up.");
    if (phones >= kMinPhones && phones <= kMaxPhones && table.a_phone[phrase] > 0) out->order_.push_back(static_cast<uint32_t>(way));
  }
  if (out->order_.empty()) return nullptr;
  out->table_ = std::move(table);
  out->starts_word_ = std::move(starts_word);
  out->num_phones_ = num_phones;
  std::sort(out->order_.begin(), out->order_.end(), [&](uint32_t a, uint32_t b) {
    const int compared = out->PhonesOf(a).compare(out->PhonesOf(b));
    return compared != 0 ? compared < 0 : a < b;
  });
  out->evidence_ = evidence;
  const float most_a_phone = evidence.share * evidence.even;
  const auto a_phone_of = [&](size_t place) { return most_a_phone + out->table_.a_phone[out->table_.phrase[out->order_[place]]]; };
  for (size_t place = 0; place < out->order_.size(); ++place) {
    out->worth_.push_back(a_phone_of(place) * static_cast<float>(out->PhonesOf(out->order_[place]).size()) - cost);
  }
  // A node is a range of the sorted ways that share their first phones.
  struct Range {
    uint32_t from, to;
    uint32_t depth;
  };
  std::vector<Range> ranges{{0, static_cast<uint32_t>(out->order_.size()), 0}};
  out->phone_.push_back(0);
  for (size_t node = 0; node < ranges.size(); ++node) {
    const Range range = ranges[node];
    float most = kMinusInfinity, a_phone = 0;
    for (uint32_t i = range.from; i < range.to; ++i) {
      most = std::max(most, out->worth_[i]);
      a_phone = std::max(a_phone, a_phone_of(i));
    }
    out->floor_.push_back(-std::min(most, a_phone * static_cast<float>(range.depth) + kSlack));
    uint32_t at = range.from;
    while (at < range.to && out->PhonesOf(out->order_[at]).size() == range.depth) ++at;
    out->first_end_.push_back(static_cast<int32_t>(range.from));
    out->last_end_.push_back(static_cast<int32_t>(at));
    out->first_child_.push_back(static_cast<int32_t>(ranges.size()));
    while (at < range.to) {
      const char phone = out->PhonesOf(out->order_[at])[range.depth];
      uint32_t end = at + 1;
      while (end < range.to && out->PhonesOf(out->order_[end])[range.depth] == phone) ++end;
      ranges.push_back({at, end, range.depth + 1});
      out->phone_.push_back(static_cast<uint8_t>(phone));
      at = end;
    }
  }
  out->first_child_.push_back(static_cast<int32_t>(ranges.size()));
  return out;
}

void PhraseSounds::Advance(SpotterState* state, size_t frame, const float* log_probs, SpotterScratch* scratch,
                           std::vector<SpottedPhrase>* found) const {
  using Token = SpotterToken;
  if (std::isnan(log_probs[0])) {
    state->Reset();
    return;
  }
  const size_t width = num_phones_ + 1;
  if (state->rows_.empty()) state->first_ = frame;
  state->rows_.insert(state->rows_.end(), log_probs, log_probs + width);

  std::vector<float>& lost = scratch->lost_;
  lost.assign(log_probs, log_probs + width);
  const float best = *std::max_element(lost.begin(), lost.end());
  for (float& x : lost) x = std::isnan(x) ? kMinusInfinity : x - best;

  std::vector<Token>& next = scratch->next_;
  next.clear();
  if (scratch->slots_.size() < num_nodes()) {
    scratch->slots_.resize(num_nodes());
    scratch->epochs_.resize(num_nodes(), 0);
  }
  if (++scratch->epoch_ == 0) {
    std::fill(scratch->epochs_.begin(), scratch->epochs_.end(), 0);
    scratch->epoch_ = 1;
  }
  const auto token_of = [&](int32_t node) -> Token& {
    const auto n = static_cast<size_t>(node);
    if (scratch->epochs_[n] != scratch->epoch_) {
      scratch->epochs_[n] = scratch->epoch_;
      scratch->slots_[n] = static_cast<int32_t>(next.size());
      next.push_back({node, kMinusInfinity, kMinusInfinity, 0, 0, 0});
    }
    return next[static_cast<size_t>(scratch->slots_[n])];
  };
  const auto arrive = [&](int32_t node, float score, int32_t start) {
    Token& token = token_of(node);
    if (score > token.phone) {
      token.phone = score;
      token.phone_start = start;
    }
  };
  const auto now = static_cast<int32_t>(frame);
  for (int32_t child = first_child_[0]; child < first_child_[1]; ++child) {
    const float score = lost[phone_[static_cast<size_t>(child)]];
    if (score >= floor_[static_cast<size_t>(child)]) arrive(child, score, now);
  }
  const int32_t earliest = now - static_cast<int32_t>(kMaxFrames) + 1;
  for (const Token& token : state->tokens_) {
    const auto n = static_cast<size_t>(token.node);
    const uint8_t phone = phone_[n];
    const bool by_phone = token.phone >= token.blank;
    const float before = by_phone ? token.phone : token.blank;
    const int32_t start = by_phone ? token.phone_start : token.blank_start;
    if (start < earliest) continue;
    const float stays = token.phone + lost[phone], pauses = before + lost[0];
    if (stays >= floor_[n]) arrive(token.node, stays, token.phone_start);
    const int32_t last_phone = by_phone ? now - 1 : token.last_phone;
    if (pauses >= floor_[n] && now - last_phone <= static_cast<int32_t>(kMaxPause)) {
      Token& same = token_of(token.node);
      same.blank = pauses;
      same.blank_start = start;
      same.last_phone = last_phone;
    }
    for (int32_t child = first_child_[n]; child < first_child_[n + 1]; ++child) {
      const uint8_t follows = phone_[static_cast<size_t>(child)];
      const float from = follows == phone ? token.blank : before;
      const float score = from + lost[follows];
      if (score >= floor_[static_cast<size_t>(child)]) arrive(child, score, follows == phone ? token.blank_start : start);
    }
  }
  if (next.size() > kMaxTokens) {
    const auto spare = [this](const Token& token) { return std::max(token.phone, token.blank) - floor_[static_cast<size_t>(token.node)]; };
    std::nth_element(next.begin(), next.begin() + kMaxTokens, next.end(), [&](const Token& a, const Token& b) {
      return spare(a) != spare(b) ? spare(a) > spare(b) : a.node < b.node;
    });
    next.resize(kMaxTokens);
  }
  state->tokens_.swap(next);
  state->oldest_ = now;
  state->newest_ = -1;
  for (const Token& token : state->tokens_) {
    const auto n = static_cast<size_t>(token.node);
    if (token.phone != kMinusInfinity) {
      state->oldest_ = std::min(state->oldest_, token.phone_start);
      state->newest_ = std::max(state->newest_, token.phone_start);
      if (first_end_[n] < last_end_[n]) Say(state, frame, token, found);
    }
    if (token.blank != kMinusInfinity) {
      state->oldest_ = std::min(state->oldest_, token.blank_start);
      state->newest_ = std::max(state->newest_, token.blank_start);
    }
  }

  const size_t oldest = state->Oldest(frame);
  const auto gone = [&](const SpotterState::Said& said) { return said.frame < oldest; };
  state->said_.erase(std::remove_if(state->said_.begin(), state->said_.end(), gone), state->said_.end());
  if (oldest >= state->first_ + kMaxFrames) {
    state->rows_.erase(state->rows_.begin(), state->rows_.begin() + static_cast<std::ptrdiff_t>((oldest - state->first_) * width));
    state->first_ = oldest;
  }
}

// Finds what ends in a token, unless it was found there before and has not become much better.
void PhraseSounds::Say(SpotterState* state, size_t frame, const SpotterToken& token,
                       std::vector<SpottedPhrase>* found) const {
  const auto n = static_cast<size_t>(token.node);
  for (auto place = static_cast<size_t>(first_end_[n]); place < static_cast<size_t>(last_end_[n]); ++place) {
    const double gain = double{token.phone} + worth_[place];
    if (!(gain > 0)) continue;
    const size_t way = order_[place];
    const auto start = static_cast<size_t>(token.phone_start);
    const auto known = std::find_if(state->said_.begin(), state->said_.end(), [&](const SpotterState::Said& said) {
      return said.way == way && start <= said.frame;
    });
    if (known != state->said_.end()) {
      if (gain < known->gain + kAgain) continue;
      *known = {way, start, frame, gain};
    } else {
      state->said_.push_back({way, start, frame, gain});
    }
    found->push_back({way, start, gain, token.phone});
  }
}

double PhraseSounds::GainAt(const SpottedPhrase& phrase, double e) const {
  const double against = std::isnan(e) ? evidence_.even : -e;
  return phrase.gain - double{evidence_.share} * against * static_cast<double>(PhonesOf(phrase.way).size());
}

void PhraseSounds::Spell(const SpotterState& state, const SpottedPhrase& phrase, size_t frame, std::vector<int32_t>* pieces,
                         std::vector<int32_t>* frames) const {
  const std::vector<int32_t> said = Align(state, phrase, frame);
  const uint32_t spelled = table_.phrase[phrase.way];
  pieces->assign(table_.pieces.begin() + table_.spelled[spelled], table_.pieces.begin() + table_.spelled[spelled + 1]);
  frames->clear();
  size_t phone = 0, piece = 0;
  for (uint32_t word = table_.words[phrase.way]; word < table_.words[phrase.way + 1]; ++word) {
    const int32_t first = said[phone];
    phone += table_.word_phones[word];
    const int32_t last = said[phone - 1];
    size_t end = piece + 1;
    while (end < pieces->size() && starts_word_[static_cast<size_t>((*pieces)[end])] == 0) ++end;
    const auto steps = static_cast<int32_t>(end - piece) - 1;
    for (int32_t i = 0; i <= steps; ++i) frames->push_back(steps == 0 ? first : first + (last - first) * i / steps);
    piece = end;
  }
}

std::vector<int32_t> PhraseSounds::Align(const SpotterState& state, const SpottedPhrase& phrase, size_t frame) const {
  const std::string_view phones = PhonesOf(phrase.way);
  const size_t width = num_phones_ + 1, frames = frame + 1 - phrase.start, states = 2 * phones.size() - 1;
  // State 2i is phone i, state 2i + 1 the blanks after it.
  std::vector<float> scores(states, kMinusInfinity), next(states);
  std::vector<uint8_t> steps(frames * states, 0);
  for (size_t t = 0; t < frames; ++t) {
    const float* row = state.rows_.data() + (phrase.start + t - state.first_) * width;
    for (size_t s = 0; s < states; ++s) {
      const auto column = s % 2 == 1 ? size_t{0} : static_cast<size_t>(static_cast<uint8_t>(phones[s / 2]));
      float from = t == 0 ? (s == 0 ? 0 : kMinusInfinity) : scores[s];
      uint8_t step = 0;
      if (t > 0 && s >= 1 && scores[s - 1] > from) from = scores[s - 1], step = 1;
      if (t > 0 && s >= 2 && s % 2 == 0 && phones[s / 2] != phones[s / 2 - 1] && scores[s - 2] > from) from = scores[s - 2], step = 2;
      next[s] = from + row[column];
      steps[t * states + s] = step;
    }
    scores.swap(next);
  }
  std::vector<int32_t> out(phones.size(), static_cast<int32_t>(phrase.start));
  size_t s = states - 1;
  for (size_t t = frames; t-- > 0;) {
    if (s % 2 == 0) out[s / 2] = static_cast<int32_t>(phrase.start + t);
    s -= std::min<size_t>(steps[t * states + s], s);
  }
  return out;
}

}  // namespace earshot
