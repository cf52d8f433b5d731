/* The node's memory, control groups and SLURM: the least of them counts. */
#include "catdpo/core/memory_limit.h"

#include "catdpo/core/error.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH = 2048 }; /* bytes of a path of a control group or of a line about one; longer ones are passed over */

typedef struct Limits {
    MemoryLimit *limit;
    int count;
    int64_t physical;
} Limits;

static void add(Limits *l, int64_t bytes, int64_t used, uint64_t key, const char *what, const char *where)
{
    if (l->count == MEMORY_LIMITS || bytes <= 0 || (l->count > 0 && bytes >= l->physical)) return;
    MemoryLimit *limit = &l->limit[l->count++];
    *limit = (MemoryLimit){ .bytes = bytes, .used = used < 0 ? 0 : used, .key = key };
    size_t length = strlen(where); /* the end of a long path tells more than its beginning */
    snprintf(limit->name, sizeof limit->name, "%.50s%s%.100s", what, length > 100 ? "..." : "",
             where + (length > 100 ? length - 100 : 0));
}

/* ---- files ---- */

/* The number behind `key`, or the whole file's if key is NULL; -1 if there is none ("max"). */
static int64_t read_number(const char *folder, const char *name, const char *key)
{
    char path[PATH + 64], line[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "r");
    int64_t value = -1;
    size_t length = key ? strlen(key) : 0;
    while (file && value < 0 && fgets(line, sizeof line, file)) {
        unsigned long long number;
        if (key && strncmp(line, key, length) != 0) continue;
        if (sscanf(line + length, "%llu", &number) == 1)
            value = number > INT64_MAX ? INT64_MAX : (int64_t)number;
        else if (!key)
            break;
    }
    if (file) fclose(file);
    return value;
}

/* ---- control groups ---- */

/* What differs between the versions; names of files in a group's folder. */
typedef struct Version {
    const char *type;       /* of the file system */
    const char *controller; /* in /proc/self/cgroup; "" is version 2 */
    const char *limits[2], *used, *cache;
} Version;

static const Version versions[] = {
    { "cgroup2", "", { "memory.max", "memory.high" }, "memory.current", "inactive_file " },
    { "cgroup", "memory", { "memory.limit_in_bytes", NULL }, "memory.usage_in_bytes", "total_inactive_file " },
};

static bool in_list(const char *list, const char *item)
{
    size_t length = strlen(item);
    for (; *list; list += strcspn(list, ",") + (list[strcspn(list, ",")] != '\0'))
        if (strcspn(list, ",\n") == length && strncmp(list, item, length) == 0) return true;
    return false;
}

/* The process's group within the hierarchy: "/slurm/job_7". */
static bool find_group(const char *proc, const Version *version, char group[PATH])
{
    char path[PATH], line[PATH];
    snprintf(path, sizeof path, "%s/self/cgroup", proc);
    FILE *file = fopen(path, "r");
    bool found = false;
    while (file && !found && fgets(line, sizeof line, file)) {
        char *controllers = strchr(line, ':'), *name = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!name) continue;
        *name++ = '\0';
        controllers++;
        if (*version->controller ? !in_list(controllers, version->controller) : *controllers != '\0') continue;
        name[strcspn(name, "\n")] = '\0';
        snprintf(group, PATH, "%s", name);
        found = true;
    }
    if (file) fclose(file);
    return found;
}

/* Blanks and the like are written as \040. */
static void unescape(char *text)
{
    char *out = text;
    for (char *c = text; *c; out++) {
        unsigned code;
        if (*c == '\\' && sscanf(c + 1, "%3o", &code) == 1) {
            *out = (char)code;
            c += 4;
        } else
            *out = *c++;
    }
    *out = '\0';
}

/* Where the hierarchy is mounted, and which group of it is there at the top. */
static bool find_mount(const char *proc, const Version *version, char root[PATH], char mount[PATH])
{
    char path[PATH], line[2 * PATH], type[64], options[512];
    snprintf(path, sizeof path, "%s/self/mountinfo", proc);
    FILE *file = fopen(path, "r");
    bool found = false;
    while (file && !found && fgets(line, sizeof line, file)) {
        char *rest = strstr(line, " - ");
        found = rest && sscanf(line, "%*s %*s %*s %2047s %2047s", root, mount) == 2 &&
                sscanf(rest + 3, "%63s %*s %511s", type, options) == 2 && strcmp(type, version->type) == 0 &&
                (!*version->controller || in_list(options, version->controller));
    }
    if (file) fclose(file);
    if (!found) return false;
    unescape(root);
    unescape(mount);
    return true;
}

static void add_group(Limits *l, const Version *version, const char *folder, const char *name)
{
    struct stat at;
    if (stat(folder, &at) != 0) return;
    uint64_t key = ((uint64_t)at.st_ino * 0x9E3779B97F4A7C15u ^ (uint64_t)at.st_dev) | 1;
    int64_t used = read_number(folder, version->used, NULL), cache = read_number(folder, "memory.stat", version->cache);
    for (int k = 0; k < 2 && version->limits[k]; k++) {
        char what[50];
        snprintf(what, sizeof what, "%s of control group ", version->limits[k]);
        add(l, read_number(folder, version->limits[k], NULL), used - (cache > 0 ? cache : 0), key, what, name);
    }
}

/* From the process's own group up to the top that can be seen. */
static void add_groups(Limits *l, const char *proc, const Version *version)
{
    char group[PATH], root[PATH], mount[PATH], folder[2 * PATH];
    if (!find_group(proc, version, group) || !find_mount(proc, version, root, mount)) return;
    /* in a container the top is often the container's own group, and the path that of the outside */
    size_t above = strcmp(root, "/") == 0 ? 0 : strlen(root);
    bool below = strncmp(group, root, above) == 0 && strncmp(group, "/..", 3) != 0;
    int length = snprintf(folder, sizeof folder, "%s%s", mount, below ? group + above : "");
    size_t top = strlen(mount);
    if (length >= PATH) return;
    while (length > 1 && folder[length - 1] == '/') folder[--length] = '\0';
    int64_t inherited = *version->controller ? read_number(folder, "memory.stat", "hierarchical_memory_limit ") : -1;
    for (;;) {
        add_group(l, version, folder, folder[top] ? folder + top : "/");
        char *slash = strrchr(folder, '/');
        if (strlen(folder) <= top || !slash) break;
        *slash = '\0';
    }
    add(l, inherited, 0, UINT64_MAX, "hierarchical_memory_limit of control group ", group);
}

/* ---- SLURM ---- */

/* Megabytes in an environment variable; 0 if it is not there or says "all". */
static int64_t megabytes(const char *name)
{
    const char *text = getenv(name);
    char *end;
    long long value = text ? strtoll(text, &end, 10) : 0;
    return text && end != text && !*end && value > 0 && value < INT64_MAX >> 20 ? value << 20 : 0;
}

static void add_slurm(Limits *l, const char *proc)
{
    const char *cpus = getenv("SLURM_CPUS_ON_NODE");
    long count = cpus ? strtol(cpus, NULL, 10) : 0;
    int64_t node = megabytes("SLURM_MEM_PER_NODE"), cpu = megabytes("SLURM_MEM_PER_CPU"),
            used = read_number(proc, "self/status", "VmRSS:") * 1024;
    add(l, node, used, UINT64_MAX - 1, "SLURM_MEM_PER_NODE", "");
    if (count > 0 && cpu < INT64_MAX / count)
        add(l, cpu * count, used, UINT64_MAX - 2, "SLURM_MEM_PER_CPU x SLURM_CPUS_ON_NODE", "");
}

/* ---- what of it is ours ---- */

int memory_limits(const char *proc, MemoryLimit limit[MEMORY_LIMITS])
{
    Limits l = { .limit = limit, .physical = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE) };
    int64_t available = read_number(proc, "meminfo", "MemAvailable:");
    available = available < 0 || available > INT64_MAX / 1024 ? l.physical : available * 1024;
    add(&l, l.physical, l.physical - available, UINT64_MAX - 3, "the node's memory", "");
    for (size_t v = 0; v < sizeof versions / sizeof *versions; v++) add_groups(&l, proc, &versions[v]);
    add_slurm(&l, proc);
    return l.count;
}

MemoryLimit memory_tightest(const char *proc, int64_t *available)
{
    MemoryLimit limit[MEMORY_LIMITS], tightest = { .bytes = INT64_MAX, .name = "memory" };
    int count = memory_limits(proc, limit);
    for (int k = 0; k < count; k++)
        if (limit[k].bytes - limit[k].used < tightest.bytes - tightest.used) tightest = limit[k];
    *available = tightest.bytes > tightest.used ? tightest.bytes - tightest.used : 0;
    return tightest;
}

static MemoryShare share_of(const MemoryLimit *limit, int ranks)
{
    MemoryShare share = { .bytes = (double)limit->bytes / ranks };
    char part[32] = "";
    if (ranks > 1) snprintf(part, sizeof part, "1/%d of ", ranks);
    snprintf(share.of, sizeof share.of, "%s%s, %.3g GB", part, limit->name, (double)limit->bytes / 1e9);
    return share;
}

MemoryShare memory_share_here(int ranks)
{
    MemoryLimit limit[MEMORY_LIMITS];
    int count = memory_limits("/proc", limit), least = 0;
    CHECK(count > 0);
    for (int k = 1; k < count; k++)
        if (limit[k].bytes < limit[least].bytes) least = k;
    return share_of(&limit[least], ranks);
}

/* How many of the node's ranks each of the limits holds for. Collective over node. */
static void count_ranks(MPI_Comm node, const MemoryLimit *limit, int count, int ranks[MEMORY_LIMITS])
{
    uint64_t mine[MEMORY_LIMITS] = { 0 };
    int size;
    CHECK_MPI(MPI_Comm_size(node, &size));
    for (int k = 0; k < count; k++) mine[k] = limit[k].key;
    uint64_t *all = calloc((size_t)size, sizeof mine);
    /* without it every limit counts as shared by all: less is taken, not more */
    int ok = all != NULL, all_ok;
    CHECK_MPI(MPI_Allreduce(&ok, &all_ok, 1, MPI_INT, MPI_MIN, node));
    if (all_ok) CHECK_MPI(MPI_Allgather(mine, MEMORY_LIMITS, MPI_UINT64_T, all, MEMORY_LIMITS, MPI_UINT64_T, node));
    for (int k = 0; k < count; k++) {
        ranks[k] = all_ok ? 0 : size;
        for (int r = 0; all_ok && r < size; r++) {
            bool shares = false;
            for (int j = 0; j < MEMORY_LIMITS; j++) shares |= all[r * MEMORY_LIMITS + j] == mine[k];
            ranks[k] += shares;
        }
    }
    free(all);
}

MemoryShare memory_share(MPI_Comm world)
{
    MPI_Comm node;
    MemoryLimit limit[MEMORY_LIMITS];
    int ranks[MEMORY_LIMITS], count = memory_limits("/proc", limit);
    CHECK(count > 0);
    CHECK_MPI(MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node));
    count_ranks(node, limit, count, ranks);
    CHECK_MPI(MPI_Comm_free(&node));
    MemoryShare share = share_of(&limit[0], ranks[0]);
    for (int k = 1; k < count; k++) {
        MemoryShare other = share_of(&limit[k], ranks[k]);
        if (other.bytes < share.bytes) share = other;
    }
    struct {
        double bytes;
        int rank;
    } mine = { share.bytes, 0 }, least;
    CHECK_MPI(MPI_Comm_rank(world, &mine.rank));
    CHECK_MPI(MPI_Allreduce(&mine, &least, 1, MPI_DOUBLE_INT, MPI_MINLOC, world));
    CHECK_MPI(MPI_Bcast(&share, sizeof share, MPI_BYTE, least.rank, world));
    return share;
}
