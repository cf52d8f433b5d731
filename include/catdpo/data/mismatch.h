/* Pairs of mismatched texts: each prompt with the completions of another one, for baselines that ask how likely an
 * unrelated answer is. */
#ifndef CATDPO_DATA_MISMATCH_H
#define CATDPO_DATA_MISMATCH_H

#include "catdpo/data/pairs.h"

/* Into *mismatched as many pairs as there are in `pairs`: the prompt of pair i with the completions of the next pair,
 * in the order of the data and after the last one from the first, that has another prompt; cut at the longest sequence
 * of `pairs`. Only the sequences, counts and digests are filled in. Refused if all prompts are one. Collective over
 * comm, as pairs_allocate. */
bool pairs_mismatch(const Pairs *pairs, Pairs *mismatched, MPI_Comm comm, Error *err);

#endif
