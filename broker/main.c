/* The command: wires the parts together and decides nothing that they could.
 *
 * Happy path: read the configuration, go to the background, open the broker (which recovers),
 * mount, say that all is well, serve until asked to stop, unmount, close. Each failure is one line
 * that names the remedy, and an exit code of its own. */
#define FUSE_USE_VERSION 314

#include <fuse3/fuse_lowlevel.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "auth/auth.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/broker.h"
#include "broker/config.h"
#include "broker/daemon.h"
#include "broker/options.h"
#include "broker/paths.h"
#include "fs/fs.h"

/* Held while the signals' thread stops the mount, so that it is not freed under its hands. */
static pthread_mutex_t mounted_lock = PTHREAD_MUTEX_INITIALIZER;
static struct kq_fs *mounted;

static void set_mounted(struct kq_fs *fs)
{
    pthread_mutex_lock(&mounted_lock);
    mounted = fs;
    pthread_mutex_unlock(&mounted_lock);
}

static void stop_serving(void)
{
    pthread_mutex_lock(&mounted_lock);
    if (mounted)
        kq_fs_stop(mounted);
    pthread_mutex_unlock(&mounted_lock);
}

static void raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == limit.rlim_max)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        kq_diag(LOG_WARNING, "cannot raise the limit of open files: %s", strerror(errno));
}

static int config_text(void *context, struct kq_buf *ret)
{
    return kq_config_format(context, ret);
}

static int broker_exit(int r)
{
    switch (r) {
    case -EWOULDBLOCK:
        return KQ_EXIT_DATA_IN_USE;
    case -ENOMEM:
        return KQ_EXIT_FAILURE;
    default:
        return KQ_EXIT_DATA_UNUSABLE;
    }
}

static int open_broker(const struct kq_config *config, struct kq_auth *auth, struct kq_broker **ret)
{
    struct kq_broker_options options = {
        .data_dir = config->data,
        .topic_defaults = config->topic,
        .default_partitions = (int32_t)config->default_partitions,
        .retention_check_ms = config->retention_check_ms,
        .checkpoint_ms = config->checkpoint_ms,
        .trail_bytes = config->trail_bytes,
        .max_topics = (unsigned)config->max_topics,
        .max_partitions = (unsigned)config->max_partitions,
        .max_open_files = (unsigned)config->max_open_files,
        .sync_threads = (unsigned)config->sync_threads,
        .new_root = {.uid = geteuid(), .gid = getegid(), .mode = S_ISVTX | 0755},
        .authz = kq_auth_authz(auth),
    };
    return kq_broker_open(&options, ret);
}

static int mount_fs(struct kq_broker *broker, struct kq_config *config, const char *mount_options,
                    struct kq_fs **ret)
{
    struct kq_fs_options options = {
        .mountpoint = config->mountpoint,
        .mount_options = mount_options,
        .debug = config->debug,
        .poll_us = (unsigned)config->poll_us,
        .max_receivers = (unsigned)config->max_receivers,
        .max_workers = (unsigned)config->max_workers,
        .attribute_timeout_ms = (unsigned)config->attribute_timeout_ms,
        .max_write = (uint32_t)config->max_write,
        .max_pending_bytes = config->max_pending_bytes,
        .version = "kqfs " KQFS_VERSION "\n",
        .config_text = config_text,
        .config_context = config,
    };
    return kq_fs_mount(broker, &options, ret);
}

/* Mounts BROKER, serves, unmounts. Returns an exit code. */
static int serve(struct kq_broker *broker, struct kq_config *config)
{
    struct kq_fs *fs;
    kq_autofree char *mount_options = kq_paths_mount_options(config);
    if (!mount_options || mount_fs(broker, config, mount_options, &fs) < 0)
        return KQ_EXIT_MOUNT;
    set_mounted(fs);
    /* A signal from before `mounted` was set has found nothing to stop. */
    int code = KQ_EXIT_INTERRUPTED;
    if (!kq_signals_stopping()) {
        kq_daemon_ready();
        kq_diag(LOG_INFO, "%s is mounted on %s", config->data, config->mountpoint);
        int r = kq_fs_run(fs);
        if (r < 0)
            kq_diag(LOG_ERR, "%s: the connection to the kernel broke: %s", config->mountpoint,
                    strerror(-r));
        code = r < 0 ? KQ_EXIT_CONNECTION : KQ_EXIT_OK;
        kq_daemon_notify("STOPPING=1");
    }
    set_mounted(NULL);
    kq_fs_free(fs);
    return code;
}

static int run(struct kq_config *config)
{
    struct kq_broker *broker;
    struct kq_auth *auth;
    if (kq_auth_new(&auth) < 0) {
        kq_diag(LOG_ERR, "out of memory");
        return KQ_EXIT_FAILURE;
    }
    int r = open_broker(config, auth, &broker);
    kq_signals_quiet();
    int code = KQ_EXIT_INTERRUPTED;
    if (r < 0)
        code = broker_exit(r);
    else if (!kq_signals_stopping())
        code = serve(broker, config);
    if (r == 0)
        kq_broker_close(broker);
    kq_auth_free(auth);
    return code;
}

static int start(struct kq_config *config)
{
    int code = kq_paths_check(config);
    if (code)
        return code;
    umask(077);
    if (!config->foreground && kq_daemon_detach() < 0)
        return KQ_EXIT_FAILURE;
    if (config->debug)
        kq_diag_set_level(LOG_DEBUG);
    if (kq_signals_start(stop_serving, "recovering the log") < 0)
        return KQ_EXIT_FAILURE;
    code = run(config);
    kq_signals_end();
    return code;
}

int main(int argc, char **argv)
{
    enum kq_act act;
    struct kq_config *config;
    raise_file_limit();
    int r = kq_options_parse(argc, argv, &act, &config);
    if (r)
        return r == -ENOMEM ? KQ_EXIT_FAILURE : KQ_EXIT_USAGE;
    int code = KQ_EXIT_OK;
    if (act == KQ_ACT_HELP)
        kq_options_print_help(stdout);
    else if (act == KQ_ACT_VERSION)
        printf("kqfs " KQFS_VERSION "\nlibfuse %s\n", fuse_pkgversion());
    else if (act == KQ_ACT_SERVE)
        code = start(config);
    kq_config_free(config);
    return code;
}
