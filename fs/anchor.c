#include "fs/anchor.h"

#include <assert.h>
#include <pthread.h>
#define HASH_NONFATAL_OOM 1
#define uthash_nonfatal_oom(element) ((element)->references = 0)
#include <uthash.h>

#include "broker/base/mem.h"

struct key {
    const struct kq_fspart *part;
    int64_t offset;
    uint64_t layout;
};

struct kq_anchor {
    struct key key;
    struct kq_text_base base;
    unsigned references;
    UT_hash_handle hh;
};

struct kq_anchors {
    pthread_mutex_t lock;
    struct kq_anchor *table;
};

int kq_anchors_new(struct kq_anchors **ret)
{
    struct kq_anchors *anchors = kq_zalloc(sizeof(*anchors));
    if (!anchors)
        return -ENOMEM;
    pthread_mutex_init(&anchors->lock, NULL);
    *ret = anchors;
    return 0;
}

void kq_anchors_free(struct kq_anchors *anchors)
{
    if (!anchors)
        return;
    assert(!anchors->table);
    pthread_mutex_destroy(&anchors->lock);
    free(anchors);
}

static struct kq_anchor *find(struct kq_anchors *anchors, const struct kq_fspart *part,
                              int64_t offset, uint64_t layout)
{
    struct key key = {.part = part, .offset = offset, .layout = layout};
    struct kq_anchor *anchor;
    HASH_FIND(hh, anchors->table, &key, sizeof(key), anchor);
    return anchor;
}

static struct kq_anchor *add(struct kq_anchors *anchors, struct kq_fspart *part, int64_t offset,
                             uint64_t layout, const struct kq_text_base *base)
{
    struct kq_anchor *anchor = kq_zalloc(sizeof(*anchor));
    if (!anchor)
        return NULL;
    *anchor = (struct kq_anchor){
        .key = {.part = part, .offset = offset, .layout = layout},
        .base = *base,
        .references = 1,
    };
    HASH_ADD(hh, anchors->table, key, sizeof(anchor->key), anchor);
    if (anchor->references == 0) {
        free(anchor);
        return NULL;
    }
    return anchor;
}

int kq_anchor_hold(struct kq_anchors *anchors, struct kq_fspart *part, int64_t offset,
                   uint64_t layout, const struct kq_text_base *base, struct kq_anchor **ret)
{
    pthread_mutex_lock(&anchors->lock);
    struct kq_anchor *anchor = find(anchors, part, offset, layout);
    if (anchor)
        anchor->references++;
    else
        anchor = add(anchors, part, offset, layout, base);
    pthread_mutex_unlock(&anchors->lock);
    if (!anchor)
        return -ENOMEM;
    *ret = anchor;
    return 0;
}

void kq_anchor_drop(struct kq_anchors *anchors, struct kq_anchor *anchor)
{
    if (!anchor)
        return;
    pthread_mutex_lock(&anchors->lock);
    bool last = --anchor->references == 0;
    if (last)
        HASH_DEL(anchors->table, anchor);
    pthread_mutex_unlock(&anchors->lock);
    if (last)
        free(anchor);
}

bool kq_anchor_find(struct kq_anchors *anchors, const struct kq_fspart *part, int64_t offset,
                    uint64_t layout, struct kq_text_base *ret)
{
    pthread_mutex_lock(&anchors->lock);
    struct kq_anchor *anchor = find(anchors, part, offset, layout);
    if (anchor)
        *ret = anchor->base;
    pthread_mutex_unlock(&anchors->lock);
    return anchor;
}
