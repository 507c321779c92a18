#include "fs/scratch.h"

#include <pthread.h>

#include "broker/base/mem.h"

static _Thread_local struct kq_scratch *mine;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;

static void release(void *argument)
{
    struct kq_scratch *scratch = argument;
    kq_buf_release(&scratch->window);
    kq_buf_release(&scratch->reply);
    kq_frame_output_release(&scratch->output);
    free(scratch);
}

static void make_key(void)
{
    pthread_key_create(&key, release);
}

static struct kq_scratch *make(void)
{
    pthread_once(&once, make_key);
    struct kq_scratch *scratch = kq_zalloc(sizeof(*scratch));
    if (!scratch)
        return NULL;
    if (pthread_setspecific(key, scratch) != 0) {
        free(scratch);
        return NULL;
    }
    return mine = scratch;
}

struct kq_scratch *kq_scratch(void)
{
    return kq_likely(mine != NULL) ? mine : make();
}
