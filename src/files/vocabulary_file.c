#include "catdpo/files/vocabulary_file.h"

#include <stdlib.h>

enum { TOKEN, END, BYTE, ONE, STOP, AXES };

static const FieldAxis axes[AXES] = { [TOKEN] = { .least = 1, .most = INT32_MAX },
                                      [END] = { .most = INT32_MAX },
                                      [BYTE] = { .most = INT32_MAX },
                                      [ONE] = { .least = 1, .most = 1 },
                                      [STOP] = { .most = 4096 } };

typedef struct Stored {
    Vocabulary v;
    int64_t *strip; /* [1] */
} Stored;

#define ARRAY(name, data, along, member, ...)                                                                          \
    {                                                                                                                  \
        "/tokenizer/" name, NULL, FIELD_ARRAY, .offset = offsetof(Stored, member), .type = data, .axes = 1,            \
                                               .axis = { along }, __VA_ARGS__                                          \
    }

static const Field byte_fields[] = {
    ARRAY("bytes", DATA_UINT8, BYTE, v.byte, ),
    ARRAY("offsets", DATA_INT64, END, v.offset, .most = INT32_MAX),
    ARRAY("special", DATA_UINT8, TOKEN, v.special, .most = 1),
    ARRAY("byte_fallback", DATA_UINT8, TOKEN, v.fallback, .most = 1),
    ARRAY("strip", DATA_INT64, ONE, strip, .most = 16),
    { .kind = FIELD_END },
};
static const Field stop_fields[] = {
    ARRAY("stop_tokens", DATA_INT64, STOP, v.stop, .most = INT32_MAX),
    { .kind = FIELD_END },
};
static const Format bytes_format = { "/tokenizer", 1, byte_fields, axes, AXES, NULL },
                    stop_format = { "/tokenizer", 1, stop_fields, axes, AXES, NULL };

static bool check_bytes(const H5File *file, const Vocabulary *v, const int64_t lengths[AXES], Error *err)
{
    bool ok = lengths[END] == lengths[TOKEN] + 1 && v->offset[0] == 0 && v->offset[lengths[TOKEN]] == lengths[BYTE];
    for (int64_t i = 0; ok && i < lengths[TOKEN]; i++) ok = v->offset[i] <= v->offset[i + 1];
    return ok || error_usage(err, "%s: /tokenizer/offsets does not cut /tokenizer/bytes into tokens: import it again",
                             file->path);
}

bool vocabulary_read(H5File *file, Vocabulary *v, Error *err)
{
    *v = (Vocabulary){ 0 };
    bool has_bytes = false, has_stop = false;
    if (!h5_exists(file, "/tokenizer/bytes", &has_bytes, err) ||
        !h5_exists(file, "/tokenizer/stop_tokens", &has_stop, err))
        return false;
    int64_t lengths[AXES];
    for (int i = 0; i < AXES; i++) lengths[i] = -1;
    Stored stored = { 0 };
    if (has_bytes) {
        if (!fields_measure(file, &bytes_format, lengths, err) ||
            !fields_read(file, &bytes_format, &stored, lengths, err))
            return false;
        stored.v.count = lengths[TOKEN];
        stored.v.strip = stored.strip[0];
        free(stored.strip);
        if (!check_bytes(file, &stored.v, lengths, err)) {
            vocabulary_free(&stored.v);
            return false;
        }
    }
    if (has_stop) {
        lengths[STOP] = -1;
        Stored found = { 0 };
        if (!fields_measure(file, &stop_format, lengths, err) ||
            !fields_read(file, &stop_format, &found, lengths, err)) {
            vocabulary_free(&stored.v);
            return false;
        }
        stored.v.stop = found.v.stop;
        stored.v.stop_count = lengths[STOP];
    }
    *v = stored.v;
    return true;
}
