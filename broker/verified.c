#include "broker/verified.h"

#include "broker/base/crc32c.h"
#include "broker/metrics.h"

static struct kq_metric checked = {
    .name = "kqfs_verified_batches_total",
    .help = "Record batches whose checksum was computed for a reader since the start: those that "
            "were there before.",
    .type = KQ_COUNTER};
static struct kq_metric damaged = {
    .name = "kqfs_damaged_batches_total",
    .help = "Times that a reader met a batch whose checksum is wrong since the start.",
    .type = KQ_COUNTER};

void kq_verified_register_metrics(void)
{
    kq_metric_register(&checked);
    kq_metric_register(&damaged);
}

void kq_verified_init(struct kq_verified *verified)
{
    for (int i = 0; i < KQ_VERIFIED_RUNS; i++)
        atomic_init(&verified->runs[i], 0);
    atomic_init(&verified->tail, KQ_VERIFIED_NOTHING);
}

void kq_verified_set_tail(struct kq_verified *verified, int64_t position)
{
    atomic_store_explicit(&verified->tail, (uint32_t)position, memory_order_relaxed);
}

static uint64_t pack(uint64_t from, uint64_t to)
{
    return from << 32 | to;
}

static uint64_t length_of(uint64_t run)
{
    return (uint32_t)run - (run >> 32);
}

/* Makes the run hold [from, to) too, if they touch. Of a run that another thread replaced meanwhile
 * nothing is kept. */
static bool extend(_Atomic uint64_t *run, uint64_t from, uint64_t to)
{
    uint64_t old = atomic_load_explicit(run, memory_order_relaxed);
    for (;;) {
        uint64_t old_from = old >> 32, old_to = (uint32_t)old;
        if (old == 0 || from > old_to || to < old_from)
            return false;
        uint64_t both = pack(from < old_from ? from : old_from, to > old_to ? to : old_to);
        if (atomic_compare_exchange_weak_explicit(run, &old, both, memory_order_relaxed,
                                                  memory_order_relaxed))
            return true;
    }
}

static void note(struct kq_verified *verified, uint64_t from, uint64_t to)
{
    _Atomic uint64_t *shortest = &verified->runs[0];
    for (int i = 0; i < KQ_VERIFIED_RUNS; i++) {
        _Atomic uint64_t *run = &verified->runs[i];
        if (extend(run, from, to))
            return;
        if (length_of(atomic_load_explicit(run, memory_order_relaxed)) <
            length_of(atomic_load_explicit(shortest, memory_order_relaxed)))
            shortest = run;
    }
    atomic_store_explicit(shortest, pack(from, to), memory_order_relaxed);
}

int kq_verified_conclude(struct kq_verified *verified, int64_t position,
                         const struct kq_batch_header *header, uint32_t crc)
{
    kq_metric_add(&checked, 1);
    if (crc != header->crc) {
        kq_metric_add(&damaged, 1);
        return -EBADMSG;
    }
    note(verified, (uint64_t)position, (uint64_t)position + header->size);
    return 0;
}

int kq_verified_check(struct kq_verified *verified, int64_t position,
                      const struct kq_batch_header *header, const void *bytes)
{
    if (kq_verified_has(verified, position, header->size))
        return 0;
    uint32_t crc =
        kq_crc32c(0, (const uint8_t *)bytes + KQ_BATCH_CRC_FROM, header->size - KQ_BATCH_CRC_FROM);
    return kq_verified_conclude(verified, position, header, crc);
}
