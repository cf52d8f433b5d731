/* Promise: what eval found is in eval.h5 under the names of the file format, with labels; without held-out pairs too.
 */
#include "catdpo/files/eval_file.h"
#include "catdpo/h5/h5.h"
#include "scratch.h"

#include <hdf5_hl.h>
#include <math.h>

static const char categories[2][CATEGORY_NAME] = { "violence", "benign" };
static const uint8_t harm[2] = { 1, 0 };
static const int64_t counts[2] = { 3, 1 }, index_of[4] = { 0, 2, 5, 6 };
static const double values[4] = { 0.25, 0.5, NAN, 1 };

static EvalResult make_result(int64_t pairs)
{
    return (EvalResult){ .model = "model.h5",
                         .weights_digest = "w",
                         .data_digest = "d",
                         .split = "heldout",
                         .signal = "likelihood",
                         .step = -1,
                         .beta = 0.1,
                         .category_count = 2,
                         .category_name = categories,
                         .category_harm = harm,
                         .pairs = counts,
                         .accuracy = values,
                         .accuracy_low = values,
                         .accuracy_high = values,
                         .n = counts,
                         .violations = values,
                         .violation_rate = values,
                         .violation_rate_low = values,
                         .violation_rate_high = values,
                         .rewards_margins = values + 2,
                         .accuracy_summary = { 0.1, 0.2, 0.3, 0.4, 0.5 },
                         .violation_rate_summary = { 0.6, 0.7, 0.8, 0.9, NAN },
                         .worst_category = "violence",
                         .pair_count = pairs,
                         .logps_chosen = values,
                         .logps_rejected = values,
                         .ref_logps_chosen = values,
                         .ref_logps_rejected = values,
                         .violation = values,
                         .index = index_of };
}

static void test_result(const char *path)
{
    Error err = { 0 };
    H5File file;
    EvalResult result = make_result(4);
    CHECK(eval_file_write(path, &result, MPI_COMM_WORLD, &err));
    int64_t two = 2, four = 4, step, n[2], index[4];
    double beta, found[4], margins[2], gap;
    char text[64];
    CHECK(h5_open(&file, path, MPI_COMM_WORLD, &err) && h5_check_format(&file, "catdpo-eval", 1, &err));
    CHECK(h5_read_string(&file, "/", "split", text, sizeof text, &err) && strcmp(text, "heldout") == 0);
    CHECK(h5_read_int64(&file, "/", "step", -1, -1, &step, &err) &&
          h5_read_double(&file, "/", "beta", 0.1, 0.1, &beta, &err));
    CHECK(h5_read_array(&file, "/eval/category/n", DATA_INT64, 1, &two, n, &err) && n[0] == 3 && n[1] == 1);
    CHECK(h5_read_array(&file, "/eval/category/rewards_margins", DATA_FLOAT64, 1, &two, margins, &err) &&
          isnan(margins[0]) && margins[1] == 1);
    CHECK(h5_read_array(&file, "/eval/pairs/violation", DATA_FLOAT64, 1, &four, found, &err) &&
          memcmp(found, values, sizeof found) == 0);
    CHECK(h5_read_array(&file, "/eval/pairs/index", DATA_INT64, 1, &four, index, &err) && index[3] == 6);
    CHECK(h5_read_double(&file, "/eval/summary", "accuracy_gap", 0.4, 0.4, &gap, &err));
    CHECK(h5_read_string(&file, "/eval/summary", "worst_category", text, sizeof text, &err) &&
          strcmp(text, "violence") == 0);
    h5_close(&file);
    if (world_rank() == 0) {
        hid_t plain = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT),
              set = H5Dopen2(plain, "/eval/category/accuracy", H5P_DEFAULT);
        hid_t scale = H5Dopen2(plain, "/categories/name", H5P_DEFAULT);
        CHECK(H5DSget_label(set, 0, text, sizeof text) > 0 && strcmp(text, "category") == 0 &&
              H5DSis_attached(set, scale, 0) > 0);
        H5Dclose(scale), H5Dclose(set), H5Fclose(plain);
    }
    CHECK(H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) == 0);
}

static void test_empty_and_failing(Scratch *scratch)
{
    Error err = { 0 };
    EvalResult result = make_result(0);
    result.worst_category = "";
    CHECK(eval_file_write(scratch_file(scratch, "empty.h5"), &result, MPI_COMM_WORLD, &err));
    CHECK(!eval_file_write(scratch_file(scratch, "no/folder/eval.h5"), &result, MPI_COMM_WORLD, &err));
    CHECK(err.exit_status == EXIT_FAULT && strstr(err.message, "No such file"));
    CHECK(H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) == 0);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    Scratch scratch = scratch_make();
    test_result(scratch_file(&scratch, "eval.h5"));
    test_empty_and_failing(&scratch);
    scratch_remove(&scratch);
    MPI_Finalize();
    return 0;
}
