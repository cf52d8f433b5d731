/* Checksums that do not depend on how a tensor is distributed, and digests of many of them.
 *
 * A tensor is its row-major sequence of 32-bit words b_0, b_1, ... (a 64-bit element is two words, the low one first; a
 * byte is a word whose other bits are zero).
 * Each word is mixed with its index to 64 bits and the results are added modulo 2^64: any rank may add any of them, in
 * any order.
 */
#ifndef CATDPO_H5_CHECKSUM_H
#define CATDPO_H5_CHECKSUM_H

#include "catdpo/h5/h5.h"

#include <stdint.h>

enum { WEIGHTS_DIGEST = 17 }; /* 16 hexadecimal digits and a NUL */

/* Sum over words[0..count) that are the tensor's words first, first + step, first + 2 * step, ... Not collective. */
uint64_t checksum_words(const void *words, int64_t count, uint64_t first, uint64_t step);
/* This rank's contribution: its slab of a tensor of any type. Not collective. */
uint64_t checksum_slab(const Slab *slab, DataType type, const void *values);
/* Replace each of count contributions by its sum over comm. Collective. */
void checksum_sum(int count, uint64_t sums[], MPI_Comm comm);

/* FNV-1a (64 bits) of the lines "NAME=CHECKSUM\n" (16 hexadecimal digits) in the byte order of the names. False
 * without memory. Not collective. */
bool weights_digest(int count, const char *const names[], const uint64_t checksums[], char digest[WEIGHTS_DIGEST]);

#endif
