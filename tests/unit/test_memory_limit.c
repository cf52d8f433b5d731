/* Promise: of the node's memory, the control groups (v1 and v2) up their tree and SLURM's variables, the least counts;
 * a container, an unlimited group and files that are not there do not mislead. A copy of /proc and /sys/fs/cgroup
 * stands in for the system's. */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "catdpo/core/memory_limit.h"

static char folder[] = "/tmp/catdpo-limit-XXXXXX";
static const int64_t MB = 1 << 20;

/* folder/NAME, with the folders on the way. */
static void put(const char *name, const char *text)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    for (char *c = path + strlen(folder) + 1; (c = strchr(c, '/')); c++) {
        *c = '\0';
        mkdir(path, 0700);
        *c = '/';
    }
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void put_mount(const char *root, const char *where, const char *end)
{
    char line[PATH_MAX];
    snprintf(line, sizeof line, "31 23 0:28 / / rw - ext4 /dev/sda rw\n35 31 0:32 %s %s/%s rw,relatime shared:9 - %s\n",
             root, folder, where, end);
    put("self/mountinfo", line);
}

static int start(void **state)
{
    (void)state;
    strcpy(folder + strlen(folder) - 6, "XXXXXX");
    unsetenv("SLURM_MEM_PER_NODE");
    unsetenv("SLURM_MEM_PER_CPU");
    unsetenv("SLURM_CPUS_ON_NODE");
    return mkdtemp(folder) ? 0 : -1;
}

static int clean(void **state)
{
    (void)state;
    char command[PATH_MAX];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static int64_t least(char name[MEMORY_LIMIT_NAME])
{
    MemoryLimit limit[MEMORY_LIMITS];
    int count = memory_limits(folder, limit), found = 0;
    assert_in_range(count, 1, MEMORY_LIMITS);
    for (int k = 0; k < count; k++) {
        assert_true(limit[k].key != 0 && limit[k].bytes > 0);
        if (limit[k].bytes < limit[found].bytes) found = k;
    }
    strcpy(name, limit[found].name);
    return limit[found].bytes;
}

static void nothing_but_the_node(void **state)
{
    (void)state;
    char name[MEMORY_LIMIT_NAME];
    assert_int_equal(least(name), (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE));
    assert_string_equal(name, "the node's memory");
}

static void version_1_up_the_tree(void **state)
{
    (void)state;
    char name[MEMORY_LIMIT_NAME];
    int64_t available;
    put("self/cgroup", "5:cpu,cpuacct:/other\n4:memory:/slurm/job_7/step_0\n0::/\n");
    put_mount("/", "cg", "cgroup cgroup rw,nosuid,memory");
    put("cg/memory.limit_in_bytes", "9223372036854771712\n");
    put("cg/slurm/job_7/step_0/memory.limit_in_bytes", "9223372036854771712\n");
    put("cg/slurm/job_7/memory.limit_in_bytes", "104857600\n");
    put("cg/slurm/job_7/memory.usage_in_bytes", "73400320\n");
    put("cg/slurm/job_7/memory.stat", "cache 9\ninactive_file 1\ntotal_inactive_file 20971520\n");
    assert_int_equal(least(name), 100 * MB);
    assert_string_equal(name, "memory.limit_in_bytes of control group /slurm/job_7");
    assert_string_equal(memory_tightest(folder, &available).name, name);
    assert_int_equal(available, 50 * MB); /* what is cached can go */
}

static void version_2_up_the_tree(void **state)
{
    (void)state;
    char name[MEMORY_LIMIT_NAME];
    int64_t available;
    put("self/cgroup", "0::/slurm/job_7/task_0\n");
    put_mount("/", "cg two", "cgroup2 cgroup2 rw");
    char line[PATH_MAX]; /* as the kernel writes a blank */
    snprintf(line, sizeof line, "35 31 0:32 / %s/cg\\040two rw - cgroup2 cgroup2 rw\n", folder);
    put("self/mountinfo", line);
    put("cg two/slurm/memory.max", "209715200\n");
    put("cg two/slurm/memory.current", "199715200\n");
    put("cg two/slurm/job_7/memory.max", "max\n");
    put("cg two/slurm/job_7/memory.high", "157286400\n");
    put("cg two/slurm/job_7/memory.current", "1048576\n");
    put("cg two/slurm/job_7/task_0/memory.max", "max\n");
    assert_int_equal(least(name), 150 * MB);
    assert_string_equal(name, "memory.high of control group /slurm/job_7");
    /* the tightest for now is another one */
    assert_string_equal(memory_tightest(folder, &available).name, "memory.max of control group /slurm");
    assert_int_equal(available, 10000000);
}

/* The path in /proc/self/cgroup is that of the host, and what is mounted is the container's own part. */
static void container(void **state)
{
    (void)state;
    char name[MEMORY_LIMIT_NAME];
    put("self/cgroup", "4:memory:/docker/ab12/inner\n");
    put_mount("/docker/ab12", "cg", "cgroup cgroup rw,memory");
    put("cg/memory.limit_in_bytes", "52428800\n");
    put("cg/inner/memory.limit_in_bytes", "62914560\n");
    assert_int_equal(least(name), 50 * MB);
    put("self/cgroup", "4:memory:/../../elsewhere\n");
    assert_int_equal(least(name), 50 * MB);
    put("self/cgroup", "4:memory:/docker/other\n");
    assert_int_equal(least(name), 50 * MB);
    put("cg/memory.limit_in_bytes", "9223372036854771712\n");
    put("cg/memory.stat", "hierarchical_memory_limit 41943040\n"); /* of groups that cannot be seen from here */
    assert_int_equal(least(name), 40 * MB);
}

static void slurm(void **state)
{
    (void)state;
    char name[MEMORY_LIMIT_NAME];
    setenv("SLURM_MEM_PER_CPU", "16", 1);
    setenv("SLURM_CPUS_ON_NODE", "3", 1);
    assert_int_equal(least(name), 48 * MB);
    assert_string_equal(name, "SLURM_MEM_PER_CPU x SLURM_CPUS_ON_NODE");
    setenv("SLURM_MEM_PER_NODE", "40", 1);
    assert_int_equal(least(name), 40 * MB);
    assert_string_equal(name, "SLURM_MEM_PER_NODE");
    setenv("SLURM_MEM_PER_NODE", "0", 1); /* all of the node's */
    assert_int_equal(least(name), 48 * MB);
    setenv("SLURM_MEM_PER_CPU", "lots", 1);
    assert_true(least(name) > 48 * MB);
}

static void rubbish_is_passed_over(void **state)
{
    (void)state;
    char name[MEMORY_LIMIT_NAME];
    put("self/cgroup", "\n:\n4:memory\n0::/x\n");
    put("self/mountinfo",
        "\n - \n - cgroup2\n35 31 0:32 / /nowhere rw - cgroup2\n35 31 0:32 / /nowhere rw - cgroup2 c rw\n");
    put("meminfo", "MemAvailable: kB\n");
    assert_true(least(name) > 0);
    assert_string_equal(name, "the node's memory");
}

static void a_share_says_of_what(void **state)
{
    (void)state;
    setenv("SLURM_MEM_PER_NODE", "1", 1);
    MemoryShare share = memory_share_here(4);
    assert_true(share.bytes == 262144);
    assert_string_equal(share.of, "1/4 of SLURM_MEM_PER_NODE, 0.00105 GB");
    assert_string_equal(memory_share_here(1).of, "SLURM_MEM_PER_NODE, 0.00105 GB");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nothing_but_the_node, start, clean),
        cmocka_unit_test_setup_teardown(version_1_up_the_tree, start, clean),
        cmocka_unit_test_setup_teardown(version_2_up_the_tree, start, clean),
        cmocka_unit_test_setup_teardown(container, start, clean),
        cmocka_unit_test_setup_teardown(slurm, start, clean),
        cmocka_unit_test_setup_teardown(rubbish_is_passed_over, start, clean),
        cmocka_unit_test_setup_teardown(a_share_says_of_what, start, clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
