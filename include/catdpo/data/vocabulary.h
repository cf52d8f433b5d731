/* From token ids to text: the bytes of each token, as catdpo-analysis import found them out.
 *
 * The text of some ids, special tokens left out, is: the bytes of the tokens one after another; of a run of
 * byte-fallback tokens whose bytes are no UTF-8 together each byte becomes U+FFFD; then at most `strip` spaces are
 * taken from the beginning; what is no UTF-8 in the whole becomes U+FFFD, one for each maximal part of a character.
 * That is the tokenizer's own decoding, for byte-level BPE and for SentencePiece with byte fallback. A NUL becomes
 * U+2400, because texts in HDF5 end at one. */
#ifndef CATDPO_DATA_VOCABULARY_H
#define CATDPO_DATA_VOCABULARY_H

#include "catdpo/core/error.h"

#include <stddef.h>
#include <stdint.h>

typedef struct Vocabulary {
    int64_t count;               /* ids */
    int64_t *offset;             /* [count + 1] */
    uint8_t *byte;               /* [offset[count]] */
    uint8_t *special, *fallback; /* [count] 0 or 1 */
    int64_t strip;
    int64_t stop_count;
    int64_t *stop; /* [stop_count] ids of tokens that end an answer */
} Vocabulary;

void vocabulary_free(Vocabulary *v); /* harmless on one that is all zero */

/* Bytes that the text of so many ids takes at most, with its NUL. Ids are in [0, count). */
size_t vocabulary_room(const Vocabulary *v, const int32_t *id, int count);
/* Writes it, ended by NUL, and returns its length. */
size_t vocabulary_text(const Vocabulary *v, const int32_t *id, int count, char *text);

#endif
