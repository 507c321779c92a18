#include "broker/groups.h"
#include "broker/metrics.h"
#include "fs/internal.h"

static struct kq_metric failures = {
    .name = "kqfs_fuse_failures_total",
    .help = "Requests of the mount that were answered with an error.",
    .type = KQ_COUNTER,
};

void kq_errmap_register_metrics(void)
{
    kq_metric_register(&failures);
}

/* What a condition means to one who holds a file; those that no user should meet are EIO. */
static int errno_of_condition(int condition)
{
    switch (condition) {
    case KQ_GONE:
    case KQ_HOLE:
        return ESTALE;
    case KQ_BEYOND:
        return ENOENT;
    case KQ_WOULD_BLOCK:
    case KQ_GROUP_LOADING:
    case KQ_GROUP_NOT_AVAILABLE:
        return EAGAIN;
    case KQ_GROUP_OWNED:
    case KQ_GROUP_NOT_EMPTY:
    case KQ_GROUP_SUBSCRIBED:
        return EBUSY;
    case KQ_GROUP_NOT_FOUND:
        return ENOENT;
    case KQ_GROUP_INVALID_ID:
        return EINVAL;
    case KQ_GROUP_TOO_LARGE:
        return EDQUOT;
    case KQ_GROUP_COMMIT_LARGE:
        return EMSGSIZE;
    default:
        return EIO;
    }
}

int kq_fs_errno(int r)
{
    kq_metric_add(&failures, 1);
    if (r > 0)
        return errno_of_condition(r);
    switch (-r) {
    case EBADMSG: /* damaged data: a reader knows EIO */
    case EPROTO:
    case ESHUTDOWN:
        return EIO;
    case EFBIG: /* of a message; EFBIG would speak of the file's size */
        return EMSGSIZE;
    case ENOSYS: /* the kernel would never ask again, for any file */
        return EOPNOTSUPP;
    default:
        return -r;
    }
}
