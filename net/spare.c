#include "net/spare.h"

#include <malloc.h>
#include <stdlib.h>

#define KEPT_FOR_NS INT64_C(1000000000)

void kq_spares_release(struct kq_spares *spares)
{
    while (spares->count)
        free(spares->at[--spares->count]);
}

static void expire(struct kq_timer *timer)
{
    struct kq_spares *spares =
        (struct kq_spares *)((char *)timer - offsetof(struct kq_spares, timer));
    struct kq_loop *loop = spares->loop;
    if (spares->used)
        kq_loop_set_timer(loop, timer, loop->now_ns + KEPT_FOR_NS);
    else
        kq_spares_release(spares);
    spares->used = false;
}

void kq_spares_give(struct kq_spares *spares, void *memory)
{
    size_t size = malloc_usable_size(memory);
    if (size < KQ_SPARE_LEAST || size > KQ_SPARE_MOST || spares->count == KQ_SPARES) {
        free(memory);
        return;
    }
    spares->at[spares->count++] = memory;
    spares->used = true;
    if (spares->timer.set)
        return;
    spares->timer.expire = expire;
    kq_loop_set_timer(spares->loop, &spares->timer, spares->loop->now_ns + KEPT_FOR_NS);
}

void *kq_spares_take(struct kq_spares *spares, size_t least, size_t size, size_t *ret_capacity)
{
    for (unsigned i = spares->count; size >= KQ_SPARE_LEAST && i-- > 0;) {
        void *memory = spares->at[i];
        size_t usable = malloc_usable_size(memory);
        if (usable < least || usable / 2 > size)
            continue;
        spares->at[i] = spares->at[--spares->count];
        *ret_capacity = usable < size ? usable : size;
        return memory;
    }
    return NULL;
}
