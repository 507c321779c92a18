#include "net/admit.h"

#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "broker/base/mem.h"

static _Thread_local bool out_of_memory;

#define HASH_NONFATAL_OOM 1
#define uthash_nonfatal_oom(element) (out_of_memory = true)
#define uthash_malloc(size) kq_alloc(size)
#include <uthash.h>

struct kq_admitted {
    struct in6_addr address; /* IPv4 as ::ffff:a.b.c.d */
    unsigned count;
    UT_hash_handle hh;
};

struct kq_admit {
    pthread_mutex_t lock;
    pthread_cond_t empty;
    unsigned most, most_per_ip, count;
    struct kq_admitted *addresses;
};

int kq_admit_new(unsigned most, unsigned most_per_ip, struct kq_admit **ret)
{
    struct kq_admit *admit = kq_zalloc(sizeof(*admit));
    if (!admit)
        return -ENOMEM;
    pthread_mutex_init(&admit->lock, NULL);
    pthread_cond_init(&admit->empty, NULL);
    admit->most = most;
    admit->most_per_ip = most_per_ip;
    *ret = admit;
    return 0;
}

void kq_admit_free(struct kq_admit *admit)
{
    if (!admit)
        return;
    pthread_mutex_destroy(&admit->lock);
    pthread_cond_destroy(&admit->empty);
    free(admit);
}

static bool address_of(const struct sockaddr_storage *from, struct in6_addr *ret)
{
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)from;
    if (from->ss_family == AF_INET6) {
        *ret = ((const struct sockaddr_in6 *)from)->sin6_addr;
        return true;
    }
    if (from->ss_family != AF_INET)
        return false;
    memset(ret, 0, sizeof(*ret));
    ret->s6_addr[10] = ret->s6_addr[11] = 0xff;
    memcpy(&ret->s6_addr[12], &v4->sin_addr, 4);
    return true;
}

/* NULL: no memory. */
static struct kq_admitted *find_or_add(struct kq_admit *admit, const struct in6_addr *address)
{
    struct kq_admitted *found;
    HASH_FIND(hh, admit->addresses, address, sizeof(*address), found);
    if (found)
        return found;
    found = kq_zalloc(sizeof(*found));
    if (!found)
        return NULL;
    found->address = *address;
    out_of_memory = false;
    HASH_ADD(hh, admit->addresses, address, sizeof(*address), found);
    if (out_of_memory) {
        free(found);
        return NULL;
    }
    return found;
}

static enum kq_admission enter_address(struct kq_admit *admit, const struct in6_addr *address,
                                       struct kq_admitted **ret)
{
    struct kq_admitted *admitted = find_or_add(admit, address);
    if (!admitted)
        return KQ_ADMIT_NO_MEMORY;
    if (admitted->count >= admit->most_per_ip)
        return KQ_ADMIT_FULL_IP;
    admitted->count++;
    *ret = admitted;
    return KQ_ADMIT_YES;
}

enum kq_admission kq_admit_enter(struct kq_admit *admit, const struct sockaddr_storage *from,
                                 struct kq_admitted **ret)
{
    struct in6_addr address;
    struct kq_admitted *admitted = NULL;
    enum kq_admission admission = KQ_ADMIT_YES;
    pthread_mutex_lock(&admit->lock);
    if (admit->count >= admit->most)
        admission = KQ_ADMIT_FULL;
    else if (address_of(from, &address))
        admission = enter_address(admit, &address, &admitted);
    if (admission == KQ_ADMIT_YES) {
        admit->count++;
        *ret = admitted;
    }
    pthread_mutex_unlock(&admit->lock);
    return admission;
}

void kq_admit_leave(struct kq_admit *admit, struct kq_admitted *admitted)
{
    pthread_mutex_lock(&admit->lock);
    if (admitted && --admitted->count == 0) {
        HASH_DEL(admit->addresses, admitted);
        free(admitted);
    }
    if (--admit->count == 0)
        pthread_cond_broadcast(&admit->empty);
    pthread_mutex_unlock(&admit->lock);
}

unsigned kq_admit_count(const struct kq_admit *admit)
{
    struct kq_admit *own = (struct kq_admit *)admit;
    pthread_mutex_lock(&own->lock);
    unsigned count = own->count;
    pthread_mutex_unlock(&own->lock);
    return count;
}

void kq_admit_wait(struct kq_admit *admit)
{
    pthread_mutex_lock(&admit->lock);
    while (admit->count > 0)
        pthread_cond_wait(&admit->empty, &admit->lock);
    pthread_mutex_unlock(&admit->lock);
}
