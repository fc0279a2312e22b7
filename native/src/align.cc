// align.cc: see align.h.

#include "align.h"

#include <algorithm>
#include <vector>

namespace earshot {

AlignmentCounts AlignCounts(const int32_t* ref, size_t n, const int32_t* hyp, size_t m) {
  // Cost = errors * kError - hits: the smallest cost has the fewest errors, then the most hits.
  // The four counts follow from errors and hits, so no path is kept.
  constexpr int64_t kError = int64_t{1} << 32;
  std::vector<int64_t> row(m + 1);
  for (size_t j = 0; j <= m; ++j) row[j] = static_cast<int64_t>(j) * kError;
  for (size_t i = 1; i <= n; ++i) {
    int64_t diagonal = row[0];
    row[0] = static_cast<int64_t>(i) * kError;
    for (size_t j = 1; j <= m; ++j) {
      const int64_t paired = diagonal + (ref[i - 1] == hyp[j - 1] ? -1 : kError);
      diagonal = row[j];
      row[j] = std::min(paired, std::min(row[j], row[j - 1]) + kError);
    }
  }
  const int64_t cost = row[m];
  const int64_t errors = (cost + kError - 1) / kError;  // hits < kError
  AlignmentCounts counts;
  counts.hits = errors * kError - cost;
  const int64_t unmatched = static_cast<int64_t>(n) - counts.hits;  // substituted or deleted
  const int64_t unexpected = static_cast<int64_t>(m) - counts.hits;  // substituted or inserted
  counts.substitutions = unmatched + unexpected - errors;
  counts.deletions = unmatched - counts.substitutions;
  counts.insertions = unexpected - counts.substitutions;
  return counts;
}

}  // namespace earshot
