/* Numbers by chance that are the same in every run. */
#pragma once

#include <stdint.h>

static uint64_t chance_state = 1;

static inline uint64_t chance(uint64_t below)
{
    uint64_t word = chance_state += 0x9e3779b97f4a7c15u;
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9u;
    word = (word ^ word >> 27) * 0x94d049bb133111ebu;
    return (word ^ word >> 31) % below;
}
