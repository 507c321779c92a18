#include "broker/base/privileged.h"

#include <fcntl.h>
#include <stddef.h>

#include "broker/base/err.h"

static const struct kq_privileged *used;

void kq_privileged_use(const struct kq_privileged *privileged)
{
    used = privileged;
}

const struct kq_privileged *kq_privileged(void)
{
    return used;
}

int kq_privileged_open(const char *path)
{
    if (used)
        return used->open(used->context, path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    return fd < 0 ? -errno : fd;
}
