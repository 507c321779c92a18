/* May one more connection come in? Counts them, in all and by address. Any thread. */
#pragma once

#include <stdint.h>
#include <sys/socket.h>

struct kq_admit;
struct kq_admitted; /* one address that has connections */

enum kq_admission {
    KQ_ADMIT_YES,
    KQ_ADMIT_FULL,      /* there are as many as there may be */
    KQ_ADMIT_FULL_IP,   /* … from this address */
    KQ_ADMIT_NO_MEMORY, /* to count it */
};

int kq_admit_new(unsigned most, unsigned most_per_ip, struct kq_admit **ret); /* 0; -ENOMEM */
void kq_admit_free(struct kq_admit *admit); /* all have left; NULL is fine */

/* FROM: the peer's address, where it has one that counts (not so a unix socket): then *RET names it
 * for kq_admit_leave, else it is NULL. */
enum kq_admission kq_admit_enter(struct kq_admit *admit, const struct sockaddr_storage *from,
                                 struct kq_admitted **ret);
void kq_admit_leave(struct kq_admit *admit, struct kq_admitted *admitted);

unsigned kq_admit_count(const struct kq_admit *admit);

/* Waits until all have left. */
void kq_admit_wait(struct kq_admit *admit);
