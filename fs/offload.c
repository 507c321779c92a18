#include <string.h>

#include "broker/base/mem.h"
#include "fs/internal.h"

struct offloaded {
    struct kq_job job;
    fuse_req_t req;
    void (*run)(fuse_req_t req, void *argument);
    void *argument;
    max_align_t copy[];
};

static void run(struct kq_job *job)
{
    struct offloaded *offloaded = (struct offloaded *)job;
    offloaded->run(offloaded->req, offloaded->argument);
    free(offloaded);
}

bool kq_fs_offload(fuse_req_t req, void (*handler)(fuse_req_t req, void *argument), void *argument,
                   size_t copy)
{
    struct offloaded *offloaded = kq_alloc(sizeof(*offloaded) + copy);
    if (!offloaded) {
        fuse_reply_err(req, kq_fs_errno(-ENOMEM));
        return false;
    }
    offloaded->job.run = run;
    offloaded->req = req;
    offloaded->run = handler;
    offloaded->argument = copy ? memcpy(offloaded->copy, argument, copy) : argument;
    kq_pool_submit(kq_fs_of(req)->workers, &offloaded->job);
    return true;
}
