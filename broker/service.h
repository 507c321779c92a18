/* The service user: who the broker is once root's rights are given up. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "broker/config.h"

struct kq_service_user {
    uid_t uid;
    gid_t gid;
    gid_t *groups; /* malloc'd */
    int group_count;
    bool is_now; /* this process already is that user */
};

/* Finds the user of the setting `user`. 0; -EINVAL: there is none, it is root, or only root could
 * become it (reported, with the remedy); -ENOMEM. */
int kq_service_find(const struct kq_config *config, struct kq_service_user *ret);
void kq_service_release(struct kq_service_user *user);

/* Makes the data directory where it is missing, gives it to USER where it is empty. 0; -EPERM:
 * it, or what lies in it, is somebody else's (reported, with the remedy); -errno (reported). */
int kq_service_own_data(const struct kq_service_user *user, const char *data);

/* Becomes USER for good: groups, ids, no capabilities, no_new_privs, no core dumps. Before other
 * threads are made. 0; -errno (reported). */
int kq_service_become(const struct kq_service_user *user);

/* What root has made in the data directory of another user is given to that user: for commands
 * that root runs beside the broker. 0; -errno (reported). */
int kq_service_give_back(const char *data);
