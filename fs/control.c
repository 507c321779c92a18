/* The files of .kqfs: their text is made when they are opened. */
#include "fs/internal.h"

int kq_control_text(struct kq_fs *fs, enum kq_view view, struct kq_buf *ret)
{
    switch (view) {
    case KQ_VIEW_METRICS:
        return kq_broker_metrics(fs->broker, ret);
    case KQ_VIEW_VERSION:
        return kq_buf_append_string(ret, fs->options.version);
    case KQ_VIEW_CONFIG:
        return fs->options.config_text(fs->options.config_context, ret);
    default:
        return -EINVAL;
    }
}
