#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/exportcommand.h"
#include "broker/options.h"

enum {
    OPTION_DATA = 256,
    OPTION_CONFIG,
    OPTION_TOPIC,
    OPTION_OVERWRITE,
    OPTION_COMMANDS,
};

static const struct option options[] = {
    {"data", required_argument, NULL, OPTION_DATA},
    {"config", required_argument, NULL, OPTION_CONFIG},
    {"topic", required_argument, NULL, OPTION_TOPIC},
    {"overwrite", no_argument, NULL, OPTION_OVERWRITE},
    {"commands", no_argument, NULL, OPTION_COMMANDS},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

bool kq_export_is_asked(int argc, char **argv)
{
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    return argc > 1 && strcmp(argv[1], "export") == 0 &&
           strncmp(slash ? slash + 1 : argv[0], "mount.", 6) != 0;
}

static int usage_error(const char *text, const char *which)
{
    kq_diag(LOG_ERR, "export: %s%s; see kqfs export --help", text, which);
    return -EINVAL;
}

static int set(struct kq_export_command *command, const char *name, const char *value)
{
    return kq_config_set(command->config, KQ_ORIGIN_COMMAND_LINE, "command line", 0, NULL, name,
                         value);
}

static int take_option(struct kq_export_command *command, int c, char **argv)
{
    switch (c) {
    case OPTION_DATA:
        return set(command, "data", optarg);
    case OPTION_CONFIG:
        return set(command, "config", optarg);
    case OPTION_TOPIC:
        command->topics[command->topic_count++] = optarg;
        return 0;
    case OPTION_OVERWRITE:
        command->overwrite = true;
        return 0;
    case OPTION_COMMANDS:
        command->act = KQ_EXPORT_COMMANDS;
        return 0;
    case 'h':
        command->act = KQ_EXPORT_HELP;
        return 0;
    case ':':
        return usage_error("a value is missing for ", argv[optind - 1]);
    default:
        return usage_error("no option ", argv[optind - 1]);
    }
}

static int check(const struct kq_export_command *command)
{
    struct stat st;
    kq_autofree char *path = kq_format("%s/meta.properties", command->config->data);
    if (!path)
        return -ENOMEM;
    if (!command->config->data[0])
        return usage_error("neither XDG_DATA_HOME nor HOME says where data is: give --data DIR",
                           "");
    if (stat(path, &st) < 0) {
        kq_diag(LOG_ERR, "%s is no data directory: %s; name another with --data",
                command->config->data, strerror(errno));
        return -EINVAL;
    }
    return kq_config_check(command->config);
}

static int take_target(struct kq_export_command *command, int count, char **arguments)
{
    bool wanted = command->act == KQ_EXPORT_RUN;
    if (count > wanted)
        return usage_error("too many arguments: ", arguments[wanted]);
    if (count < wanted)
        return usage_error("no TARGET_LOG_DIR given (a directory `export` to mount on is ./export)",
                           "");
    command->target = wanted ? arguments[0] : NULL;
    return 0;
}

int kq_export_parse(int argc, char **argv, struct kq_export_command *ret)
{
    int c, r = kq_config_new(&ret->config);
    ret->topics = kq_zalloc(((size_t)argc + 1) * sizeof(*ret->topics));
    if (r == 0 && !ret->topics)
        r = -ENOMEM;
    opterr = 0;
    optind = 0;
    while (r == 0 && ret->act != KQ_EXPORT_HELP &&
           (c = getopt_long(argc, argv, ":h", options, NULL)) != -1)
        r = take_option(ret, c, argv);
    if (r < 0 || ret->act == KQ_EXPORT_HELP)
        return r;
    r = take_target(ret, argc - optind, argv + optind);
    if (r == 0)
        r = kq_options_read_file(ret->config);
    return r < 0 ? r : check(ret);
}

void kq_export_command_release(struct kq_export_command *command)
{
    kq_config_free(command->config);
    free(command->topics);
    *command = (struct kq_export_command){0};
}

void kq_export_print_help(FILE *to)
{
    fputs(
        "Usage: kqfs export [options] TARGET_LOG_DIR\n"
        "       kqfs export [options] --commands\n"
        "Puts messages, with their offsets, into one of the log.dirs of an Apache Kafka 4.x that\n"
        "was stopped cleanly, under topics that were made there. No broker runs on DIR.\n\n"
        "  --data DIR       where the log lives, as for kqfs\n"
        "  --config FILE    as for kqfs\n"
        "  --topic NAME     only this topic; may be given again (all but internal topics);\n"
        "                   __consumer_offsets brings the committed offsets of groups\n"
        "  --overwrite      replace partitions that hold messages there\n"
        "  --commands       print commands that make the topics there, with their\n"
        "                   configurations; BOOTSTRAP=HOST:PORT says where\n"
        "  -h, --help       this text\n\n"
        "Start that Kafka afterwards. The manual: kqfs(1).\n",
        to);
}
