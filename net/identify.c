#include "net/identify.h"

#include <pthread.h>
#include <string.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "net/peer.h"

#define TRUSTED_NS (60 * INT64_C(1000000000))
#define PLACES 256 /* a user takes the place of another one at times: that costs a look-up */

struct place {
    const struct kq_identity *identity; /* NULL: free */
    int64_t until_ns;
};

struct kq_identify {
    const struct kq_identity *nobody;    /* whose end of the connection the kernel cannot tell */
    const struct kq_identity *everybody; /* plaintext.user; NULL: not set */
    int ask;                             /* kq_peer_open; < 0: this kernel cannot tell */
    uint32_t serial;
    pthread_mutex_t lock;
    struct place known[PLACES]; /* users of this host, by uid */
};

static int set_everybody(struct kq_identify *identify, const char *user)
{
    int r = kq_identity_anonymous_as(user, &identify->everybody);
    if (r == -ENOENT)
        kq_diag(LOG_ERR, "plaintext.user: there is no user %s on this host", user);
    else if (r < 0)
        kq_diag(LOG_ERR, "plaintext.user: cannot look up %s: %s", user, strerror(-r));
    return r == -ENOENT ? -EINVAL : r;
}

int kq_identify_new(const char *plaintext_user, struct kq_identify **ret)
{
    struct kq_identify *identify = kq_zalloc(sizeof(*identify));
    if (!identify)
        return -ENOMEM;
    pthread_mutex_init(&identify->lock, NULL);
    identify->ask = kq_peer_open();
    int r = kq_identity_anonymous(&identify->nobody);
    if (r == 0 && plaintext_user[0])
        r = set_everybody(identify, plaintext_user);
    if (r < 0) {
        kq_identify_free(identify);
        return r;
    }
    *ret = identify;
    return 0;
}

void kq_identify_free(struct kq_identify *identify)
{
    if (!identify)
        return;
    for (size_t i = 0; i < PLACES; i++)
        kq_identity_unref(identify->known[i].identity);
    kq_identity_unref(identify->nobody);
    kq_identity_unref(identify->everybody);
    if (identify->ask >= 0)
        close(identify->ask);
    pthread_mutex_destroy(&identify->lock);
    free(identify);
}

const struct kq_identity *kq_identify_nobody(struct kq_identify *identify)
{
    return kq_identity_ref(identify->nobody);
}

static const struct kq_identity *recall(struct kq_identify *identify, uid_t uid)
{
    const struct kq_identity *found = NULL;
    pthread_mutex_lock(&identify->lock);
    struct place *place = &identify->known[uid % PLACES];
    if (place->identity && place->identity->uid == uid && kq_clock_mono_ns() < place->until_ns)
        found = kq_identity_ref(place->identity);
    pthread_mutex_unlock(&identify->lock);
    return found;
}

static void remember(struct kq_identify *identify, const struct kq_identity *identity)
{
    pthread_mutex_lock(&identify->lock);
    struct place *place = &identify->known[identity->uid % PLACES];
    const struct kq_identity *before = place->identity;
    *place = (struct place){kq_identity_ref(identity), kq_clock_mono_ns() + TRUSTED_NS};
    pthread_mutex_unlock(&identify->lock);
    kq_identity_unref(before);
}

static int ask_kernel(struct kq_identify *identify, int fd, uid_t *ret)
{
    if (identify->ask < 0)
        return -ENOENT;
    pthread_mutex_lock(&identify->lock);
    int r = kq_peer_uid(identify->ask, ++identify->serial, fd, ret);
    pthread_mutex_unlock(&identify->lock);
    return r;
}

int kq_identify(struct kq_identify *identify, int fd, bool is_unix, bool may_block,
                const struct kq_identity **ret)
{
    uid_t uid;
    if (is_unix)
        return may_block ? kq_identity_of_peer(fd, ret) : KQ_WOULD_BLOCK;
    if (identify->everybody) {
        *ret = kq_identity_ref(identify->everybody);
        return 0;
    }
    int r = ask_kernel(identify, fd, &uid);
    if (r == -ENOMEM || r == -ENOBUFS)
        return r;
    if (r < 0 || uid == KQ_UID_UNKNOWN) {
        *ret = kq_identity_ref(identify->nobody);
        return 0;
    }
    const struct kq_identity *known = recall(identify, uid);
    if (known) {
        *ret = known;
        return 0;
    }
    if (!may_block)
        return KQ_WOULD_BLOCK;
    r = kq_identity_of_uid(uid, ret);
    if (r == 0)
        remember(identify, *ret);
    return r;
}
