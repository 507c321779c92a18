/* A directory of a test's own, and its end with all that is in it. */
#pragma once

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define DIRECTORY_BYTES 64

/* Makes one in PARENT, or in $TMPDIR or /tmp where that is NULL; its path goes into RET. */
static inline void directory_make(char ret[DIRECTORY_BYTES], const char *parent)
{
    const char *base = parent ? parent : getenv("TMPDIR");
    snprintf(ret, DIRECTORY_BYTES, "%.40s/kqfs-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(ret)) {
        perror(ret);
        abort();
    }
}

static inline int directory_remove_entry(const char *path, const struct stat *st, int type,
                                         struct FTW *where)
{
    (void)st, (void)type, (void)where;
    return remove(path);
}

/* 0; -1 where something is left. No link is followed; nothing there is fine. */
static inline int directory_remove(const char *path)
{
    return nftw(path, directory_remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}
