/* CRC-32C (Castagnoli), as record batch v2 uses it. Any thread. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* The checksum of BYTES continued from CRC (0 to begin). Uses the CPU's instruction where there is
 * one, three streams at a time; a table otherwise. */
uint32_t kq_crc32c(uint32_t crc, const void *bytes, size_t length);

/* The portable way, for machines without the instruction and for the test that compares them. */
uint32_t kq_crc32c_portable(uint32_t crc, const void *bytes, size_t length);
