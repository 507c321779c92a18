/* Memory that a thread keeps between requests, so that checking a batch allocates nothing.
 *
 * Each thread that asks has its own; it is freed when the thread ends. Nothing in it survives the
 * request. */
#pragma once

#include "broker/base/buf.h"

/* The calling thread's; NULL if there is no memory for it. */
struct kq_buf *kq_net_scratch(void);
