// letter_to_sound.cc: see letter_to_sound.h. Of equal scores what came first stays first.
#include "letter_to_sound.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

namespace earshot {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

bool AllWithin(const std::vector<int32_t>& values, size_t end) {
  return std::all_of(values.begin(), values.end(), [&](int32_t v) { return v >= 0 && static_cast<size_t>(v) < end; });
}

}  // namespace

LetterToSound::LetterToSound(UnitContexts contexts) : contexts_(std::move(contexts)) {
  const UnitContexts& c = contexts_;
  const size_t nodes = c.units.size();
  const size_t num_units = c.phones.size();
  const bool fits = nodes > 0 && c.first.size() == nodes + 1 && c.suffix.size() == nodes && c.state.size() == nodes &&
                    c.log_prob.size() == nodes && c.backoff.size() == nodes && c.letters.size() >= 2 &&
                    AllWithin(c.first, nodes + 1) && std::is_sorted(c.first.begin(), c.first.end()) && AllWithin(c.suffix, nodes) &&
                    AllWithin(c.state, nodes) && AllWithin(c.letters, num_units + 1) &&
                    std::is_sorted(c.letters.begin(), c.letters.end()) && AllWithin({c.start}, nodes) &&
                    std::all_of(c.units.begin(), c.units.end(), [&](uint16_t u) { return u < num_units; });
  if (!fits) throw std::invalid_argument("letter_to_sound: the model's arrays do not fit each other. Make it again.");
  for (size_t n = 1; n < nodes; ++n) {
    // A context is longer than its suffix, and contexts are numbered by length: the way back ends.
    if (c.suffix[n] >= static_cast<int32_t>(n)) throw std::invalid_argument("letter_to_sound: the model's contexts go in circles. Make it again.");
  }
  num_letters_ = c.letters.size() - 2;
}

std::vector<Pronunciation> LetterToSound::Best(std::string_view letters, size_t count, LetterToSoundScratch* scratch) const {
  scratch->beam_.assign(1, {0.0, contexts_.start, -1, 0, 0, 0});
  scratch->trails_.clear();
  for (const char letter : letters) {
    const auto number = static_cast<unsigned char>(letter);
    if (number >= num_letters_) throw std::invalid_argument("letter_to_sound: letter " + std::to_string(number) + " is not in the model.");
    Extend(number, scratch);
  }
  Extend(num_letters_, scratch);
  std::vector<Pronunciation> found;
  for (const auto& path : scratch->beam_) {  // likeliest first
    if (found.size() == count) break;
    if (path.length == 0) continue;
    std::string phones = Phones(path.trail, *scratch);
    const auto is_same = [&](const Pronunciation& p) { return p.phones == phones; };
    if (std::none_of(found.begin(), found.end(), is_same)) found.push_back({std::move(phones), path.score});
  }
  return found;
}

// What a letter may stand for after a context, likeliest first: that of the longest context counts.
const std::vector<LetterToSoundScratch::Option>& LetterToSound::Options(int32_t node, size_t letter, LetterToSoundScratch* scratch) const {
  const UnitContexts& c = contexts_;
  const int64_t key = static_cast<int64_t>(node) * static_cast<int64_t>(num_letters_ + 1) + static_cast<int64_t>(letter);
  if (scratch->options_.size() >= kMaxLooked) scratch->options_.clear();
  const auto [place, fresh] = scratch->options_.try_emplace(key);
  std::vector<LetterToSoundScratch::Option>& options = place->second;
  if (!fresh) return options;
  const int32_t low = c.letters[letter], high = c.letters[letter + 1];
  scratch->seen_.assign(static_cast<size_t>(high - low), 0);
  double weight = 0;
  while (true) {
    const auto begin = c.units.begin() + c.first[static_cast<size_t>(node)];
    const auto end = c.units.begin() + c.first[static_cast<size_t>(node) + 1];
    for (auto it = std::lower_bound(begin, end, low); it != end && *it < high; ++it) {
      uint8_t& seen = scratch->seen_[static_cast<size_t>(*it - low)];
      if (seen) continue;
      seen = 1;
      const auto at = static_cast<size_t>(it - c.units.begin());
      options.push_back({weight + double{c.log_prob[at]}, c.state[at], *it});
    }
    if (node == 0) break;
    weight += double{c.backoff[static_cast<size_t>(node)]};
    node = c.suffix[static_cast<size_t>(node)];
  }
  std::sort(options.begin(), options.end(), [&](const auto& a, const auto& b) {
    if (a.gain != b.gain) return a.gain > b.gain;
    if (a.state != b.state) return a.state > b.state;
    return c.phones[a.unit] > c.phones[b.unit];
  });
  // Further ones are further than that below the best hypothesis, too.
  while (options.size() > 1 && options.back().gain < options.front().gain - kDepth) options.pop_back();
  options.shrink_to_fit();
  return options;
}

// The best hypotheses with one more letter; of equal ones the likelier.
void LetterToSound::Extend(size_t letter, LetterToSoundScratch* scratch) const {
  auto& longer = scratch->longer_;
  auto& slots = scratch->slots_;
  longer.clear();
  slots.assign(256, -1);
  const auto slot = [&](const LetterToSoundScratch::Hypothesis& h) {
    return (static_cast<size_t>(h.node) * 0x9e3779b97f4a7c15ull ^ h.hash) & (slots.size() - 1);
  };
  double least = kMinusInfinity;
  for (const auto& path : scratch->beam_) {  // likeliest first
    for (const auto& option : Options(path.node, letter, scratch)) {
      LetterToSoundScratch::Hypothesis next{path.score + option.gain, option.state, path.trail, path.length,
                                            static_cast<uint32_t>(longer.size()), path.hash};
      if (next.score < least) break;
      const std::string& said = contexts_.phones[option.unit];
      next.length += static_cast<uint32_t>(said.size());
      for (const char phone : said) next.hash = (next.hash ^ (static_cast<unsigned char>(phone) + 1u)) * 0x100000001b3ull;
      const auto is_same = [&](const LetterToSoundScratch::Hypothesis& other) {
        if (other.node != next.node || other.hash != next.hash || other.length != next.length) return false;
        return Phones(other.trail, *scratch) == Phones(path.trail, *scratch) + said;
      };
      size_t at = slot(next);
      while (slots[at] >= 0 && !is_same(longer[static_cast<size_t>(slots[at])])) at = (at + 1) & (slots.size() - 1);
      if (slots[at] >= 0) {
        auto& other = longer[static_cast<size_t>(slots[at])];
        if (next.score <= other.score) continue;
        other.score = next.score;
      } else {
        if (!said.empty()) {
          next.trail = static_cast<int32_t>(scratch->trails_.size());
          scratch->trails_.push_back({path.trail, option.unit});
        }
        slots[at] = static_cast<int32_t>(next.order);
        longer.push_back(next);
        if (2 * longer.size() > slots.size()) {
          slots.assign(2 * slots.size(), -1);
          for (const auto& each : longer) {
            size_t to = slot(each);
            while (slots[to] >= 0) to = (to + 1) & (slots.size() - 1);
            slots[to] = static_cast<int32_t>(each.order);
          }
        }
      }
      least = std::max(least, next.score - kDepth);
    }
  }
  const size_t kept = std::min(kWidth, longer.size());
  std::partial_sort(longer.begin(), longer.begin() + static_cast<std::ptrdiff_t>(kept), longer.end(), [](const auto& a, const auto& b) {
    return a.score != b.score ? a.score > b.score : a.order < b.order;
  });
  longer.resize(kept);
  while (!longer.empty() && longer.back().score < least) longer.pop_back();
  scratch->beam_.swap(longer);
}

std::string LetterToSound::Phones(int32_t trail, const LetterToSoundScratch& scratch) const {
  std::string backwards;
  for (; trail >= 0; trail = scratch.trails_[static_cast<size_t>(trail)].before) {
    const std::string& said = contexts_.phones[scratch.trails_[static_cast<size_t>(trail)].unit];
    backwards.append(said.rbegin(), said.rend());
  }
  std::reverse(backwards.begin(), backwards.end());
  return backwards;
}

}  // namespace earshot
