/* Types of values, in files and in memory, and which text is text. */
#include "private.h"

static const struct {
    const char *name;
    size_t size;
} types[] = {
    [DATA_UINT8] = { "uint8", 1 },     [DATA_INT8] = { "int8", 1 },     [DATA_INT32] = { "int32", 4 },
    [DATA_INT64] = { "int64", 8 },     [DATA_UINT64] = { "uint64", 8 }, [DATA_FLOAT32] = { "float32", 4 },
    [DATA_FLOAT64] = { "float64", 8 },
};

size_t data_size(DataType type) { return types[type].size; }
const char *data_name(DataType type) { return types[type].name; }

hid_t h5_file_type(DataType type)
{
    switch (type) {
    case DATA_UINT8: return H5T_STD_U8LE;
    case DATA_INT8: return H5T_STD_I8LE;
    case DATA_INT32: return H5T_STD_I32LE;
    case DATA_INT64: return H5T_STD_I64LE;
    case DATA_UINT64: return H5T_STD_U64LE;
    case DATA_FLOAT32: return H5T_IEEE_F32LE;
    case DATA_FLOAT64: return H5T_IEEE_F64LE;
    }
    return -1;
}

hid_t h5_memory_type(DataType type)
{
    switch (type) {
    case DATA_UINT8: return H5T_NATIVE_UINT8;
    case DATA_INT8: return H5T_NATIVE_INT8;
    case DATA_INT32: return H5T_NATIVE_INT32;
    case DATA_INT64: return H5T_NATIVE_INT64;
    case DATA_UINT64: return H5T_NATIVE_UINT64;
    case DATA_FLOAT32: return H5T_NATIVE_FLOAT;
    case DATA_FLOAT64: return H5T_NATIVE_DOUBLE;
    }
    return -1;
}

bool h5_is_type(hid_t found, DataType type)
{
    if (H5Tequal(found, h5_file_type(type)) > 0) return true;
    hid_t swapped = H5Tcopy(h5_file_type(type));
    bool same = swapped >= 0 && H5Tset_order(swapped, H5T_ORDER_BE) >= 0 && H5Tequal(found, swapped) > 0;
    if (swapped >= 0) H5Tclose(swapped);
    return same;
}

hid_t h5_text_type(size_t width)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    CHECK(type >= 0 && H5Tset_size(type, width) >= 0 && H5Tset_cset(type, H5T_CSET_UTF8) >= 0 &&
          H5Tset_strpad(type, H5T_STR_NULLPAD) >= 0);
    return type;
}

bool text_is_valid(const char *text)
{
    for (const unsigned char *c = (const unsigned char *)text; *c;) {
        int more = *c < 0x80                 ? 0
                   : *c >= 0xC2 && *c < 0xE0 ? 1
                   : *c >= 0xE0 && *c < 0xF0 ? 2
                   : *c >= 0xF0 && *c < 0xF5 ? 3
                                             : -1;
        if (more < 0 || (*c < ' ' && *c != '\n' && *c != '\t' && *c != '\r') || *c == 127) return false;
        unsigned second = c[1];
        if ((*c == 0xE0 && second < 0xA0) || (*c == 0xED && second > 0x9F) || (*c == 0xF0 && second < 0x90) ||
            (*c == 0xF4 && second > 0x8F))
            return false; /* overlong, surrogate, beyond Unicode */
        for (c++; more > 0; more--, c++)
            if ((*c & 0xC0) != 0x80) return false;
    }
    return true;
}
