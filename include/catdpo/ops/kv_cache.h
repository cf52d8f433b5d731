/* Keys and values of tokens that earlier passes ran, of this rank's key/value groups and this process column's
 * sequences: attention reads and writes them where they are, without communication. A token has a column of the cache,
 * in every layer; who gets which columns is for the caller to say (Segment.cached, Segment.keep). */
#ifndef CATDPO_OPS_KV_CACHE_H
#define CATDPO_OPS_KV_CACHE_H

#include "catdpo/ops/attention.h"

typedef struct KvCache {
    int layers, groups, head_dim; /* L, local g, d */
    int columns;                  /* tokens that it can hold */
    float *memory;                /* [L][g][keys, values][columns][d]; owned */
} KvCache;

/* Bytes that a cache of so many columns takes on this rank. */
int64_t kv_cache_bytes(int layers, const AttentionShape *s, int columns);

/* Its contents are not yet set. Not collective. */
bool kv_cache_create(KvCache *cache, int layers, const AttentionShape *s, int columns, Error *err);
void kv_cache_free(KvCache *cache);

/* What attention needs of it in layer l; of no cache (NULL) nothing. */
CachedKeys kv_cache_layer(const KvCache *cache, int l);

#endif
