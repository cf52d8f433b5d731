/* Promise: when some ranks fail, every rank returns false with the status and message of the lowest rank that failed.
 */
#include "catdpo/core/error.h"

#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    int rank, size;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);

    Error none = { 0 };
    CHECK(error_agree(MPI_COMM_WORLD, true, &none));
    CHECK(none.exit_status == EXIT_DONE);

    for (int first = 0; first < size; first++) { /* ranks first, first + 1, ... fail, each with its own words */
        Error err = { 0 };
        bool ok = rank < first || error_usage(&err, "rank %d cannot read its part", rank);
        CHECK(!error_agree(MPI_COMM_WORLD, ok, &err));
        char expected[64];
        snprintf(expected, sizeof expected, "rank %d cannot read its part", first);
        CHECK(strcmp(err.message, expected) == 0);
        CHECK(err.exit_status == EXIT_USAGE);
    }

    Error silent = { 0 }; /* a rank that failed without words still stops the others with words */
    CHECK(!error_agree(MPI_COMM_WORLD, rank != size - 1, &silent));
    CHECK(silent.exit_status == EXIT_FAULT && silent.message[0]);

    MPI_Finalize();
    return 0;
}
