// align.cc: see align.h.

#include "align.h"

#include <algorithm>
#include <vector>

namespace earshot {

namespace {

// Cost = errors * kError - hits: the smallest cost has the fewest errors, then the most hits.
// The four counts follow from errors and hits, so no path is kept.
constexpr int64_t kError = int64_t{1} << 32;

// Costs of aligning ref[0, n) with every beginning hyp[0, j), j = 0..m; from the ends when `step` is -1, with
// ref and hyp at their last tokens.
void LastRow(const int32_t* ref, size_t n, const int32_t* hyp, size_t m, ptrdiff_t step,
             std::vector<int64_t>* row_out) {
  std::vector<int64_t>& row = *row_out;
  row.resize(m + 1);
  for (size_t j = 0; j <= m; ++j) row[j] = static_cast<int64_t>(j) * kError;
  for (size_t i = 1; i <= n; ++i) {
    const int32_t token = ref[static_cast<ptrdiff_t>(i - 1) * step];
    int64_t diagonal = row[0];
    row[0] = static_cast<int64_t>(i) * kError;
    for (size_t j = 1; j <= m; ++j) {
      const int64_t paired = diagonal + (token == hyp[static_cast<ptrdiff_t>(j - 1) * step] ? -1 : kError);
      diagonal = row[j];
      row[j] = std::min(paired, std::min(row[j], row[j - 1]) + kError);
    }
  }
}

int64_t ErrorsOfCost(int64_t cost) { return (cost + kError - 1) / kError; }  // hits < kError

AlignmentCounts CountsOfCost(int64_t cost, size_t n, size_t m) {
  const int64_t errors = ErrorsOfCost(cost);
  AlignmentCounts counts;
  counts.hits = errors * kError - cost;
  const int64_t unmatched = static_cast<int64_t>(n) - counts.hits;  // substituted or deleted
  const int64_t unexpected = static_cast<int64_t>(m) - counts.hits;  // substituted or inserted
  counts.substitutions = unmatched + unexpected - errors;
  counts.deletions = unmatched - counts.substitutions;
  counts.insertions = unexpected - counts.substitutions;
  return counts;
}

class ErrorAligner {
 public:
  explicit ErrorAligner(std::vector<AlignmentError>* errors) : errors_(errors) {}

  int64_t hits() const { return hits_; }

  void Align(const int32_t* ref, size_t n, const int32_t* hyp, size_t m) {
    // A best alignment pairs equal first tokens, and equal last ones: whatever else they were paired with can
    // be undone without an error more or a hit less.
    while (n > 0 && m > 0 && ref[0] == hyp[0]) ++ref, ++hyp, --n, --m, ++hits_;
    while (n > 0 && m > 0 && ref[n - 1] == hyp[m - 1]) --n, --m, ++hits_;
    if (n == 0 || m == 0) {
      for (size_t i = 0; i < n; ++i) errors_->push_back({ref[i], -1});
      for (size_t j = 0; j < m; ++j) errors_->push_back({-1, hyp[j]});
    } else if ((n + 1) * (m + 1) <= kAlignTableCells || n == 1) {
      WithTable(ref, n, hyp, m);
    } else {
      InHalves(ref, n, hyp, m);
    }
  }

 private:
  enum Step : uint8_t { kPair, kDelete, kInsert };

  void WithTable(const int32_t* ref, size_t n, const int32_t* hyp, size_t m) {
    const size_t width = m + 1;
    table_.assign((n + 1) * width, kInsert);
    row_.resize(width);
    for (size_t j = 0; j <= m; ++j) row_[j] = static_cast<int64_t>(j) * kError;
    for (size_t i = 1; i <= n; ++i) {
      int64_t diagonal = row_[0];
      row_[0] = static_cast<int64_t>(i) * kError;
      uint8_t* steps = table_.data() + i * width;
      steps[0] = kDelete;
      for (size_t j = 1; j <= m; ++j) {
        const int64_t paired = diagonal + (ref[i - 1] == hyp[j - 1] ? -1 : kError);
        const int64_t deleted = row_[j] + kError, inserted = row_[j - 1] + kError;
        diagonal = row_[j];
        const bool pairs = paired <= deleted && paired <= inserted;
        steps[j] = pairs ? kPair : deleted <= inserted ? kDelete : kInsert;
        row_[j] = std::min(paired, std::min(deleted, inserted));
      }
    }
    const size_t first = errors_->size();
    for (size_t i = n, j = m; i > 0 || j > 0;) {
      switch (table_[i * width + j]) {
        case kPair:
          --i, --j;
          if (ref[i] == hyp[j]) {
            ++hits_;
          } else {
            errors_->push_back({ref[i], hyp[j]});
          }
          break;
        case kDelete:
          errors_->push_back({ref[--i], -1});
          break;
        default:
          errors_->push_back({-1, hyp[--j]});
      }
    }
    std::reverse(errors_->begin() + static_cast<ptrdiff_t>(first), errors_->end());
  }

  // Hirschberg, "A linear space algorithm for computing maximal common subsequences", CACM 18(6), 1975.
  void InHalves(const int32_t* ref, size_t n, const int32_t* hyp, size_t m) {
    const size_t half = n / 2;
    std::vector<int64_t> before, after;
    LastRow(ref, half, hyp, m, 1, &before);
    LastRow(ref + n - 1, n - half, hyp + m - 1, m, -1, &after);
    size_t cut = 0;
    for (size_t j = 1; j <= m; ++j) {
      if (before[j] + after[m - j] < before[cut] + after[m - cut]) cut = j;
    }
    before.clear(), before.shrink_to_fit(), after.clear(), after.shrink_to_fit();
    Align(ref, half, hyp, cut);
    Align(ref + half, n - half, hyp + cut, m - cut);
  }

  std::vector<AlignmentError>* errors_;
  int64_t hits_ = 0;
  std::vector<uint8_t> table_;
  std::vector<int64_t> row_;
};

}  // namespace

AlignmentCounts AlignCounts(const int32_t* ref, size_t n, const int32_t* hyp, size_t m) {
  std::vector<int64_t> row;
  LastRow(ref, n, hyp, m, 1, &row);
  return CountsOfCost(row[m], n, m);
}

AlignmentCounts AlignErrors(const int32_t* ref, size_t n, const int32_t* hyp, size_t m,
                            std::vector<AlignmentError>* errors) {
  const size_t first = errors->size();
  ErrorAligner aligner(errors);
  aligner.Align(ref, n, hyp, m);
  const int64_t found = static_cast<int64_t>(errors->size() - first);
  return CountsOfCost(found * kError - aligner.hits(), n, m);
}

void EditDistances(const int32_t* tokens, const int64_t* ends, size_t n, int32_t* out) {
  std::vector<int64_t> row;
  for (size_t i = 0; i < n; ++i) {
    const int64_t first = i ? ends[i - 1] : 0;
    out[i * n + i] = 0;
    for (size_t j = 0; j < i; ++j) {
      const int64_t other = j ? ends[j - 1] : 0;
      LastRow(tokens + first, static_cast<size_t>(ends[i] - first), tokens + other, static_cast<size_t>(ends[j] - other), 1, &row);
      out[i * n + j] = out[j * n + i] = static_cast<int32_t>(ErrorsOfCost(row.back()));
    }
  }
}

}  // namespace earshot
