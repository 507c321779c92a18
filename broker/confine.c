#include "broker/confine.h"

#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "broker/base/diag.h"
#include "broker/base/err.h"

#define BIT(capability) (UINT64_C(1) << (capability))

/* --- Capabilities --- */

int kq_confine_bounding_set(uint64_t keep)
{
    for (unsigned i = 0; i < 64; i++) {
        if (keep & BIT(i) || prctl(PR_CAPBSET_READ, i, 0, 0, 0) <= 0)
            continue;
        if (prctl(PR_CAPBSET_DROP, i, 0, 0, 0) < 0)
            return errno == EPERM ? 0 : -errno; /* no_new_privs makes it a matter of taste */
    }
    return 0;
}

int kq_confine_capabilities(uint64_t keep)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {0}, held[2];
    if (syscall(SYS_capget, &header, held) < 0)
        return -errno;
    bool none = true;
    for (int i = 0; i < 2; i++)
        none = none && !(held[i].permitted | held[i].effective | held[i].inheritable);
    if (none) /* capset(2) may be refused where there is nothing to give up */
        return 0;
    for (int i = 0; i < 2; i++)
        data[i].effective = data[i].permitted = held[i].permitted & (uint32_t)(keep >> (32 * i));
    if (syscall(SYS_capset, &header, data) < 0)
        return -errno;
    return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 && errno != EINVAL ? -errno
                                                                                           : 0;
}

/* --- All together --- */

/* 0, or -ENOTSUP where WHAT is required. Only what the kernel lacks may be done without. */
static int go_on_without(const char *what, int error, bool require)
{
    bool lacking = error == -ENOTSUP || error == -ENOSYS;
    if (!require && lacking) {
        kq_diag(LOG_WARNING, "not confined by %s, which this kernel, container or build has not",
                what);
        return 0;
    }
    kq_diag(LOG_ERR, "cannot confine by %s: %s%s", what, strerror(-error),
            require ? " (confine = require)" : "; `confine = no` does without");
    return error;
}

int kq_confine_broker(const struct kq_confine_options *options)
{
    int version = kq_landlock_version();
    int r = kq_landlock_apply(options);
    if (r < 0) {
        version = 0;
        r = go_on_without("Landlock", r, options->require);
    }
    if (r < 0)
        return r;
    int calls = kq_seccomp_apply(KQ_SECCOMP_BROKER, options->kill);
    if (calls < 0)
        r = go_on_without("seccomp", calls, options->require);
    if (r < 0)
        return r;
    char text[160] = "";
    if (version)
        snprintf(text, sizeof(text), ", Landlock %d (files%s%s)", version,
                 version >= 4 ? ", TCP" : "", version >= 6 ? ", signals" : "");
    if (calls > 0)
        snprintf(text + strlen(text), sizeof(text) - strlen(text),
                 ", seccomp (%d system calls, any other %s)", calls,
                 options->kill ? "ends the broker" : "is refused");
    kq_diag(LOG_INFO, "confined: user %lu, no capabilities, no new privileges, no core dumps%s",
            (unsigned long)geteuid(), text);
    return 0;
}

int kq_confine_helper(bool require)
{
    struct rlimit none = {0, 0};
    uint64_t keep = BIT(CAP_SYS_ADMIN) | BIT(CAP_DAC_OVERRIDE) | BIT(CAP_DAC_READ_SEARCH);
    int r = kq_confine_bounding_set(keep);
    if (r == 0)
        r = kq_confine_capabilities(keep);
    if (r == 0 && (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
                   prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || setrlimit(RLIMIT_CORE, &none) < 0))
        r = -errno;
    if (r < 0) {
        kq_diag(LOG_ERR, "cannot confine the helper: %s", strerror(-r));
        return r;
    }
    r = kq_seccomp_apply(KQ_SECCOMP_HELPER, true);
    bool lacking = r == -ENOTSUP && !require; /* the broker says so */
    if (r < 0 && !lacking)
        kq_diag(LOG_ERR, "cannot confine the helper by seccomp: %s", strerror(-r));
    return r < 0 && !lacking ? r : 0;
}
