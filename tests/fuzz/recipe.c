/* Recipes: what a hostile writer could do to a file with HDF5 itself. Steps that HDF5 refuses are left out. */
#include "fuzz.h"

#include "catdpo/h5/checksum.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS_MOST = 12, PLACES_MOST = 512, NAME = 128, VALUE_MOST = 1 << 12, ATTRIBUTE_MOST = 1 << 18 };

/* ---- bytes ---- */

uint8_t recipe_byte(Recipe *r)
{
    if (r->left == 0) return 0;
    r->left--;
    return *r->next++;
}

static void recipe_bytes(Recipe *r, void *bytes, size_t size)
{
    size_t have = r->left < size ? r->left : size;
    if (have > 0) memcpy(bytes, r->next, have);
    memset((char *)bytes + have, 0, size - have);
    r->next += have;
    r->left -= have;
}

uint64_t recipe_number(Recipe *r)
{
    static const uint64_t interesting[] = { 0,
                                            1,
                                            2,
                                            3,
                                            4,
                                            5,
                                            6,
                                            7,
                                            8,
                                            9,
                                            12,
                                            16,
                                            31,
                                            32,
                                            33,
                                            63,
                                            64,
                                            65,
                                            127,
                                            128,
                                            255,
                                            256,
                                            1023,
                                            1024,
                                            1025,
                                            65535,
                                            65536,
                                            65537,
                                            1 << 20,
                                            INT32_MAX,
                                            (uint64_t)INT32_MAX + 1,
                                            UINT32_MAX,
                                            (uint64_t)1 << 32,
                                            (uint64_t)1 << 40,
                                            (uint64_t)1 << 60,
                                            INT64_MAX / 16,
                                            INT64_MAX / 8,
                                            INT64_MAX - 1,
                                            INT64_MAX,
                                            (uint64_t)1 << 63,
                                            UINT64_MAX - 1,
                                            UINT64_MAX };
    uint8_t choice = recipe_byte(r);
    uint64_t any;
    if (choice < 200) return interesting[choice % (sizeof interesting / sizeof *interesting)];
    recipe_bytes(r, &any, sizeof any);
    return choice % 2 ? any : any % 64;
}

/* Bytes of a value: those of the recipe over and over, or a number of the type's width that is worth trying. */
static void recipe_fill(Recipe *r, uint8_t *bytes, size_t size)
{
    static const double reals[] = { 0, 1, -1, NAN, INFINITY, -INFINITY, 1e308, 1e-320, -0.0, 0.5, 1e30, 1e-30 };
    uint8_t choice = recipe_byte(r);
    uint64_t number = recipe_number(r);
    double real = reals[choice % (sizeof reals / sizeof *reals)];
    float narrow = (float)real;
    for (size_t i = 0; i < size; i++)
        bytes[i] = choice % 4 == 0   ? ((uint8_t *)&number)[i % 8]
                   : choice % 4 == 1 ? ((uint8_t *)&real)[i % 8]
                   : choice % 4 == 2 ? ((uint8_t *)&narrow)[i % 4]
                   : r->left > 0     ? r->next[i % r->left]
                                     : (uint8_t)'x';
}

/* ---- places ---- */

typedef struct Places {
    hid_t file;
    int count;
    struct {
        char object[NAME], attribute[NAME];
    } place[PLACES_MOST]; /* attribute "": the object itself */
} Places;

static void add_place(Places *p, const char *object, const char *attribute)
{
    if (p->count >= PLACES_MOST) return;
    snprintf(p->place[p->count].object, NAME, "%s%.120s", strcmp(object, ".") == 0 ? "" : "/",
             strcmp(object, ".") == 0 ? "/" : object);
    snprintf(p->place[p->count++].attribute, NAME, "%.120s", attribute);
}

typedef struct Visit {
    Places *places;
    const char *object;
} Visit;

static herr_t visit_attribute(hid_t id, const char *name, const H5A_info_t *info, void *context)
{
    (void)id, (void)info;
    add_place(((Visit *)context)->places, ((Visit *)context)->object, name);
    return 0;
}

static herr_t visit_object(hid_t id, const char *name, const H5O_info_t *info, void *context)
{
    (void)info;
    Visit visit = { context, name };
    hid_t object = H5Oopen(id, name, H5P_DEFAULT);
    add_place(context, name, "");
    if (object >= 0) {
        H5Aiterate2(object, H5_INDEX_NAME, H5_ITER_INC, NULL, visit_attribute, &visit);
        H5Oclose(object);
    }
    return 0;
}

/* ---- types, spaces, storage ---- */

static hid_t text_type(size_t size)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, size);
    return type;
}

static hid_t compound_of(hid_t member, size_t size)
{
    hid_t type = H5Tcreate(H5T_COMPOUND, size);
    H5Tinsert(type, "member", 0, member);
    return type;
}

static hid_t recipe_type(Recipe *r)
{
    const hid_t plain[] = { H5T_STD_I8LE,   H5T_STD_U8LE,    H5T_STD_I16LE,      H5T_STD_I32LE,  H5T_STD_I32BE,
                            H5T_STD_U32LE,  H5T_STD_I64LE,   H5T_STD_I64BE,      H5T_STD_U64LE,  H5T_STD_U64BE,
                            H5T_IEEE_F32LE, H5T_IEEE_F32BE,  H5T_IEEE_F64LE,     H5T_IEEE_F64BE, H5T_STD_B64LE,
                            H5T_UNIX_D32LE, H5T_STD_REF_OBJ, H5T_STD_REF_DSETREG };
    const int count = sizeof plain / sizeof *plain;
    uint8_t choice = recipe_byte(r);
    hid_t base = H5Tcopy(plain[recipe_byte(r) % count]), type = -1;
    size_t size = H5Tget_size(base);
    int8_t zero = 0;
    switch (choice % 14) {
    case 0: type = text_type(H5T_VARIABLE); break;
    case 1: type = H5Tvlen_create(base); break;
    case 2: type = compound_of(base, size + choice % 3); break;
    case 3: type = H5Tarray_create2(base, 1, (hsize_t[]){ 1 + recipe_byte(r) }); break;
    case 4: type = H5Tenum_create(H5T_STD_I8LE), H5Tenum_insert(type, "FALSE", &zero); break;
    case 5: type = H5Tcreate(H5T_OPAQUE, 1 + recipe_byte(r)); break;
    case 6:
        type = H5Tcopy(base), H5Tset_precision(type, 1 + recipe_byte(r) % (8 * size)),
        H5Tset_offset(type, recipe_byte(r) % 8);
        break;
    case 7: type = H5Tcopy(base), H5Tset_size(type, 1 + recipe_byte(r) % 40); break;
    case 8:
    case 9:
    case 10:
        type = text_type(1 + recipe_number(r) % ATTRIBUTE_MOST),
        H5Tset_cset(type, choice % 2 ? H5T_CSET_UTF8 : H5T_CSET_ASCII);
        H5Tset_strpad(type, (H5T_str_t)(choice / 14 % 3));
        break;
    default: return base;
    }
    H5Tclose(base);
    return type;
}

/* `like` >= 0: the extents to begin with. */
static hid_t recipe_space(Recipe *r, hid_t like)
{
    hsize_t dims[H5S_MAX_RANK], most[H5S_MAX_RANK];
    uint8_t choice = recipe_byte(r);
    int axes = like >= 0 ? H5Sget_simple_extent_ndims(like) : 0;
    if (choice % 8 == 0) return H5Screate(H5S_NULL);
    if (choice % 8 == 1) return H5Screate(H5S_SCALAR);
    if (axes <= 0 || choice % 8 == 2) axes = 1 + (choice / 8 == 31 ? H5S_MAX_RANK - 1 : choice / 8 % 5), like = -1;
    for (int i = 0; i < axes; i++) dims[i] = 1;
    if (like >= 0) H5Sget_simple_extent_dims(like, dims, NULL);
    for (int i = 0; i < axes && choice % 8 != 3; i++) {
        uint8_t how = recipe_byte(r);
        if (how % 4 == 0) dims[i] = recipe_number(r);
        if (how % 4 == 1) dims[i] += how % 8 == 1 ? 1 : -1;
    }
    for (int i = 0; i < axes; i++) most[i] = choice & 128 ? H5S_UNLIMITED : dims[i];
    return H5Screate_simple(axes, dims, most);
}

/* No more than `most` bytes? (HDF5's own count of the elements overflows.) */
static bool is_small(hid_t type, hid_t space, size_t most)
{
    hsize_t dims[H5S_MAX_RANK], bytes = H5Tget_size(type);
    int axes = H5Sget_simple_extent_dims(space, dims, NULL);
    for (int i = 0; i < axes; i++)
        if (__builtin_mul_overflow(bytes, dims[i], &bytes)) return false;
    return bytes <= most;
}

static hid_t recipe_storage(Recipe *r, hid_t space, hid_t type)
{
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    hsize_t chunk[H5S_MAX_RANK], dims[H5S_MAX_RANK], room = VALUE_MOST;
    int axes = H5Sget_simple_extent_ndims(space);
    uint8_t choice = recipe_byte(r);
    if (axes > 0) H5Sget_simple_extent_dims(space, dims, NULL);
    for (int i = 0; i < axes; i++) { /* HDF5 holds whole chunks in memory */
        chunk[i] = choice & 64 ? 1 + recipe_byte(r) : dims[i] > 0 && dims[i] < 64 ? dims[i] : 4;
        if (chunk[i] > room) chunk[i] = room;
        room /= chunk[i];
    }
    H5Pset_alloc_time(list, is_small(type, space, ATTRIBUTE_MOST) ? (H5D_alloc_time_t)(choice / 16 % 4)
                                                                  : H5D_ALLOC_TIME_INCR);
    if (choice & 128) H5Pset_fill_time(list, H5D_FILL_TIME_NEVER);
    switch (choice % 12) {
    case 0: H5Pset_layout(list, H5D_COMPACT); break;
    case 1: H5Pset_external(list, "/dev/zero", 0, H5F_UNLIMITED); break;
    case 2: H5Pset_virtual(list, space, "/dev/null", "/x", space); break;
    case 3:
    case 4:
    case 5:
    case 6:
    case 7:
    case 8:
        H5Pset_chunk(list, axes, chunk);
        if (choice % 12 == 4) H5Pset_deflate(list, 9);
        if (choice % 12 == 5) H5Pset_shuffle(list);
        if (choice % 12 == 6) H5Pset_fletcher32(list);
        if (choice % 12 == 7) H5Pset_scaleoffset(list, H5Z_SO_INT, H5Z_SO_INT_MINBITS_DEFAULT);
        break;
    default: break;
    }
    uint8_t *value = calloc(1, H5Tget_size(type));
    if (value && choice % 5 == 0 && H5Tdetect_class(type, H5T_VLEN) <= 0 && H5Tis_variable_str(type) <= 0) {
        recipe_fill(r, value, H5Tget_size(type));
        H5Pset_fill_value(list, type, value);
    }
    free(value);
    return list;
}

/* Memory for all elements, filled; NULL: too many, or none. */
static void *recipe_values(Recipe *r, hid_t type, hid_t space)
{
    hssize_t points = H5Sget_simple_extent_npoints(space);
    size_t size = H5Tget_size(type);
    if (points <= 0 || size == 0 || !is_small(type, space, VALUE_MOST)) return NULL;
    uint8_t *values = malloc((size_t)points * size);
    CHECK(values);
    H5T_class_t class = H5Tget_class(type);
    bool plain = class == H5T_INTEGER || class == H5T_FLOAT || class == H5T_BITFIELD || class == H5T_OPAQUE ||
                 class == H5T_TIME || (class == H5T_STRING && H5Tis_variable_str(type) == 0);
    if (plain)
        recipe_fill(r, values, (size_t)points * size);
    else
        memset(values, 0, (size_t)points * size); /* no pointers from the recipe */
    for (hssize_t i = 0; !plain && class == H5T_STRING && i < points; i++) ((const char **)values)[i] = "variable";
    return values;
}

/* ---- steps ---- */

static void put_attribute(Recipe *r, hid_t object, const char *name)
{
    hid_t type = recipe_type(r), space = recipe_byte(r) % 4 ? H5Screate(H5S_SCALAR) : recipe_space(r, -1);
    if (H5Aexists(object, name) > 0) H5Adelete(object, name);
    hid_t attribute =
        is_small(type, space, ATTRIBUTE_MOST) ? H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT) : -1;
    void *values = attribute >= 0 ? recipe_values(r, type, space) : NULL;
    if (values) H5Awrite(attribute, type, values);
    free(values);
    if (attribute >= 0) H5Aclose(attribute);
    H5Sclose(space);
    H5Tclose(type);
}

static void put_dataset(Recipe *r, hid_t file, const char *name)
{
    hid_t old = H5Dopen2(file, name, H5P_DEFAULT), like = old >= 0 ? H5Dget_space(old) : -1;
    uint8_t keep = recipe_byte(r); /* what to keep of it: the type, the shape */
    hid_t type = old >= 0 && keep % 2 ? H5Dget_type(old) : recipe_type(r);
    hid_t space = old >= 0 && keep % 4 >= 2 ? H5Scopy(like) : recipe_space(r, like);
    hid_t storage = recipe_storage(r, space, type), links = H5Pcreate(H5P_LINK_CREATE);
    if (old >= 0) H5Sclose(like), H5Dclose(old);
    H5Pset_create_intermediate_group(links, 1);
    H5Ldelete(file, name, H5P_DEFAULT);
    hid_t set = H5Dcreate2(file, name, type, space, links, storage, H5P_DEFAULT);
    void *values = set >= 0 && keep % 8 != 7 ? recipe_values(r, type, space) : NULL;
    if (values) H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
    free(values);
    if (set >= 0) H5Dclose(set);
    H5Pclose(links), H5Pclose(storage), H5Sclose(space), H5Tclose(type);
}

/* The checksum that the program keeps for a dataset, so that wrong values come further. */
static void mend_checksum(hid_t set, const void *values, size_t bytes)
{
    uint64_t sum = checksum_words(values, (int64_t)(bytes / 4), 0, 1);
    if (H5Aexists(set, "checksum") <= 0) return;
    hid_t attribute = H5Aopen(set, "checksum", H5P_DEFAULT);
    if (attribute < 0) return;
    H5Awrite(attribute, H5T_NATIVE_UINT64, &sum);
    H5Aclose(attribute);
}

/* Some bytes of the values, whatever they are. */
static void poke_dataset(Recipe *r, hid_t file, const char *name)
{
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    if (set < 0) return;
    hid_t type = H5Dget_type(set), space = H5Dget_space(set);
    hssize_t points = H5Sget_simple_extent_npoints(space);
    size_t size = H5Tget_size(type);
    bool plain = H5Tget_class(type) == H5T_INTEGER || H5Tget_class(type) == H5T_FLOAT ||
                 (H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0);
    if (plain && points > 0 && is_small(type, space, VALUE_MOST)) {
        uint8_t *values = calloc((size_t)points, size);
        CHECK(values);
        H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
        uint8_t how = recipe_byte(r);
        recipe_fill(r, values + (size_t)recipe_byte(r) % (size_t)points * size, size);
        H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
        if (how % 2) mend_checksum(set, values, (size_t)points * size);
        free(values);
    }
    H5Sclose(space), H5Tclose(type), H5Dclose(set);
}

static void resize_dataset(Recipe *r, hid_t file, const char *name)
{
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    if (set < 0) return;
    hid_t space = H5Dget_space(set), type = H5Dget_type(set), list = H5Dget_create_plist(set);
    hsize_t dims[H5S_MAX_RANK];
    H5D_alloc_time_t when = H5D_ALLOC_TIME_EARLY;
    int axes = H5Sget_simple_extent_dims(space, dims, NULL);
    for (int i = 0; i < axes; i++) dims[i] = recipe_number(r);
    hid_t wanted = axes > 0 ? H5Screate_simple(axes, dims, NULL) : -1;
    H5Pget_alloc_time(list, &when);
    /* HDF5 goes over all chunks that shrinking cuts off, whether they are there or not, and makes all that growing adds
     * early */
    bool quick = is_small(type, space, ATTRIBUTE_MOST) &&
                 (when != H5D_ALLOC_TIME_EARLY || is_small(type, wanted, ATTRIBUTE_MOST));
    if (wanted >= 0 && quick) H5Dset_extent(set, dims);
    if (wanted >= 0) H5Sclose(wanted);
    H5Pclose(list), H5Tclose(type), H5Sclose(space), H5Dclose(set);
}

static void replace_by_link(Recipe *r, hid_t file, const char *name, const char *other)
{
    uint8_t kind = recipe_byte(r);
    if (strcmp(name, "/") == 0) name = "/extra";
    H5Ldelete(file, name, H5P_DEFAULT);
    switch (kind % 5) {
    case 0: H5Lcreate_soft(kind & 32 ? name : other, file, name, H5P_DEFAULT, H5P_DEFAULT); break;
    case 1: H5Lcreate_external(kind & 32 ? "/dev/zero" : "none.h5", other, file, name, H5P_DEFAULT, H5P_DEFAULT); break;
    case 2: H5Lcreate_hard(file, other, file, name, H5P_DEFAULT, H5P_DEFAULT); break;
    case 3: {
        hid_t group = H5Gcreate2(file, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
        if (group >= 0) H5Gclose(group);
        break;
    }
    case 4: {
        hid_t type = recipe_type(r);
        H5Tcommit2(file, name, type, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
        H5Tclose(type);
        break;
    }
    }
}

static void add_members(Recipe *r, hid_t file, const char *name)
{
    char path[2 * NAME];
    hid_t object = H5Oopen(file, name, H5P_DEFAULT);
    if (object < 0) return;
    int count = recipe_byte(r) % 40, length = recipe_byte(r) % 100;
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%d%.*s%s", i, length,
                 "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn", i % 3 ? "" : "\xff\x1b");
        hid_t group = H5Iget_type(object) == H5I_GROUP && length % 2
                          ? H5Gcreate2(object, path, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT)
                          : -1;
        if (group >= 0)
            H5Gclose(group);
        else
            put_attribute(r, object, path);
    }
    H5Oclose(object);
}

static void step(Recipe *r, const Places *p)
{
    uint8_t kind = recipe_byte(r);
    unsigned at = recipe_byte(r);
    if (p->count > 256) at += 256u * recipe_byte(r);
    const char *object = p->place[at % p->count].object, *attribute = p->place[at % p->count].attribute;
    const char *other = p->place[recipe_byte(r) % p->count].object;
    if (*attribute && kind % 8 < 6) {
        hid_t id = H5Oopen(p->file, object, H5P_DEFAULT);
        if (id < 0) return;
        if (kind % 8 == 0)
            H5Adelete(id, attribute);
        else
            put_attribute(r, id, attribute);
        H5Oclose(id);
        return;
    }
    switch (kind % 8) {
    case 0: H5Ldelete(p->file, object, H5P_DEFAULT); break;
    case 1:
    case 2: put_dataset(r, p->file, object); break;
    case 3:
    case 4: poke_dataset(r, p->file, object); break;
    case 5: resize_dataset(r, p->file, object); break;
    case 6: replace_by_link(r, p->file, object, other); break;
    case 7: add_members(r, p->file, object); break;
    }
}

typedef struct Spoiling {
    Recipe *recipe;
    const char *path;
} Spoiling;

static void spoil(void *context)
{
    static Places places;
    Spoiling *s = context;
    places.file = H5Fopen(s->path, H5F_ACC_RDWR, H5P_DEFAULT);
    CHECK(places.file >= 0);
    H5Ovisit(places.file, H5_INDEX_NAME, H5_ITER_INC, visit_object, &places);
    for (int i = 0; i < STEPS_MOST && s->recipe->left > 0; i++) step(s->recipe, &places);
    H5Fclose(places.file);
}

void recipe_spoil(Recipe *r, const char *path) { fuzz_child(spoil, &(Spoiling){ r, path }); }
