/* The command: wires the parts together and decides nothing that they could.
 *
 * Happy path: read the configuration, bind the listeners, go to the background, open the broker
 * (which recovers), mount, listen, say that all is well, serve until asked to stop, unmount, close.
 * Each failure is one line that names the remedy, and an exit code of its own. */
#define FUSE_USE_VERSION 314

#include <fuse3/fuse_lowlevel.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "auth/auth.h"
#include "broker/authsetup.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/broker.h"
#include "broker/config.h"
#include "broker/daemon.h"
#include "broker/exportrun.h"
#include "broker/helper.h"
#include "broker/options.h"
#include "broker/passwd.h"
#include "broker/paths.h"
#include "broker/privileges.h"
#include "broker/service.h"
#include "fs/fs.h"
#include "net/server.h"

/* Held while the signals' thread stops the mount, so that it is not freed under its hands. */
static pthread_mutex_t mounted_lock = PTHREAD_MUTEX_INITIALIZER;
static struct kq_fs *mounted;
static struct kq_server *listening; /* set before signals are taken */
static sem_t stopped;               /* posted where there is no mount to stop */

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
    sem_post(&stopped);
}

static atomic_bool alone; /* the helper has gone */

static void end_alone(void)
{
    alone = true;
    kq_signals_stop();
}

/* SIGHUP: certificates are read again; where there are none to read, it ends the broker. */
static bool hung_up(void)
{
    return listening && kq_server_reload(listening);
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

static struct kq_group_options group_options(const struct kq_group_settings *from)
{
    return (struct kq_group_options){
        .min_session_timeout_ms = (int32_t)from->min_session_timeout_ms,
        .max_session_timeout_ms = (int32_t)from->max_session_timeout_ms,
        .initial_rebalance_delay_ms = (int32_t)from->initial_rebalance_delay_ms,
        .max_members = (int32_t)from->max_members,
        .max_groups = (int32_t)from->max_groups,
        .max_protocols = (int32_t)from->max_protocols,
        .max_metadata_bytes = (int32_t)from->max_metadata_bytes,
        .offset_metadata_max_bytes = (int32_t)from->offset_metadata_bytes,
        .offsets_partitions = (int32_t)from->offsets_partitions,
        .offsets_segment_bytes = (int32_t)from->offsets_segment_bytes,
        .offsets_retention_ms = from->offsets_retention_minutes * 60000,
        .offsets_check_ms = from->offsets_check_ms,
        .max_lag_metrics = (int32_t)from->max_lags,
    };
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
        .producer_expiry_ms = config->producer_expiry_ms,
        .max_producers = (size_t)config->max_producers,
        .max_topics = (unsigned)config->max_topics,
        .max_partitions = (unsigned)config->max_partitions,
        .max_open_files = (unsigned)config->max_open_files,
        .sync_threads = (unsigned)config->sync_threads,
        .cleaner =
            {
                .threads = config->cleaner ? (unsigned)config->cleaner_threads : 0,
                .dedupe_bytes = config->cleaner_dedupe_bytes,
                .io_bytes = config->cleaner_io_bytes,
                .io_rate = config->cleaner_io_rate,
                .backoff_ms = config->cleaner_backoff_ms,
            },
        .groups = group_options(&config->groups),
        .quotas =
            {
                .windows = (int32_t)config->quotas.windows,
                .window_s = (int32_t)config->quotas.window_s,
                .max_entities = (uint32_t)config->quotas.max_entities,
                .max_accounts = (uint32_t)config->quotas.max_accounts,
            },
        .max_users = (unsigned)config->sasl.max_users,
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

static int value_of(const struct kq_config *config, size_t index, struct kq_buf *ret,
                    bool *ret_default)
{
    int r = kq_config_value(config, index, ret, ret_default);
    return r < 0 ? r : kq_buf_append(ret, "", 1);
}

struct settings {
    const struct kq_config *config, *defaults;
};

/* A setting that does not fit into memory is left out. */
static void each_setting(void *setting_context,
                         void (*take)(void *context, const struct kq_server_setting *setting),
                         void *context)
{
    const struct settings *settings = setting_context;
    const struct kq_setting *row;
    for (size_t i = 0; (row = kq_setting_row(i)); i++) {
        kq_autobuf struct kq_buf value = {0}, fallback = {0};
        struct kq_server_setting setting = {.name = row->name,
                                            .is_number = row->type == KQ_SETTING_NUMBER,
                                            .is_flag = row->type == KQ_SETTING_FLAG};
        if (!row->section || value_of(settings->config, i, &value, &setting.is_default) < 0 ||
            value_of(settings->defaults, i, &fallback, NULL) < 0)
            continue;
        setting.value = (const char *)value.data;
        setting.fallback = (const char *)fallback.data;
        take(context, &setting);
    }
}

static struct kq_tls_settings tls_settings(const struct kq_tls_config *from)
{
    return (struct kq_tls_settings){
        .certificate = from->certificate,
        .key = from->key,
        .ca = from->ca,
        .crl = from->crl,
        .client_authentication = from->client_authentication,
        .threads = (unsigned)from->threads,
        .max_handshakes = (unsigned)from->max_handshakes,
        .handshake_ms = from->handshake_ms,
        .reload_ms = from->reload_ms,
        .buffer_bytes = from->buffer_bytes,
        .max_records = from->max_records,
    };
}

static int bind_listeners(const struct kq_config *config, struct settings *settings,
                          const struct kq_authsetup *who, struct kq_server **ret)
{
    struct kq_server_options options = {
        .listen = config->listen,
        .plaintext_user = config->plaintext_user,
        .threads = (unsigned)config->net_threads,
        .workers = (unsigned)config->net_workers,
        .readers = (unsigned)config->net_readers,
        .max_request_bytes = config->max_request_bytes,
        .max_request_memory = config->max_request_memory,
        .max_queued_bytes = config->max_queued_bytes,
        .max_send_bytes = config->max_send_bytes,
        .max_in_flight = (unsigned)config->max_in_flight,
        .max_connections = (unsigned)config->max_connections,
        .max_connections_per_ip = (unsigned)config->max_connections_per_ip,
        .max_connection_rate = (unsigned)config->max_connection_rate,
        .idle_ms = config->max_idle_ms,
        .request_ms = config->request_timeout_ms,
        .drain_ms = config->drain_timeout_ms,
        .mechanisms = who->mechanisms,
        .mechanism_count = who->mechanism_count,
        .principals = who->principals,
        .plain_without_tls = config->sasl.plain_without_tls,
        .max_sasl_bytes = config->sasl.max_receive_bytes,
        .sasl_ms = config->sasl.timeout_ms,
        .failed_login_delay_ms = config->sasl.delay_ms,
        .max_reauth_ms = config->sasl.max_reauth_ms,
        .tls = tls_settings(&config->tls),
        .audit = {.max_lines = (unsigned)config->audit_lines,
                  .repeat_ms = config->audit_repeat_ms,
                  .max_events = (unsigned)config->audit_events},
        .fetch_max_bytes = (int32_t)config->fetch_max_bytes,
        .max_described_partitions = (int32_t)config->max_described_partitions,
        .auto_create_topics = config->auto_create_topics,
        .umask = (unsigned)config->umask,
        .each_setting = each_setting,
        .setting_context = settings,
    };
    if (!kq_audit_parse_level(config->audit_log, &options.audit.level)) {
        kq_diag(LOG_ERR, "audit.log: `%.64s` is none of none, denied and all", config->audit_log);
        return -EINVAL;
    }
    return config->listen[0] ? kq_server_new(&options, ret) : 0;
}

struct parts {
    struct kq_auth *auth;
    struct kq_broker *broker;
    struct kq_server *server; /* NULL: no network */
    struct kq_fs *fs;         /* NULL: no mount */
};

/* Until asked to stop, or unmounted. Returns an exit code. */
static int serve(const struct parts *parts, const struct kq_config *config)
{
    int r = 0;
    kq_daemon_ready();
    if (parts->server)
        kq_server_announce(parts->server);
    if (parts->fs) {
        kq_diag(LOG_INFO, "%s is mounted on %s", config->data, config->mountpoint);
        r = kq_fs_run(parts->fs);
    } else {
        while (sem_wait(&stopped) < 0 && errno == EINTR)
            ;
    }
    if (r < 0)
        kq_diag(LOG_ERR, "%s: the connection to the kernel broke: %s", config->mountpoint,
                strerror(-r));
    kq_daemon_notify("STOPPING=1");
    return r < 0 ? KQ_EXIT_CONNECTION : KQ_EXIT_OK;
}

/* A signal from before `mounted` was set has found nothing to stop. */
static int listen_and_serve(const struct parts *parts, const struct kq_config *config)
{
    int code = KQ_EXIT_LISTEN;
    if (kq_signals_stopping())
        return KQ_EXIT_INTERRUPTED;
    if (!parts->server || kq_server_start(parts->server, parts->broker) == 0)
        code = serve(parts, config);
    if (parts->server)
        kq_server_stop(parts->server);
    return code;
}

static int mount_and_serve(struct parts *parts, struct kq_config *config)
{
    if (config->no_mount)
        return listen_and_serve(parts, config);
    kq_autofree char *mount_options = kq_paths_mount_options(config);
    if (!mount_options || mount_fs(parts->broker, config, mount_options, &parts->fs) < 0)
        return KQ_EXIT_MOUNT;
    set_mounted(parts->fs);
    int code = listen_and_serve(parts, config);
    set_mounted(NULL);
    kq_fs_free(parts->fs);
    return code;
}

static int run(struct kq_config *config, struct kq_authsetup *who, struct kq_server *server)
{
    struct parts parts = {.server = server};
    if (kq_auth_new(&parts.auth) < 0) {
        kq_diag(LOG_ERR, "out of memory");
        return KQ_EXIT_FAILURE;
    }
    int r = open_broker(config, parts.auth, &parts.broker);
    kq_signals_quiet();
    if (r == 0)
        kq_authsetup_use(who, parts.broker);
    int code = KQ_EXIT_INTERRUPTED;
    if (r < 0)
        code = broker_exit(r);
    else if (!kq_signals_stopping())
        code = mount_and_serve(&parts, config);
    if (r == 0)
        kq_broker_close(parts.broker);
    kq_auth_free(parts.auth);
    return code;
}

static int give_up_and_run(struct kq_config *config, struct kq_authsetup *who,
                           struct kq_server *server)
{
    sem_init(&stopped, 0, 0);
    int code = kq_privileges_give_up(config);
    if (code)
        return code;
    listening = server;
    kq_signals_on_hangup(hung_up);
    if (kq_signals_start(stop_serving, "recovering the log") < 0 || kq_helper_watch(end_alone) < 0)
        return KQ_EXIT_FAILURE;
    code = run(config, who, server);
    kq_signals_end();
    return code == KQ_EXIT_OK && alone ? KQ_EXIT_FAILURE : code;
}

static int bind_and_run(struct kq_config *config, const struct kq_config *defaults,
                        struct kq_authsetup *who)
{
    struct kq_server *server = NULL;
    struct settings settings = {config, defaults};
    umask(077);
    int r = bind_listeners(config, &settings, who, &server);
    if (r < 0)
        return r == -EINVAL ? KQ_EXIT_USAGE : KQ_EXIT_LISTEN;
    int code = give_up_and_run(config, who, server);
    kq_server_free(server);
    return code;
}

static int set_up_and_run(struct kq_config *config, const struct kq_config *defaults)
{
    struct kq_authsetup who;
    int r = kq_authsetup_init(config, &who);
    int code = r == 0         ? bind_and_run(config, defaults, &who)
               : r == -EINVAL ? KQ_EXIT_USAGE
                              : KQ_EXIT_FAILURE;
    kq_authsetup_release(&who);
    return code;
}

static int detach_and_run(struct kq_config *config, const struct kq_config *defaults)
{
    if (!config->foreground && kq_daemon_detach() < 0)
        return KQ_EXIT_FAILURE;
    if (config->debug)
        kq_diag_set_level(LOG_DEBUG);
    int code = kq_privileges_begin(config);
    if (code == 0)
        code = set_up_and_run(config, defaults);
    kq_privileges_end();
    return code;
}

static int help_broker(struct kq_config *config)
{
    int code = kq_paths_check(config);
    return code ? code : kq_helper_run(config);
}

static int start(struct kq_config *config)
{
    struct kq_config *defaults;
    int code = kq_paths_check(config);
    if (code)
        return code;
    if (kq_config_new(&defaults) < 0) {
        kq_diag(LOG_ERR, "out of memory");
        return KQ_EXIT_FAILURE;
    }
    code = detach_and_run(config, defaults);
    kq_config_free(defaults);
    return code;
}

static void stop_exporting(void)
{
}

static int open_and_export(const struct kq_export_command *command)
{
    struct kq_auth *auth;
    struct kq_broker *broker;
    if (kq_auth_new(&auth) < 0) {
        kq_diag(LOG_ERR, "out of memory");
        return KQ_EXIT_FAILURE;
    }
    int r = open_broker(command->config, auth, &broker);
    kq_signals_quiet();
    int code = r < 0 ? broker_exit(r) : kq_export_run(broker, command);
    if (r == 0)
        kq_broker_close(broker);
    kq_service_give_back(
        command->config->data); /* root may run it beside a broker of another user */
    kq_auth_free(auth);
    return code;
}

static int export(int argc, char **argv)
{
    struct kq_export_command command = {0};
    int code = KQ_EXIT_OK;
    int r = kq_export_parse(argc, argv, &command);
    if (r < 0)
        code = r == -ENOMEM ? KQ_EXIT_FAILURE : KQ_EXIT_USAGE;
    else if (command.act == KQ_EXPORT_HELP)
        kq_export_print_help(stdout);
    else if (kq_signals_start(stop_exporting, "recovering the log") < 0)
        code = KQ_EXIT_FAILURE;
    else {
        umask(077);
        code = open_and_export(&command);
        kq_signals_end();
    }
    kq_export_command_release(&command);
    return code;
}

int main(int argc, char **argv)
{
    enum kq_act act;
    struct kq_config *config;
    raise_file_limit();
    if (kq_export_is_asked(argc, argv))
        return export(argc - 1, argv + 1);
    if (kq_passwd_is_asked(argc, argv))
        return kq_passwd_run(argc - 1, argv + 1);
    bool helper = kq_helper_is_asked(argc, argv);
    argc -= helper;
    argv += helper;
    int r = kq_options_parse(argc, argv, &act, &config);
    if (r)
        return r == -ENOMEM ? KQ_EXIT_FAILURE : KQ_EXIT_USAGE;
    int code = KQ_EXIT_OK;
    if (act == KQ_ACT_HELP)
        kq_options_print_help(stdout);
    else if (act == KQ_ACT_VERSION)
        printf("kqfs " KQFS_VERSION "\nlibfuse %s\n", fuse_pkgversion());
    else if (act == KQ_ACT_SERVE)
        code = helper ? help_broker(config) : start(config);
    kq_config_free(config);
    return code;
}
