#include "catdpo/core/sha256.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { BLOCK = 64, ROUNDS = 64 };

static uint32_t turned(uint32_t x, int bits) { return x >> bits | x << (32 - bits); }

/* The first 32 bits of the fraction of the square or cube roots of the first primes. */
static void constants(uint32_t square[8], uint32_t cube[ROUNDS])
{
    int count = 0;
    for (int n = 2; count < ROUNDS; n++) {
        int divisor = 2;
        while (n % divisor != 0) divisor++;
        if (divisor != n) continue;
        long double a = sqrtl(n), b = cbrtl(n);
        if (count < 8) square[count] = (uint32_t)((a - floorl(a)) * 4294967296.0L);
        cube[count++] = (uint32_t)((b - floorl(b)) * 4294967296.0L);
    }
}

static void add_block(uint32_t state[8], const uint32_t cube[ROUNDS], const uint8_t *block)
{
    uint32_t w[ROUNDS], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 |
               block[4 * i + 3];
    for (int i = 16; i < ROUNDS; i++)
        w[i] = w[i - 16] + w[i - 7] + (turned(w[i - 15], 7) ^ turned(w[i - 15], 18) ^ w[i - 15] >> 3) +
               (turned(w[i - 2], 17) ^ turned(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(s, state, sizeof s);
    for (int i = 0; i < ROUNDS; i++) {
        uint32_t a = s[7] + (turned(s[4], 6) ^ turned(s[4], 11) ^ turned(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) +
                     cube[i] + w[i];
        uint32_t b =
            (turned(s[0], 2) ^ turned(s[0], 13) ^ turned(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += a;
        s[0] = a + b;
    }
    for (int i = 0; i < 8; i++) state[i] += s[i];
}

void sha256(const void *bytes, size_t size, char digest[SHA256_TEXT])
{
    uint32_t state[8], cube[ROUNDS];
    uint8_t last[2 * BLOCK] = { 0 };
    size_t whole = size / BLOCK * BLOCK, rest = size - whole, end = rest + 9 <= BLOCK ? BLOCK : 2 * BLOCK;
    constants(state, cube);
    for (size_t at = 0; at < whole; at += BLOCK) add_block(state, cube, (const uint8_t *)bytes + at);
    if (rest > 0) memcpy(last, (const uint8_t *)bytes + whole, rest);
    last[rest] = 0x80;
    for (int i = 0; i < 8; i++) last[end - 1 - (size_t)i] = (uint8_t)((uint64_t)size * 8 >> 8 * i);
    for (size_t at = 0; at < end; at += BLOCK) add_block(state, cube, last + at);
    for (int i = 0; i < 8; i++) snprintf(digest + 8 * i, 9, "%08x", state[i]);
}
