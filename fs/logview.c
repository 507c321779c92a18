#include "fs/logview.h"

#include <errno.h>

#define IDENTITY_BYTES 512

size_t kq_log_run_limit(int64_t position, size_t size)
{
    return position == 0 && size == IDENTITY_BYTES ? IDENTITY_BYTES - 1 : size;
}

static void begin(struct kq_log_run *run, int64_t position, int64_t start, bool into_hole)
{
    int64_t shift = into_hole && position < start ? start - position : 0;
    *run = (struct kq_log_run){.next = position, .shift = shift, .started = true};
}

int kq_log_run_place(struct kq_log_run *run, int64_t position, int64_t start, int64_t *ret_text)
{
    bool goes_on = run->started && position == run->next;
    if (!goes_on || position == 0)
        begin(run, position, start, position == 0 || !run->started);
    if (run->overtaken || position + run->shift < start) {
        run->overtaken = true;
        return -ESTALE;
    }
    *ret_text = position + run->shift;
    return 0;
}

bool kq_log_run_may_skip(const struct kq_log_run *run, int64_t position)
{
    return position == 0 || !run->started || position == run->next;
}

void kq_log_run_skip(struct kq_log_run *run, int64_t position, int64_t text)
{
    run->shift = text - position;
}

void kq_log_run_advance(struct kq_log_run *run, int64_t length)
{
    run->next += length;
}
