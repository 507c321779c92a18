/* `kqfs passwd`: derives what is to be kept of a password and hands that over: through the mount of
 * the broker that has the data directory, or, where none has it, to the directory itself. The
 * password never leaves this process. */
#include "broker/passwd.h"

#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <mntent.h>
#include <openssl/crypto.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <termios.h>

#include "auth/scram.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/options.h"
#include "broker/service.h"
#include "broker/users.h"

#define MOUNTS "/proc/self/mounts"
#define TEXT_BYTES 4096 /* more than the lines of one user take */

enum {
    OPTION_DATA = 256,
    OPTION_CONFIG,
    OPTION_USER,
    OPTION_DELETE,
    OPTION_MOUNTPOINT,
};

static const struct option options[] = {
    {"data", required_argument, NULL, OPTION_DATA},
    {"config", required_argument, NULL, OPTION_CONFIG},
    {"user", required_argument, NULL, OPTION_USER},
    {"delete", no_argument, NULL, OPTION_DELETE},
    {"mountpoint", required_argument, NULL, OPTION_MOUNTPOINT},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

struct command {
    struct kq_config *config;
    const char *name, *mountpoint;
    bool deletes, help;
};

bool kq_passwd_is_asked(int argc, char **argv)
{
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    return argc > 1 && strcmp(argv[1], "passwd") == 0 &&
           strncmp(slash ? slash + 1 : argv[0], "mount.", 6) != 0;
}

/* --- Arguments --- */

static int usage_error(const char *text, const char *which)
{
    kq_diag(LOG_ERR, "passwd: %s%s; see kqfs passwd --help", text, which);
    return -EINVAL;
}

static int take_option(struct command *command, int c, char **argv)
{
    const char *name = c == OPTION_DATA ? "data" : c == OPTION_CONFIG ? "config" : "user";
    switch (c) {
    case OPTION_DATA:
    case OPTION_CONFIG:
    case OPTION_USER:
        return kq_config_set(command->config, KQ_ORIGIN_COMMAND_LINE, "command line", 0, NULL, name,
                             optarg);
    case OPTION_DELETE:
        command->deletes = true;
        return 0;
    case OPTION_MOUNTPOINT:
        command->mountpoint = optarg;
        return 0;
    case 'h':
        command->help = true;
        return 0;
    case ':':
        return usage_error("a value is missing for ", argv[optind - 1]);
    default:
        return usage_error("no option ", argv[optind - 1]);
    }
}

static int take_name(struct command *command, int count, char **arguments)
{
    if (count != 1)
        return usage_error(count ? "too many arguments: " : "no NAME given",
                           count ? arguments[1] : "");
    command->name = arguments[0];
    if (!kq_user_name_valid(command->name))
        return usage_error("a name has 1 to 255 bytes of UTF-8 without control characters", "");
    return 0;
}

static int parse(int argc, char **argv, struct command *ret)
{
    int c, r = kq_config_new(&ret->config);
    opterr = 0;
    optind = 0;
    while (r == 0 && !ret->help && (c = getopt_long(argc, argv, ":h", options, NULL)) != -1)
        r = take_option(ret, c, argv);
    if (r < 0 || ret->help)
        return r;
    r = take_name(ret, argc - optind, argv + optind);
    if (r == 0)
        r = kq_options_read_file(ret->config);
    if (r == 0 && !ret->config->data[0] && !ret->mountpoint)
        r = usage_error("neither XDG_DATA_HOME nor HOME says where data is: give --data DIR", "");
    return r;
}

static void print_help(void)
{
    fputs("Usage: kqfs passwd [options] NAME\n"
          "Sets the password with which clients of sasl_plaintext:// and sasl_ssl:// say that\n"
          "they are User:NAME. It is read from the terminal, or, where there is none, as the\n"
          "first line of the standard input. A broker that runs on the data takes it through\n"
          "its mount; one without takes passwords from kafka-configs.\n\n"
          "  --delete          NAME cannot log in with a password any more\n"
          "  --data DIR        where the log lives, as for kqfs\n"
          "  --config FILE, --user USER\n"
          "                    as for kqfs\n"
          "  --mountpoint DIR  where the broker is mounted, if --data does not tell\n"
          "  -h, --help        this text\n",
          stdout);
}

/* --- The password --- */

struct password {
    char bytes[KQ_PASSWORD_BYTES + 2]; /* with a newline and a NUL */
    size_t length;
};

static void wipe(struct password *password)
{
    OPENSSL_cleanse(password, sizeof(*password));
}

#define autowipe __attribute__((cleanup(wipe)))

static volatile sig_atomic_t caught; /* the signal that came while the terminal was silent */

/* One line, by read(2): a stream would keep a copy. -EINTR: there was a signal. */
static int read_line(int fd, struct password *ret)
{
    ret->length = 0;
    for (;;) {
        ssize_t n = caught ? -1 : read(fd, ret->bytes + ret->length, 1);
        if (n < 0 && caught)
            return -EINTR;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0 || ret->bytes[ret->length] == '\n')
            return 0;
        if (++ret->length > KQ_PASSWORD_BYTES)
            return -EMSGSIZE;
    }
}

/* What would end or stop the process and leave the terminal silent. */
static const int signals[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU};

static void on_signal(int number)
{
    caught = number;
}

static int ask_silently(int fd, struct password *ret)
{
    struct termios before, silent;
    if (tcgetattr(fd, &before) < 0)
        return -errno;
    silent = before;
    silent.c_lflag &= ~(tcflag_t)(ECHO | ECHONL);
    if (tcsetattr(fd, TCSAFLUSH, &silent) < 0)
        return -errno;
    int r = read_line(fd, ret);
    tcsetattr(fd, TCSAFLUSH, &before);
    return r;
}

static int ask(int fd, const char *prompt, const char *name, struct password *ret)
{
    struct sigaction note = {.sa_handler = on_signal}, before[kq_array_size(signals)];
    dprintf(fd, "%s %s: ", prompt, name);
    for (size_t i = 0; i < kq_array_size(signals); i++)
        sigaction(signals[i], &note, &before[i]);
    int r = ask_silently(fd, ret);
    for (size_t i = 0; i < kq_array_size(signals); i++)
        sigaction(signals[i], &before[i], NULL);
    dprintf(fd, "\n");
    if (caught)
        raise(caught);
    return r;
}

static int ask_twice(int fd, const char *name, struct password *ret)
{
    autowipe struct password again = {.length = 0};
    int r = ask(fd, "New password of", name, ret);
    if (r == 0)
        r = ask(fd, "Once more, the password of", name, &again);
    if (r == 0 &&
        (again.length != ret->length || memcmp(again.bytes, ret->bytes, ret->length) != 0))
        r = usage_error("the two passwords differ", "");
    return r;
}

static int get_password(const char *name, struct password *ret)
{
    int r;
    if (isatty(STDIN_FILENO)) {
        kq_autoclose int fd = open("/dev/tty", O_RDWR | O_CLOEXEC);
        r = ask_twice(fd >= 0 ? fd : STDIN_FILENO, name, ret);
    } else {
        r = read_line(STDIN_FILENO, ret);
    }
    if (r == -EMSGSIZE)
        return usage_error("a password has 1024 bytes at most", "");
    if (r == 0 && ret->length == 0)
        return usage_error("a password has one byte at least", "");
    if (r < 0 && r != -EINVAL)
        kq_diag(LOG_ERR, "passwd: cannot read the password: %s", strerror(-r));
    return r;
}

/* --- What is to be kept of it --- */

static int append_credential(const struct command *command, enum kq_scram_hash hash,
                             const struct password *password, struct kq_buf *ret)
{
    struct kq_scram_credential credential;
    int r = kq_scram_derive(hash, password->bytes, password->length,
                            (int32_t)command->config->sasl.scram_iterations, &credential);
    if (r == 0)
        r = kq_buf_append_string(ret, "set ");
    if (r == 0)
        r = kq_user_name_append(ret, command->name);
    if (r == 0)
        r = kq_buf_append_string(ret, " ");
    if (r == 0)
        r = kq_credential_format(hash, &credential, ret);
    OPENSSL_cleanse(&credential, sizeof(credential));
    return r;
}

static int make_text(const struct command *command, struct kq_buf *ret)
{
    autowipe struct password password = {.length = 0};
    int r = command->deletes ? 0 : get_password(command->name, &password);
    if (r == 0)
        r = kq_buf_reserve(ret, TEXT_BYTES); /* so that it never moves and leaves a copy behind */
    if (r < 0)
        return r;
    if (command->deletes) {
        r = kq_buf_append_string(ret, "delete ");
        if (r == 0)
            r = kq_user_name_append(ret, command->name);
        return r < 0 ? r : kq_buf_append_string(ret, "\n");
    }
    for (int hash = 0; hash < KQ_SCRAM_HASHES && r == 0; hash++)
        r = append_credential(command, (enum kq_scram_hash)hash, &password, ret);
    return r;
}

/* --- Where it goes: a broker that runs --- */

/* Is what lies there the mount of who has the data, or of root? Anybody may mount a tree that says
 * so, and what is kept of a password is not for anybody. */
static bool is_trusted(const struct mntent *entry, const char *data)
{
    struct stat about;
    const char *option = hasmntopt(entry, "user_id");
    unsigned long user = option ? strtoul(option + strlen("user_id="), NULL, 10) : 0;
    return user == 0 || user == geteuid() || (stat(data, &about) == 0 && about.st_uid == user);
}

/* -ENOENT: no broker that knows .kqfs/passwd is there; -ENOTCONN: none at all. */
static int open_mount(const char *mount)
{
    kq_autofree char *path = kq_format("%s/.kqfs/passwd", mount);
    if (!path)
        return -ENOMEM;
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* Opens what the broker of the directory DATA takes changes from. -ENOENT: it is mounted nowhere.
 */
static int find_mount(const char *data)
{
    struct mntent entry;
    char room[3 * 4096];
    int found = -ENOENT;
    FILE *mounts = setmntent(MOUNTS, "re");
    while (mounts && found < 0 && getmntent_r(mounts, &entry, room, sizeof(room))) {
        if (strcmp(entry.mnt_type, "fuse.kqfs") != 0 || strcmp(entry.mnt_fsname, data) != 0 ||
            !is_trusted(&entry, data))
            continue;
        /* A part of the tree may be bound somewhere, and a dead mount be left over. */
        int r = open_mount(entry.mnt_dir);
        if (r != -ENOENT && r != -ENOTDIR && r != -ENOTCONN)
            found = r;
    }
    if (mounts)
        endmntent(mounts);
    return found;
}

/* All of it at once: it is one change. */
static int write_text(int fd, const struct kq_buf *text)
{
    ssize_t n = write(fd, text->data, text->length);
    return n < 0 ? -errno : (size_t)n == text->length ? 0 : -EIO;
}

/* --- Or the directory itself --- */

/* Root leaves nothing of its own in the directory of another user, and follows no link in it: it
 * becomes that user. */
static int become_owner(const struct kq_config *config)
{
    struct kq_service_user user = {.groups = NULL};
    struct stat about;
    if (geteuid() != 0)
        return 0;
    if (config->user[0]) {
        int r = kq_service_find(config, &user);
        if (r == 0)
            r = kq_service_own_data(&user, config->data);
        kq_service_release(&user);
        if (r < 0)
            return r;
    }
    if (stat(config->data, &about) < 0 || about.st_uid == 0)
        return 0;
    if (setgroups(0, NULL) < 0 || setresgid(about.st_gid, about.st_gid, about.st_gid) < 0 ||
        setresuid(about.st_uid, about.st_uid, about.st_uid) < 0) {
        kq_diag(LOG_ERR, "passwd: cannot become the user %lu, who has %s: %s",
                (unsigned long)about.st_uid, config->data, strerror(errno));
        return -EPERM;
    }
    return 0;
}

static int report(const struct command *command, const char *where, int r)
{
    if (r == -ENOENT)
        kq_diag(LOG_ERR, "passwd: %s has no password", command->name);
    else if (r == -EACCES || r == -EPERM)
        kq_diag(LOG_ERR,
                "passwd: %s: %s; the owner of the mount's root may do this, and root where the "
                "mount lets root in",
                where, strerror(-r));
    else if (r == -EDQUOT)
        kq_diag(LOG_ERR, "passwd: there are as many users as max_users allows");
    else if (r < 0)
        kq_diag(LOG_ERR, "passwd: %s: %s", where, strerror(-r));
    return r;
}

static int alter_directory(const struct command *command, const struct kq_buf *text)
{
    const struct kq_config *config = command->config;
    bool is_new = access(config->data, F_OK) < 0 && errno == ENOENT;
    int r = become_owner(config);
    if (r < 0)
        return r;
    if (is_new)
        kq_diag(LOG_NOTICE,
                "passwd: no broker has been in %s: if you mean another directory, give "
                "--data DIR",
                config->data);
    r = kq_user_alter_stopped(config->data, (uint32_t)config->sasl.max_users,
                              (const char *)text->data, text->length);
    if (r != -EWOULDBLOCK)
        return report(command, config->data, r);
    kq_diag(LOG_ERR,
            "passwd: a broker uses %s and its mount is not to be found: say where with "
            "--mountpoint; one without a mount takes passwords over the network only: "
            "kafka-configs --alter --entity-type users --entity-name %s --add-config "
            "'SCRAM-SHA-256=[password=...]'",
            config->data, command->name);
    return r;
}

static int hand_over(const struct command *command, const struct kq_buf *text)
{
    const char *data = command->config->data;
    kq_autofree char *real = realpath(data, NULL);
    int fd = command->mountpoint ? open_mount(command->mountpoint) : find_mount(real ? real : data);
    if (fd >= 0) {
        int r = write_text(fd, text);
        close(fd);
        return report(command, command->mountpoint ? command->mountpoint : data, r);
    }
    if (command->mountpoint && (fd == -ENOENT || fd == -ENOTDIR || fd == -ENOTCONN)) {
        kq_diag(LOG_ERR, "passwd: %s: no broker is mounted there that takes passwords",
                command->mountpoint);
        return -EIO;
    }
    return fd == -ENOENT ? alter_directory(command, text)
                         : report(command, command->mountpoint ? command->mountpoint : data, fd);
}

int kq_passwd_run(int argc, char **argv)
{
    struct command command = {0};
    struct kq_buf text = {0};
    int r = parse(argc, argv, &command), code = KQ_EXIT_OK;
    bool dumpable = prctl(PR_GET_DUMPABLE) == 1;
    prctl(PR_SET_DUMPABLE, 0); /* no core file, and no other process of this user, is to have it */
    if (r < 0)
        code = r == -ENOMEM ? KQ_EXIT_FAILURE : KQ_EXIT_USAGE;
    else if (command.help)
        print_help();
    else if ((r = make_text(&command, &text)) < 0)
        code = r == -EINVAL ? KQ_EXIT_USAGE : KQ_EXIT_FAILURE;
    else if ((r = hand_over(&command, &text)) < 0)
        code = r == -EWOULDBLOCK ? KQ_EXIT_DATA_IN_USE : KQ_EXIT_FAILURE;
    if (text.data)
        OPENSSL_cleanse(text.data, text.capacity);
    kq_buf_release(&text);
    if (dumpable)
        prctl(PR_SET_DUMPABLE, 1);
    kq_config_free(command.config);
    return code;
}
