/* Memory that a thread keeps between requests, so that serving one allocates nothing.
 *
 * Each thread that asks has its own; it is freed when the thread ends. Nothing in it survives the
 * request. */
#pragma once

#include "broker/base/buf.h"
#include "fs/frame.h"

struct kq_scratch {
    struct kq_buf window;          /* bytes of the log being decoded */
    struct kq_buf reply;           /* bytes on their way to the reader */
    struct kq_frame_output output; /* batches on their way to the log */
};

/* The calling thread's; NULL if there is no memory for it. */
struct kq_scratch *kq_scratch(void);
