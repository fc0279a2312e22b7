// align.h: how many tokens of a hypothesis are right, against a reference. Knows token ids only.
#ifndef EARSHOT_ALIGN_H_
#define EARSHOT_ALIGN_H_

#include <cstddef>
#include <cstdint>
#include <vector>

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

// One step of an alignment that is no hit. A token of -1 is none: ref -1 is an insertion, hyp -1 a deletion.
struct AlignmentError {
  int32_t ref;
  int32_t hyp;
};

// The counts of AlignCounts, and in `errors` what was appended: the steps of one such alignment that are no
// hits, from left to right. Which one, where several are as good, depends on the two sequences alone. Time n * m; memory
// n + m and a table of at most kAlignTableCells bytes, however long the sequences.
AlignmentCounts AlignErrors(const int32_t* ref, size_t n, const int32_t* hyp, size_t m,
                            std::vector<AlignmentError>* errors);

// Errors of each of `n` sequences against each, (n, n) into `out`, row by row; sequence i is tokens[ends[i - 1],
// ends[i]). Time is the sum over pairs of the product of their lengths.
void EditDistances(const int32_t* tokens, const int64_t* ends, size_t n, int32_t* out);

constexpr size_t kAlignTableCells = size_t{1} << 22;

}  // namespace earshot

#endif  // EARSHOT_ALIGN_H_
