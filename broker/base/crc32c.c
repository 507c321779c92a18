#include "broker/base/crc32c.h"

#include <pthread.h>
#include <string.h>

#define POLYNOMIAL 0x82f63b78u /* reflected */

static uint32_t table[8][256];

static void make_table(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ POLYNOMIAL : crc >> 1;
        table[0][byte] = crc;
    }
    for (uint32_t byte = 0; byte < 256; byte++)
        for (int slice = 1; slice < 8; slice++)
            table[slice][byte] =
                table[slice - 1][byte] >> 8 ^ table[0][table[slice - 1][byte] & 0xff];
}

uint32_t kq_crc32c_portable(uint32_t crc, const void *bytes, size_t length)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    const uint8_t *at = bytes;
    pthread_once(&once, make_table);
    crc = ~crc;
    for (; length >= 8; length -= 8, at += 8) {
        crc ^=
            (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
        crc = table[7][crc & 0xff] ^ table[6][crc >> 8 & 0xff] ^ table[5][crc >> 16 & 0xff] ^
              table[4][crc >> 24] ^ table[3][at[4]] ^ table[2][at[5]] ^ table[1][at[6]] ^
              table[0][at[7]];
    }
    while (length--)
        crc = crc >> 8 ^ table[0][(crc ^ *at++) & 0xff];
    return ~crc;
}

#ifdef __x86_64__

/* Three streams of LANE bytes run side by side, since the instruction takes three cycles and one
 * can start each cycle; the lanes are joined by shifting a checksum over LANE zero bytes, which is
 * linear, hence a table look-up a byte. */
#define LANE_LONG 2048
#define LANE_SHORT 256

static uint32_t shift_long[4][256], shift_short[4][256];

/* MATRIX times VECTOR over GF(2). */
static uint32_t times(const uint32_t matrix[32], uint32_t vector)
{
    uint32_t sum = 0;
    for (int bit = 0; vector; vector >>= 1, bit++)
        if (vector & 1)
            sum ^= matrix[bit];
    return sum;
}

/* The table of "append ZEROS zero bytes", ZEROS a power of two. */
static void make_shift(uint32_t shift[4][256], size_t zeros)
{
    uint32_t matrix[32], square[32];
    matrix[0] = POLYNOMIAL; /* one zero bit */
    for (int bit = 1; bit < 32; bit++)
        matrix[bit] = 1u << (bit - 1);
    for (size_t bits = 1; bits < zeros * 8; bits *= 2) {
        for (int bit = 0; bit < 32; bit++)
            square[bit] = times(matrix, matrix[bit]);
        memcpy(matrix, square, sizeof(matrix));
    }
    for (uint32_t byte = 0; byte < 256; byte++)
        for (int place = 0; place < 4; place++)
            shift[place][byte] = times(matrix, byte << (8 * place));
}

static void make_shifts(void)
{
    make_shift(shift_long, LANE_LONG);
    make_shift(shift_short, LANE_SHORT);
}

static inline uint32_t shifted(const uint32_t shift[4][256], uint32_t crc)
{
    return shift[0][crc & 0xff] ^ shift[1][crc >> 8 & 0xff] ^ shift[2][crc >> 16 & 0xff] ^
           shift[3][crc >> 24];
}

static inline uint64_t load(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof(word));
    return word;
}

__attribute__((target("sse4.2"))) static uint64_t three_lanes(uint64_t crc, const uint8_t *at,
                                                              size_t lane,
                                                              const uint32_t shift[4][256])
{
    uint64_t second = 0, third = 0;
    for (size_t i = 0; i < lane; i += 8) {
        crc = __builtin_ia32_crc32di(crc, load(at + i));
        second = __builtin_ia32_crc32di(second, load(at + lane + i));
        third = __builtin_ia32_crc32di(third, load(at + 2 * lane + i));
    }
    crc = shifted(shift, (uint32_t)crc) ^ second;
    return shifted(shift, (uint32_t)crc) ^ third;
}

__attribute__((target("sse4.2"))) static uint32_t by_instruction(uint32_t start, const uint8_t *at,
                                                                 size_t length)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    uint64_t crc = ~start;
    if (length >= 3 * LANE_SHORT)
        pthread_once(&once, make_shifts);
    for (; length >= 3 * LANE_LONG; length -= 3 * LANE_LONG, at += 3 * LANE_LONG)
        crc = three_lanes(crc, at, LANE_LONG, shift_long);
    for (; length >= 3 * LANE_SHORT; length -= 3 * LANE_SHORT, at += 3 * LANE_SHORT)
        crc = three_lanes(crc, at, LANE_SHORT, shift_short);
    for (; length >= 8; length -= 8, at += 8)
        crc = __builtin_ia32_crc32di(crc, load(at));
    while (length--)
        crc = __builtin_ia32_crc32qi((uint32_t)crc, *at++);
    return ~(uint32_t)crc;
}

#endif

uint32_t kq_crc32c(uint32_t crc, const void *bytes, size_t length)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("sse4.2"))
        return by_instruction(crc, bytes, length);
#endif
    return kq_crc32c_portable(crc, bytes, length);
}
