#include "broker/options.h"

#include <getopt.h>
#include <string.h>

#include "broker/base/diag.h"
#include "broker/base/mem.h"

/* What getopt_long returns for long options: rows of the settings' table from ROW on. */
enum {
    ROW = 1024,
    TOPIC = 4096,
};

static const struct option fixed_options[] = {
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
};

struct parse {
    struct kq_config *config;
    struct option *options;
    char **topic_names; /* "topic.NAME", owned */
    size_t topic_count;
    bool helper; /* called by mount(8) as mount.fuse.kqfs */
    bool data_given;
    enum kq_act act;
};

static void release(struct parse *parse)
{
    for (size_t i = 0; parse->topic_names && i < parse->topic_count; i++)
        free(parse->topic_names[i]);
    free(parse->topic_names);
    free(parse->options);
    kq_config_free(parse->config);
}

/* The long options: the fixed ones, one of each setting, one of each topic default. */
static int build_options(struct parse *parse)
{
    size_t rows = 0, n = 0;
    while (kq_setting_row(rows))
        rows++;
    while (kq_topic_config_name(parse->topic_count))
        parse->topic_count++;
    size_t all = kq_array_size(fixed_options) + rows + parse->topic_count + 1;
    parse->options = kq_zalloc(all * sizeof(*parse->options));
    parse->topic_names = kq_zalloc((parse->topic_count + 1) * sizeof(*parse->topic_names));
    if (!parse->options || !parse->topic_names)
        return -ENOMEM;
    for (; n < kq_array_size(fixed_options); n++)
        parse->options[n] = fixed_options[n];
    for (size_t i = 0; i < rows; i++) {
        const struct kq_setting *row = kq_setting_row(i);
        int argument = row->type == KQ_SETTING_FLAG ? optional_argument : required_argument;
        parse->options[n++] = (struct option){row->name, argument, NULL, (int)(ROW + i)};
    }
    for (size_t i = 0; i < parse->topic_count; i++) {
        char *name = kq_format("topic.%s", kq_topic_config_name(i));
        if (!name)
            return -ENOMEM;
        parse->topic_names[i] = name;
        parse->options[n++] = (struct option){name, required_argument, NULL, (int)(TOPIC + i)};
    }
    return 0;
}

static int usage_error(const char *format, ...) kq_printf_like(1, 2);

static int usage_error(const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    kq_diag(LOG_ERR, "%s; see kqfs --help", text);
    return -EINVAL;
}

static int set(struct parse *parse, const char *name, const char *value)
{
    if (strcmp(name, "data") == 0)
        parse->data_given = true;
    return kq_config_set(parse->config, KQ_ORIGIN_COMMAND_LINE, "command line", 0, NULL, name,
                         value ? value : "true");
}

/* What -f, -n, -s, ... mean when mount(8) calls its helper: see "External helpers" in mount(8). */
static int take_helper_option(struct parse *parse, int c)
{
    switch (c) {
    case 'f':
        parse->act = KQ_ACT_NOTHING;
        return 0;
    case 's':
        parse->config->sloppy = true;
        return 0;
    case 'N':
        return usage_error("-N: run kqfs inside the other namespace instead (nsenter -m)");
    default: /* -n: no mtab to leave out; -v: nothing to add; -t: said by the name */
        return 0;
    }
}

static int take_option(struct parse *parse, int c, char **argv)
{
    if (c >= TOPIC)
        return set(parse, parse->topic_names[c - TOPIC], optarg);
    if (c >= ROW)
        return set(parse, kq_setting_row((size_t)(c - ROW))->name, optarg);
    switch (c) {
    case 'h':
        parse->act = KQ_ACT_HELP;
        return 0;
    case 'V':
        parse->act = KQ_ACT_VERSION;
        return 0;
    case 'o':
        return kq_config_set_mount_options(parse->config, KQ_ORIGIN_MOUNT_OPTION, "-o", 0, optarg);
    case ':':
        return usage_error("%s needs a value", argv[optind - 1]);
    case '?':
        if (optopt && optopt < ROW)
            return usage_error("no option -%c", optopt);
        return usage_error("no option %s, or not unambiguous", argv[optind - 1]);
    default:
        break;
    }
    if (parse->helper)
        return take_helper_option(parse, c);
    if (c == 's')
        return set(parse, "max.receivers", "1");
    return set(parse, c == 'f' ? "foreground" : "debug", "true");
}

static int take_arguments(struct parse *parse, int count, char **arguments)
{
    if (count > 2)
        return usage_error("`%s`: one MOUNTPOINT, or SOURCE and MOUNTPOINT", arguments[2]);
    if (count == 2) {
        if (strstr(arguments[0], "://"))
            return usage_error("%s: remote brokers are not part of this build; SOURCE is a data "
                               "directory",
                               arguments[0]);
        if (parse->data_given)
            return usage_error("SOURCE `%s` and --data both name the data directory", arguments[0]);
        int r = set(parse, "data", arguments[0]);
        if (r)
            return r;
    }
    return count ? set(parse, "mountpoint", arguments[count - 1]) : 0;
}

int kq_options_read_file(struct kq_config *config)
{
    if (config->file) {
        int r = kq_config_read_file(config, config->file);
        if (r == -ENOENT)
            kq_diag(LOG_ERR, "%s: no such file; create it or leave out --config", config->file);
        return r;
    }
    config->file = kq_strdup(KQ_DEFAULT_CONFIG_FILE);
    if (!config->file)
        return -ENOMEM;
    int r = kq_config_read_file(config, config->file);
    if (r == -ENOENT) {
        free(config->file);
        config->file = NULL;
        r = 0;
    }
    return r;
}

static int check_complete(struct kq_config *config)
{
    if (!config->mountpoint && !config->no_mount)
        return usage_error("no MOUNTPOINT given");
    if (config->no_mount && !config->listen[0])
        return usage_error("--no-mount leaves nothing to serve without --listen");
    if (!config->data[0])
        return usage_error("neither XDG_DATA_HOME nor HOME says where data goes: give --data DIR");
    if (config->debug)
        config->foreground = true;
    return kq_config_check(config);
}

static int parse_all(struct parse *parse, int argc, char **argv)
{
    int c, r = build_options(parse);
    const char *letters = parse->helper ? ":fnsvo:N:t:hV" : ":fdshVo:";
    opterr = 0;
    optind = 0;
    while (r == 0 && parse->act != KQ_ACT_HELP && parse->act != KQ_ACT_VERSION &&
           (c = getopt_long(argc, argv, letters, parse->options, NULL)) != -1)
        r = take_option(parse, c, argv);
    if (r || parse->act == KQ_ACT_HELP || parse->act == KQ_ACT_VERSION)
        return r;
    r = take_arguments(parse, argc - optind, argv + optind);
    if (r == 0)
        r = kq_options_read_file(parse->config);
    if (r == 0)
        r = check_complete(parse->config);
    return r;
}

int kq_options_parse(int argc, char **argv, enum kq_act *ret_act, struct kq_config **ret)
{
    struct parse parse = {.act = KQ_ACT_SERVE};
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    const char *called = slash ? slash + 1 : argc > 0 ? argv[0] : "";
    parse.helper = strncmp(called, "mount.", 6) == 0;
    int r = kq_config_new(&parse.config);
    if (r == 0)
        r = parse_all(&parse, argc, argv);
    if (r == 0) {
        *ret_act = parse.act;
        *ret = parse.config;
        parse.config = NULL;
    }
    release(&parse);
    return r == -ENOMEM ? r : r ? -EINVAL : 0;
}

static void print_row(FILE *to, const struct kq_setting *row, const struct kq_config *config)
{
    char left[64];
    if (row->letter)
        snprintf(left, sizeof(left), "-%c, --%s", row->letter, row->name);
    else
        snprintf(left, sizeof(left), "--%s %s", row->name, row->argument ? row->argument : "");
    fprintf(to, "  %-25s %s", left, row->help);
    const char *at = (const char *)config + row->offset;
    if (row->type == KQ_SETTING_NUMBER)
        fprintf(to, " (%lld)", (long long)*(const int64_t *)at);
    if (row->type == KQ_SETTING_PATH && *(char *const *)at)
        fprintf(to, " (%s)", *(char *const *)at);
    fputc('\n', to);
}

void kq_options_print_help(FILE *to)
{
    struct kq_config *config;
    const struct kq_setting *row;
    if (kq_config_new(&config) < 0)
        return;
    fputs("Usage: kqfs [options] MOUNTPOINT\n"
          "       kqfs SOURCE MOUNTPOINT [-o OPTIONS]     (SOURCE: a data directory)\n"
          "       kqfs export [options] TARGET_LOG_DIR    (see kqfs export --help)\n"
          "       kqfs passwd [options] NAME              (see kqfs passwd --help)\n"
          "Mounts a message log: topics are directories, `cat >>` produces, `tail -f`\n"
          "consumes, permissions grant access, and every message is durable.\n\n"
          "  -h, --help                this text\n"
          "  -V, --version             the version of kqfs and of libfuse\n"
          "  -o OPTION[,OPTION...]       mount options (allow_other, ro, ...); NAME=VALUE\n"
          "  -s                        one thread takes all requests\n",
          to);
    for (size_t i = 0; (row = kq_setting_row(i)); i++)
        if (row->in_help)
            print_row(to, row, config);
    fputs("\nMore settings, and defaults of topics (--topic.retention.ms MS): kqfs.conf(5).\n"
          "Stop it with `fusermount3 -u MOUNTPOINT`. The manual: kqfs(1).\n",
          to);
    kq_config_free(config);
}
