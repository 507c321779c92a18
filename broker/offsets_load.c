/* Reading a partition of __consumer_offsets at the start: batch by batch, up to its end. Damaged
 * places are reported and passed over, as everywhere in the log. */
#include "broker/group.h"

#include <stdio.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/walk.h"

#define WHOLE_SEGMENT UINT32_MAX
#define RETRY_NS (INT64_C(10) * 1000000000)

static const char *name_of(const struct kq_group_shard *shard, char text[40])
{
    snprintf(text, 40, KQ_GROUPS_TOPIC "-%d", kq_partition_number(shard->access.partition));
    return text;
}

static void report_damage(const struct kq_group_shard *shard, int64_t offset)
{
    char name[40];
    kq_diag(LOG_ERR,
            "%s is damaged at offset %lld: offsets that were committed there are lost, groups "
            "go on from earlier ones",
            name_of(shard, name), (long long)offset);
}

/* The batch that WALK stands on. 0; -EBADMSG; -errno. */
static int read_batch(struct kq_walk *walk, struct kq_replay *replay, int64_t *next_offset)
{
    struct kq_batch_header header;
    const uint8_t *bytes;
    int r = kq_walk_header(walk, &header);
    if (r == KQ_PARTIAL)
        return -EBADMSG;
    if (r == 0)
        r = kq_walk_bytes(walk, &header, &bytes);
    if (r == 0)
        r = kq_batch_check_crc(bytes, &header);
    if (r == 0)
        r = kq_replay_batch(replay, bytes, &header);
    if (r == 0) {
        *next_offset = kq_batch_next_offset(&header);
        kq_walk_step(walk, &header);
    }
    return r;
}

/* All of EXTENT, which ends with a whole batch. */
static int read_extent(struct kq_group_shard *shard, const struct kq_extent *extent,
                       struct kq_replay *replay, int64_t *next_offset)
{
    struct kq_walk walk;
    int64_t end = extent->position + extent->length;
    int r;
    kq_walk_begin(&walk, extent->fd, extent->base_offset, extent->position, end, KQ_WALK_FAR, true);
    walk.placed = true;
    while ((r = read_batch(&walk, replay, next_offset)) != KQ_END) {
        if (r == -EBADMSG) {
            report_damage(shard, *next_offset);
            r = kq_walk_resync(&walk);
            if (r == KQ_END)
                break;
        }
        if (r != 0 || atomic_load(&shard->groups->stopping))
            break;
    }
    kq_walk_end(&walk);
    return r == KQ_END ? 0 : r;
}

static int read_at(struct kq_group_shard *shard, int64_t offset, struct kq_extent *ret)
{
    return kq_read(&shard->access, offset, WHOLE_SEGMENT, false, true, ret);
}

static bool is_readable(struct kq_group_shard *shard, int64_t offset)
{
    struct kq_extent extent;
    int r = read_at(shard, offset, &extent);
    if (r == 0)
        kq_extent_unref(&extent);
    return r != -EBADMSG;
}

/* OFFSET lies in a damaged place: the first behind it that does not, found by strides that double
 * and are then halved. */
static int64_t behind_damage(struct kq_group_shard *shard, int64_t offset, int64_t end)
{
    int64_t bad = offset, good = end, stride = 1;
    while (bad + stride < good && !is_readable(shard, bad + stride)) {
        bad += stride;
        stride *= 2;
    }
    good = kq_min64(good, bad + stride);
    while (good - bad > 1) {
        int64_t middle = bad + (good - bad) / 2;
        if (is_readable(shard, middle))
            good = middle;
        else
            bad = middle;
    }
    return good;
}

/* From OFFSET to the end of its segment; *OFFSET moves on. */
static int replay_segment(struct kq_group_shard *shard, struct kq_replay *replay, int64_t end,
                          int64_t *offset)
{
    struct kq_extent extent;
    struct kq_log_bounds bounds;
    int64_t next_offset = *offset;
    int r = read_at(shard, *offset, &extent);
    if (r == KQ_GONE) {
        kq_bounds(shard->access.partition, &bounds);
        *offset = bounds.start;
        return 0;
    }
    if (r == -EBADMSG) {
        report_damage(shard, *offset);
        *offset = behind_damage(shard, *offset, end);
        return 0;
    }
    if (r != 0)
        return r;
    r = read_extent(shard, &extent, replay, &next_offset);
    *offset = kq_max64(extent.next_offset, kq_max64(next_offset, *offset + 1));
    kq_extent_unref(&extent);
    return r;
}

static int replay_all(struct kq_group_shard *shard, struct kq_replay *replay)
{
    struct kq_log_bounds bounds;
    kq_bounds(shard->access.partition, &bounds);
    int64_t offset = bounds.start;
    int r = 0;
    while (r == 0 && offset < bounds.end && !atomic_load(&shard->groups->stopping))
        r = replay_segment(shard, replay, bounds.end, &offset);
    return r == KQ_END ? 0 : r;
}

static void fail(struct kq_group_shard *shard, int r)
{
    char name[40];
    kq_diag_limited(60000, LOG_ERR, "cannot read %s: %s; its groups have to wait, trying again",
                    name_of(shard, name), strerror(-r));
    atomic_store_explicit(&shard->state, KQ_SHARD_FAILED, memory_order_release);
    kq_groups_note_load(shard->groups, -1, 1);
    kq_timers_set(shard->groups->timers, &shard->retry, kq_clock_mono_ns() + RETRY_NS);
}

void kq_group_shard_load(struct kq_job *job)
{
    struct kq_group_shard *shard =
        (struct kq_group_shard *)((char *)job - offsetof(struct kq_group_shard, load));
    struct kq_groups *groups = shard->groups;
    struct kq_replay *replay;
    int r = kq_replay_new(shard, &replay);
    if (r == 0) {
        r = replay_all(shard, replay);
        if (r == 0 && !atomic_load(&groups->stopping))
            kq_replay_finish(replay);
        kq_replay_free(replay);
    }
    if (atomic_load(&groups->stopping))
        return;
    if (r != 0) {
        fail(shard, r);
        return;
    }
    atomic_store_explicit(&shard->state, KQ_SHARD_LOADED, memory_order_release);
    kq_groups_note_load(groups, -1, 0);
}
