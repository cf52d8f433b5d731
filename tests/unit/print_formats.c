/* The tables of all formats, a row a line with tabs between its columns: for tests/python/test_format_tables.py, which
 * holds what Python writes to them. */
#include "catdpo/files/checkpoint.h"
#include "catdpo/files/eval_file.h"
#include "catdpo/files/model_file.h"
#include "catdpo/files/prompts_file.h"
#include "catdpo/files/reference_file.h"
#include "catdpo/files/samples_file.h"

#include <stdio.h>

static const char *type_of(const Field *f)
{
    static const char *const types[] = {
        [DATA_UINT8] = "uint8",   [DATA_INT8] = "int8",       [DATA_INT32] = "int32",    [DATA_INT64] = "int64",
        [DATA_UINT64] = "uint64", [DATA_FLOAT32] = "float32", [DATA_FLOAT64] = "float64"
    };
    switch (f->kind) {
    case FIELD_ARRAY: return types[f->type];
    case FIELD_UINT: return "uint64";
    case FIELD_NUMBER: return "float64";
    case FIELD_INT:
    case FIELD_COUNT:
    case FIELD_FLAG: return "int64";
    default: return "text";
    }
}

static void print_format(const char *name, const Format *format)
{
    for (const Field *f = format->field; f->kind != FIELD_END; f++) {
        printf("%s\t%s\t%s\t%s\t", name, f->object, f->attribute ? f->attribute : "", type_of(f));
        for (int i = 0; i < f->axes; i++) {
            const FieldAxis *axis = &format->axis[f->axis[i]];
            printf("%s%s", i > 0 ? "," : "", axis->label ? axis->label : "-");
        }
        printf("\t%s\t%s\t%g\t%g\t%s\n", f->units ? f->units : "", f->optional ? "optional" : "", f->least, f->most,
               f->description ? f->description : "");
    }
}

int main(void)
{
    print_format("model", &model_format);
    print_format("model", &model_digests);
    print_format("checkpoint", &checkpoint_format);
    print_format("pairs", &pairs_format);
    print_format("prompts", &prompts_format);
    print_format("reference", &reference_format);
    print_format("eval", &eval_format);
    print_format("samples", &samples_format);
    return 0;
}
