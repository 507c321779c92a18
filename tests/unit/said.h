/* What the code under test told its operator: the last line, and how many there were. */
#pragma once

#include <stdio.h>
#include <string.h>

#include "broker/base/diag.h"

static char said[1024];
static int said_count;

static inline void said_tap(int priority, const char *line)
{
    snprintf(said, sizeof(said), "%s", line);
    said_count++;
}

static inline void said_clear(void)
{
    kq_diag_set_tap(said_tap);
    said[0] = '\0';
    said_count = 0;
}
