#include "catdpo/ops/kv_cache.h"

#include "catdpo/core/memory.h"

static int64_t layer_floats(const AttentionShape *s, int columns)
{
    return 2 * (int64_t)s->groups * columns * s->head_dim;
}

int64_t kv_cache_bytes(int layers, const AttentionShape *s, int columns)
{
    return layers * layer_floats(s, columns) * (int64_t)sizeof(float);
}

bool kv_cache_create(KvCache *cache, int layers, const AttentionShape *s, int columns, Error *err)
{
    *cache = (KvCache){ .layers = layers, .groups = s->groups, .head_dim = s->head_dim, .columns = columns };
    cache->memory = memory_allocate(kv_cache_bytes(layers, s, columns), "the keys and values of earlier tokens", err);
    return cache->memory != NULL;
}

void kv_cache_free(KvCache *cache)
{
    memory_free(cache->memory);
    *cache = (KvCache){ 0 };
}

CachedKeys kv_cache_layer(const KvCache *cache, int l)
{
    if (!cache) return (CachedKeys){ 0 };
    int64_t group = 2 * (int64_t)cache->columns * cache->head_dim;
    return (CachedKeys){ .data = cache->memory + l * cache->groups * group, .columns = cache->columns };
}
