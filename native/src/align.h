// align.h: how many tokens of a hypothesis are right, against a reference. Knows token ids only.
#ifndef EARSHOT_ALIGN_H_
#define EARSHOT_ALIGN_H_

#include <cstddef>
#include <cstdint>

namespace earshot {

struct AlignmentCounts {
  int64_t hits = 0;
  int64_t substitutions = 0;
  int64_t deletions = 0;
  int64_t insertions = 0;
};

// Counts of an alignment with the fewest errors; among those, of one with the most hits, which makes all
// four numbers unique. Time n * m, memory m.
AlignmentCounts AlignCounts(const int32_t* ref, size_t n, const int32_t* hyp, size_t m);

}  // namespace earshot

#endif  // EARSHOT_ALIGN_H_
