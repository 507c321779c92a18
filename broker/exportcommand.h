/* The command line of `kqfs export`. */
#pragma once

#include <stdio.h>

#include "broker/config.h"

enum kq_export_act {
    KQ_EXPORT_RUN,
    KQ_EXPORT_COMMANDS, /* print how to make the topics */
    KQ_EXPORT_HELP,
};

struct kq_export_command {
    enum kq_export_act act;
    struct kq_config *config; /* data, limits, defaults of topics */
    const char **topics;      /* arguments of the command line */
    size_t topic_count;
    bool overwrite;
    const char *target;
};

/* Is it this command? */
bool kq_export_is_asked(int argc, char **argv);

/* Reads the arguments behind `export`, and the configuration file. Zero-initialise RET; release it
 * after any result. 0; -EINVAL: one line was reported; -ENOMEM. */
int kq_export_parse(int argc, char **argv, struct kq_export_command *ret);
void kq_export_command_release(struct kq_export_command *command);

void kq_export_print_help(FILE *to);
