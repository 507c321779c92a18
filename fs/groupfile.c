/* Open files of groups: the text that a group has not committed, its offset, its lag.
 *
 * Text is read in order. Each read(2) is one request here: a reply is kept shorter than what was
 * asked for, since the kernel would make several requests of one large read(2), and the second must
 * not commit what the first one has not brought to the reader yet.
 *
 * The partition is the reader's from open(2) to close(2). The kernel tells of a close in time only
 * by FLUSH, which comes for each descriptor: who reads on through another one claims it anew. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "broker/base/mem.h"
#include "fs/groups.h"
#include "fs/groupwait.h"
#include "fs/render.h"
#include "fs/scratch.h"

#define TEXT_BYTES 32 /* of an offset, or a lag */

struct kq_group_file {
    struct kq_fs *fs;
    enum kq_view view;
    struct kq_partition *partition; /* the handle's */
    struct kq_group *group;         /* referenced */
    struct kq_access access;        /* TEXT */
    char text[TEXT_BYTES];          /* OFFSET, LAG: as it was at open */

    pthread_mutex_t lock; /* TEXT */
    struct kq_group_claim claim;
    bool claimed;
    struct kq_cursor cursor;
    int64_t position;  /* in the file, of the next byte to hand over */
    int64_t handed;    /* everything before this offset was handed over */
    int64_t committed; /* that much is committed */
};

/* --- Committing --- */

struct committing {
    struct kq_group_commit commit; /* first: its change comes back */
    sem_t ended;
};

static void committed(struct kq_group_change *change)
{
    sem_post(&((struct committing *)(void *)change)->ended);
}

static int commit(struct kq_group_file *file, struct kq_group_claim *claim, int64_t offset)
{
    struct kq_caller caller = {.kernel_checked = true};
    struct kq_group_committed one = {.topic = kq_partition_topic(file->partition),
                                     .partition = kq_partition_number(file->partition),
                                     .leader_epoch = -1,
                                     .offset = offset,
                                     .metadata = KQ_STR("")};
    struct committing committing = {.commit = {.change.done = committed,
                                               .generation = -1,
                                               .retention_ms = -1,
                                               .claim = claim,
                                               .offsets = &one,
                                               .offset_count = 1}};
    sem_init(&committing.ended, 0, 0);
    int r = kq_group_commit(file->fs->broker, &caller, &committing.commit);
    if (r == 0) {
        while (sem_wait(&committing.ended) < 0)
            ;
        r = committing.commit.change.result;
    }
    sem_destroy(&committing.ended);
    return r == KQ_READY ? one.result : r;
}

/* --- Where a reader stands --- */

/* The first message that was not committed and is still there. */
static int64_t unread(const struct kq_group_file *file)
{
    struct kq_log_bounds bounds;
    struct kq_group_offset offset;
    kq_bounds(file->partition, &bounds);
    kq_group_offset_get(file->group, kq_str_of(kq_topic_name(kq_partition_topic(file->partition))),
                        kq_partition_number(file->partition), NULL, &offset);
    int64_t from = offset.offset < 0 ? bounds.start : offset.offset;
    return kq_min64(kq_max64(from, bounds.start), bounds.last_stable);
}

static void go_to(struct kq_group_file *file, int64_t offset)
{
    kq_cursor_release(&file->cursor);
    file->cursor.next_offset = offset;
    file->handed = file->committed = offset;
}

static void let_go(struct kq_group_file *file)
{
    if (file->claimed)
        kq_group_unclaim(&file->claim);
    file->claimed = false;
}

/* The partition is this reader's. Where it was not for a while, somebody else may have read on. */
static int hold(struct kq_group_file *file)
{
    if (file->claimed && !atomic_load(&file->claim.lost))
        return 0;
    let_go(file);
    int r = kq_group_claim(file->group, file->partition, &file->claim);
    if (r != 0)
        return r;
    file->claimed = true;
    int64_t from = unread(file);
    if (from != file->committed)
        go_to(file, from);
    return 0;
}

/* --- Reading --- */

static int save(struct kq_group_file *file)
{
    if (file->handed <= file->committed)
        return 0;
    int r = commit(file, &file->claim, file->handed);
    if (r == 0)
        file->committed = file->handed;
    return r;
}

static int render(struct kq_group_file *file, size_t size, struct kq_scratch *scratch)
{
    struct kq_cursor *cursor = &file->cursor;
    struct kq_lens lens = {
        .buf = &scratch->window, .fd = -1, .piece = kq_lens_piece(size), .may_block = true};
    int r = kq_buf_reserve(&scratch->reply, size + KQ_RENDER_SLACK);
    if (r == 0 && !kq_cursor_is_placed(cursor))
        r = kq_cursor_seek_offset(cursor, &lens, cursor->next_offset, false);
    if (r == 0)
        r = kq_render_text(cursor, &lens, scratch->reply.data, size, &scratch->reply.length);
    if (r == -EBADMSG && scratch->reply.length == 0 &&
        kq_cursor_pass_damage(cursor, &lens) != KQ_WOULD_BLOCK)
        kq_report_damage(cursor);
    return r;
}

/* The reader met the end: what lies before it and has no text counts as read. */
static int end(struct kq_group_file *file, const struct kq_log_bounds *bounds)
{
    file->cursor.next_offset = kq_max64(file->cursor.next_offset, bounds->last_stable);
    file->handed = file->cursor.next_offset;
    return save(file);
}

static int read_on(struct kq_group_file *file, size_t size, struct kq_scratch *scratch)
{
    struct kq_log_bounds bounds;
    int r = KQ_END;
    kq_bounds(file->partition, &bounds);
    if (file->cursor.next_offset < bounds.start) {
        r = KQ_GONE;
    } else if (file->cursor.next_offset < bounds.last_stable) {
        kq_cursor_begin(&file->cursor, bounds.last_stable);
        r = render(file, size, scratch);
    }
    if (scratch->reply.length > 0) {
        file->handed = file->cursor.next_offset;
        file->position += (int64_t)scratch->reply.length;
        return 0;
    }
    if (r == KQ_GONE) { /* once: the next read goes on with what is left */
        kq_bounds(file->partition, &bounds);
        go_to(file, bounds.start);
        return -ESTALE;
    }
    return r == KQ_END || r == KQ_BEYOND ? end(file, &bounds) : r;
}

static int read_text(struct kq_group_file *file, int64_t position, size_t size, bool may_block,
                     struct kq_scratch *scratch)
{
    scratch->reply.length = 0;
    if (!may_block)
        return KQ_WOULD_BLOCK;
    pthread_mutex_lock(&file->lock);
    int r = position == file->position ? hold(file) : -ESPIPE;
    if (r == 0)
        r = save(file);
    if (r == 0 && size > 0)
        r = read_on(file, size > 1 ? size - 1 : size, scratch);
    pthread_mutex_unlock(&file->lock);
    return r;
}

int kq_group_file_read(struct kq_group_file *file, int64_t position, size_t size, bool may_block,
                       const uint8_t **ret, size_t *ret_length)
{
    struct kq_scratch *scratch = kq_scratch();
    if (!scratch)
        return -ENOMEM;
    if (file->view == KQ_VIEW_GROUP_TEXT) {
        int r = read_text(file, position, size, may_block, scratch);
        if (r == 0) {
            *ret = scratch->reply.data;
            *ret_length = scratch->reply.length;
        }
        return r;
    }
    size_t length = strlen(file->text);
    size_t from = position < (int64_t)length ? (size_t)position : length;
    *ret = (const uint8_t *)file->text + from;
    *ret_length = length - from < size ? length - from : size;
    return 0;
}

void kq_group_file_flush(struct kq_group_file *file)
{
    if (pthread_mutex_trylock(&file->lock) != 0)
        return; /* somebody reads on */
    let_go(file);
    pthread_mutex_unlock(&file->lock);
}

/* --- Setting the offset --- */

static int parse_offset(const char *text, const struct kq_log_bounds *bounds, int64_t *ret)
{
    char *behind;
    if (strcmp(text, "earliest") == 0) {
        *ret = bounds->start;
        return 0;
    }
    if (strcmp(text, "latest") == 0) {
        *ret = bounds->last_stable;
        return 0;
    }
    if (text[0] < '0' || text[0] > '9')
        return -EINVAL;
    errno = 0;
    long long offset = strtoll(text, &behind, 10);
    if (*behind)
        return -EINVAL;
    if (errno || offset < bounds->start || offset > bounds->last_stable)
        return -ERANGE;
    *ret = offset;
    return 0;
}

int kq_group_file_write(struct kq_group_file *file, const void *bytes, size_t size)
{
    char text[TEXT_BYTES] = "";
    struct kq_log_bounds bounds;
    int64_t offset;
    if (size > 0 && ((const char *)bytes)[size - 1] == '\n')
        size--;
    if (size >= sizeof(text) || memchr(bytes, 0, size))
        return -EINVAL;
    memcpy(text, bytes, size);
    kq_bounds(file->partition, &bounds);
    int r = parse_offset(text, &bounds, &offset);
    if (r == 0)
        r = kq_group_claim(file->group, file->partition, &file->claim);
    if (r != 0)
        return r;
    r = commit(file, &file->claim, offset);
    kq_group_unclaim(&file->claim);
    return r;
}

/* --- Opening --- */

/* An offset that was never committed is an empty file. */
static void take_text(struct kq_group_file *file)
{
    struct kq_group_offset offset;
    kq_group_offset_get(file->group, kq_str_of(kq_topic_name(kq_partition_topic(file->partition))),
                        kq_partition_number(file->partition), NULL, &offset);
    if (file->view == KQ_VIEW_GROUP_LAG)
        snprintf(file->text, sizeof(file->text), "%" PRId64 "\n",
                 kq_group_lag(file->group, file->partition));
    else if (offset.offset >= 0)
        snprintf(file->text, sizeof(file->text), "%" PRId64 "\n", offset.offset);
}

static int begin_text(struct kq_group_file *file, const struct kq_caller *caller)
{
    struct kq_group *checked;
    int r = kq_group_get(file->fs->broker, caller, kq_group_name(file->group), KQ_RIGHT_WRITE,
                         &checked);
    if (r != 0)
        return r;
    kq_group_unref(checked);
    r = kq_partition_access(file->partition, caller, KQ_RIGHT_READ, &file->access);
    if (r < 0)
        return r;
    kq_cursor_init(&file->cursor, &file->access);
    file->committed = -1;
    return hold(file);
}

int kq_group_file_new(struct kq_handle *handle, const struct kq_node *node,
                      const struct kq_caller *caller, int flags, struct kq_group_file **ret)
{
    struct kq_group_file *file = kq_zalloc(sizeof(*file));
    if (!file)
        return -ENOMEM;
    int r = kq_fs_group(handle->fs, node, &file->group);
    if (r < 0) {
        free(file);
        return r;
    }
    file->fs = handle->fs;
    file->view = node->view;
    file->partition = node->part->partition;
    pthread_mutex_init(&file->lock, NULL);
    if (node->view == KQ_VIEW_GROUP_TEXT)
        r = begin_text(file, caller);
    else if ((flags & O_ACCMODE) != O_WRONLY)
        take_text(file);
    if (r == 0)
        *ret = file;
    else
        kq_group_file_free(file);
    return r;
}

void kq_group_file_free(struct kq_group_file *file)
{
    if (!file)
        return;
    let_go(file);
    kq_cursor_release(&file->cursor);
    kq_group_unref(file->group);
    pthread_mutex_destroy(&file->lock);
    free(file);
}
