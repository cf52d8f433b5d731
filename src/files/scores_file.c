#include "catdpo/files/scores_file.h"

#include "catdpo/judge/refusal.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { VERDICT_NONE = -1, VERDICT_GOOD = 0, VERDICT_BAD = 1, KIND_UNKNOWN = 255 };

/* Of one answer. A score goes with a verdict. */
static bool possible(float score, int8_t verdict, uint8_t kind)
{
    if (kind >= ANSWER_KINDS && kind != KIND_UNKNOWN) return false;
    if (verdict == VERDICT_NONE) return isnan(score) || (score >= 0 && score <= 1);
    return (verdict == VERDICT_GOOD || verdict == VERDICT_BAD) && score >= 0 && score <= 1;
}

static bool check_judge(H5File *file, int64_t answers, Judges *judges, int j, Error *err)
{
    static const char *const names[] = { "score", "verdict", "kind" };
    static const DataType types[] = { DATA_FLOAT32, DATA_INT8, DATA_UINT8 };
    void *values[3] = { NULL, NULL, NULL };
    bool ok = true;
    for (int i = 0; ok && i < 3; i++) {
        char path[BLOB_NAME + 32];
        snprintf(path, sizeof path, "/scores/%s/%s", judges->name[j], names[i]);
        ok = h5_expect(file, path, types[i], 1, &answers, err);
        values[i] = ok ? malloc((size_t)answers * data_size(types[i]) + 1) : NULL;
        ok = h5_agree(file, ok && (values[i] || error_fault(err, "%s: out of memory for %s", file->path, path)), err) &&
             h5_read_array(file, path, types[i], 1, &answers, values[i], err);
    }
    const float *score = values[0];
    const int8_t *verdict = values[1];
    const uint8_t *kind = values[2];
    for (int64_t i = 0; ok && i < answers; i++) {
        ok = possible(score[i], verdict[i], kind[i]) ||
             error_usage(err,
                         "%s: /scores/%s: entry %" PRId64 " is impossible (score %g, verdict %d, kind %d); judge again",
                         file->path, judges->name[j], i, score[i], verdict[i], kind[i]);
        judges->judged[j] += ok && verdict[i] != VERDICT_NONE;
        judges->bad[j] += ok && verdict[i] == VERDICT_BAD;
    }
    for (int i = 0; i < 3; i++) free(values[i]);
    return ok;
}

bool scores_check(H5File *file, int64_t answers, Judges *judges, Error *err)
{
    *judges = (Judges){ 0 };
    bool exists, ok = h5_exists(file, "/scores", &exists, err);
    if (!ok || !exists) return ok;
    ok = h5_list(file, "/scores", JUDGES_MAX, judges->name, &judges->count, err);
    for (int j = 0; ok && j < judges->count; j++) ok = check_judge(file, answers, judges, j, err);
    return ok;
}
