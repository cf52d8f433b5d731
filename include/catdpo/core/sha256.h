/* SHA-256 (FIPS 180-4), by which catdpo-analysis names tokenizers. */
#ifndef CATDPO_CORE_SHA256_H
#define CATDPO_CORE_SHA256_H

#include <stddef.h>

enum { SHA256_TEXT = 65 }; /* 64 hexadecimal digits and a NUL */

/* Of `size` bytes. Not collective. */
void sha256(const void *bytes, size_t size, char digest[SHA256_TEXT]);

#endif
