#include "broker/privileges.h"

#include <signal.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/confine.h"
#include "broker/helper.h"
#include "broker/options.h"
#include "broker/paths.h"
#include "broker/secretfiles.h"
#include "broker/service.h"

#define HANDED_OVER 3 /* SD_LISTEN_FDS_START */

static struct kq_service_user user;

static bool wants(const struct kq_config *config)
{
    return config->user[0] != '\0';
}

static int check_words(const struct kq_config *config)
{
    const char *level = config->confine, *action = config->confine_action;
    if (strcmp(level, "yes") != 0 && strcmp(level, "no") != 0 && strcmp(level, "require") != 0)
        kq_diag(LOG_ERR, "confine: `%.64s` is neither yes nor no nor require", level);
    else if (strcmp(action, "refuse") != 0 && strcmp(action, "kill") != 0)
        kq_diag(LOG_ERR, "confine.action: `%.64s` is neither refuse nor kill", action);
    else if (config->helper && !wants(config))
        kq_diag(LOG_ERR, "helper: needs the setting user: whom it serves");
    else
        return 0;
    return KQ_EXIT_USAGE;
}

static int exit_code(int r)
{
    return r == -EINVAL ? KQ_EXIT_USAGE : KQ_EXIT_FAILURE;
}

/* --- The helper --- */

/* CALL gets the options of CONFIG's helper. Its return; -ENOMEM. */
static int with_options(const struct kq_config *config,
                        int (*call)(const struct kq_helper_options *options, void *context),
                        void *context)
{
    struct kq_secret_files files;
    kq_autofree char *mount_options = kq_paths_mount_options(config);
    if (!mount_options || kq_secret_files_of(config, &files) < 0)
        return -ENOMEM;
    struct kq_helper_options options = {
        .mountpoint = config->no_mount ? NULL : config->mountpoint,
        .source = config->data,
        .mount_options = mount_options,
        .files = (const char *const *)files.paths,
        .file_count = files.count,
        .require = strcmp(config->confine, "require") == 0,
        .uid = user.uid,
        .gid = user.gid,
    };
    int r = call(&options, context);
    kq_secret_files_release(&files);
    return r;
}

/* --- The broker --- */

static int fork_helper(const struct kq_helper_options *options, void *context)
{
    const struct kq_config *config = context;
    return kq_helper_fork(options, !config->foreground);
}

int kq_privileges_begin(const struct kq_config *config)
{
    int code = check_words(config);
    if (code || !wants(config))
        return code;
    int r = kq_service_find(config, &user);
    if (r == 0 && kq_service_own_data(&user, config->data) < 0)
        return KQ_EXIT_DATA_UNUSABLE;
    if (r == 0 && config->helper)
        r = kq_helper_connect(config->helper);
    else if (r == 0 && geteuid() == 0)
        r = with_options(config, fork_helper, (void *)config);
    return r < 0 ? exit_code(r) : 0;
}

/* The paths of unix://, of which LISTEN has as many as there are words at most. */
static size_t sockets_of(char *listen, const char **ret, size_t room)
{
    static const char scheme[] = "unix://";
    size_t count = 0;
    char *rest = NULL;
    for (char *word = strtok_r(listen, " \t", &rest); word && count < room;
         word = strtok_r(NULL, " \t", &rest))
        if (strncasecmp(word, scheme, strlen(scheme)) == 0) {
            word[strcspn(word, ",")] = '\0';
            ret[count++] = word + strlen(scheme);
        }
    return count;
}

static int confine(const struct kq_config *config)
{
    if (strcmp(config->confine, "no") == 0)
        return 0;
    size_t room = strlen(config->listen) / strlen("unix://") + 1;
    kq_autofree char *listen = kq_strdup(config->listen);
    kq_autofree const char **sockets = kq_zalloc(room * sizeof(*sockets));
    if (!listen || !sockets)
        return -ENOMEM;
    struct kq_confine_options options = {
        .require = strcmp(config->confine, "require") == 0,
        .kill = strcmp(config->confine_action, "kill") == 0,
        .data = config->data,
        .sockets = sockets,
        .socket_count = sockets_of(listen, sockets, room),
        .kerberos = config->kerberos.keytab != NULL,
    };
    return kq_confine_broker(&options);
}

int kq_privileges_give_up(const struct kq_config *config)
{
    if (!wants(config))
        return 0;
    int r = kq_service_become(&user);
    if (r == 0)
        r = confine(config);
    return r < 0 ? KQ_EXIT_FAILURE : 0;
}

void kq_privileges_end(void)
{
    kq_helper_end();
    kq_service_release(&user);
}

/* --- The helper of a service manager --- */

bool kq_helper_is_asked(int argc, char **argv)
{
    return argc > 1 && strcmp(argv[1], "helper") == 0;
}

/* The first connection of the broker's user. */
static int accept_broker(void)
{
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    if (!pid || strtol(pid, NULL, 10) != getpid() || !count || strcmp(count, "1") != 0) {
        kq_diag(LOG_ERR, "helper: started without a socket: kqfs-helper@.socket starts it");
        return -EINVAL;
    }
    for (;;) {
        struct ucred peer;
        socklen_t length = sizeof(peer);
        int fd = accept4(HANDED_OVER, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0 && errno != EINTR && errno != ECONNABORTED) {
            kq_diag(LOG_ERR, "helper: accept: %s", strerror(errno));
            return -errno;
        }
        if (fd < 0)
            continue;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && peer.uid == user.uid)
            return fd;
        kq_diag(LOG_ERR, "helper: refused a process of another user than the broker's");
        close(fd);
    }
}

static void on_stop(int signal_number)
{
    kq_helper_stop();
}

static int serve(const struct kq_helper_options *options, void *context)
{
    struct kq_helper *helper;
    struct sigaction stop = {.sa_handler = on_stop, .sa_flags = SA_RESTART};
    int fd = accept_broker();
    if (fd < 0)
        return fd;
    int r = kq_helper_new(options, &helper);
    if (r < 0) {
        close(fd);
        return r;
    }
    close(HANDED_OVER);
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGINT, &stop, NULL);
    r = kq_confine_helper(options->require);
    if (r == 0)
        r = kq_helper_serve(helper, fd);
    else
        close(fd);
    kq_helper_free(helper);
    return r;
}

int kq_helper_run(const struct kq_config *config)
{
    int code = check_words(config);
    if (code == 0 && !wants(config)) {
        kq_diag(LOG_ERR, "helper: needs the setting user: whom it serves");
        code = KQ_EXIT_USAGE;
    }
    int r = code ? 0 : kq_service_find(config, &user);
    if (code == 0 && r == 0 && geteuid() != 0) {
        kq_diag(LOG_ERR, "helper: only root can mount for others; start it as root");
        code = KQ_EXIT_USAGE;
    }
    if (code == 0 && r == 0)
        r = with_options(config, serve, NULL);
    kq_service_release(&user);
    return code ? code : r < 0 ? exit_code(r) : KQ_EXIT_OK;
}
