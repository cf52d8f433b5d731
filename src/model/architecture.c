#include "catdpo/model/architecture.h"

#include <stdint.h>
#include <stdio.h>

bool architecture_check(const Architecture *a, const char *where, Error *err)
{
    if (a->hidden < 1 || a->mlp < 1 || a->vocab < 1 || a->layers < 1 || a->heads < 1 || a->groups < 1 ||
        a->head_dim < 1)
        return error_usage(
            err,
            "%s: a size of the model is not positive (hidden %d, MLP %d, vocabulary %d, layers %d, heads %d, key/value "
            "heads %d, head size %d): import the model again",
            where, a->hidden, a->mlp, a->vocab, a->layers, a->heads, a->groups, a->head_dim);
    if (a->heads % a->groups != 0)
        return error_usage(err, "%s: %d attention heads cannot be shared by %d key/value heads: import the model again",
                           where, a->heads, a->groups);
    if (a->head_dim % 2 != 0)
        return error_usage(err, "%s: head size %d is odd, rotary embedding needs an even one", where, a->head_dim);
    if (!(a->norm_epsilon > 0) || !(a->rope.theta > 0) || !(a->rope.factor > 0))
        return error_usage(err, "%s: rms_norm_eps, rope_theta and rope_factor must be positive", where);
    int64_t widest = ((int64_t)a->heads + 2 * (int64_t)a->groups) * a->head_dim;
    if (widest > 1 << 24 || a->hidden > 1 << 24 || a->mlp > 1 << 24 || a->vocab > 1 << 26 || a->layers > 1 << 12)
        return error_usage(err, "%s: a size of the model is beyond what this program was made for", where);
    return true;
}

bool architecture_fits(const Architecture *a, int rows, int columns, int ranks, Error *err)
{
    if (rows <= a->groups) return true;
    char valid[256] = "";
    size_t used = 0;
    for (int r = 1; r <= a->groups && r <= ranks; r++)
        for (int c = 1; r * c <= ranks; c++)
            if (ranks % (r * c) == 0 && used + 16 < sizeof valid)
                used += (size_t)snprintf(valid + used, sizeof valid - used, "%s%dx%d", used ? ", " : "", r, c);
    return error_usage(err,
                       "parallel.grid %dx%d has more rows than the model's %d key/value heads; valid for %d ranks "
                       "(rows x columns): %s",
                       rows, columns, a->groups, ranks, valid);
}
