/* Promise: only rank 0 reads the config, and every rank ends with the same Config or the same message. */
#include "catdpo/config/config.h"

#include <string.h>

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);

    char *good[] = { "margin.eta=0.25", "run.dir=somewhere" }, *other[] = { "margin.eta=0.75" },
         *bad[] = { "margin.etta=1" };
    Config config;
    Error err = { 0 };
    CHECK(config_load_all(&config, NULL, rank == 0 ? 2 : 1, rank == 0 ? good : other, MPI_COMM_WORLD, &err));
    CHECK(config.margin.eta == 0.25 && strcmp(config.run.dir, "somewhere") == 0);

    CHECK(!config_load_all(&config, NULL, 1, rank == 0 ? bad : good, MPI_COMM_WORLD, &err));
    CHECK(err.exit_status == EXIT_USAGE && strstr(err.message, "margin.etta"));

    Error absent = { 0 };
    CHECK(!config_load_all(&config, "no such file.cfg", 0, NULL, MPI_COMM_WORLD, &absent));
    CHECK(absent.exit_status == EXIT_USAGE && strstr(absent.message, "no such file.cfg"));
    MPI_Finalize();
    return 0;
}
