#include "broker/exportrun.h"

#include <stdio.h>
#include <unistd.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/daemon.h"
#include "broker/export.h"
#include "broker/options.h"

#define SHOW_NS (INT64_C(200) * 1000000)
#define MIB (1 << 20)

static bool shown; /* there is a line that is not finished */

static void finish_line(void)
{
    if (shown)
        dprintf(STDERR_FILENO, "\r\033[K");
    shown = false;
}

static bool show(const struct kq_export_state *state)
{
    static int64_t last_ns;
    int64_t now_ns = kq_clock_mono_ns();
    if (isatty(STDERR_FILENO) && now_ns - last_ns >= SHOW_NS) {
        last_ns = now_ns;
        shown = true;
        dprintf(STDERR_FILENO, "\r\033[Kkqfs: %s-%d, %zu of %zu partitions, %lld of %lld MiB",
                state->topic, state->partition, state->done, state->partitions,
                (long long)(state->bytes / MIB), (long long)(state->all_bytes / MIB));
    }
    return !kq_signals_stopping();
}

static int run(struct kq_broker *broker, const struct kq_export_command *command)
{
    struct kq_export_options options = {
        .target = command->target,
        .topics = command->topics,
        .topic_count = command->topic_count,
        .overwrite = command->overwrite,
        .show = show,
    };
    struct kq_export_result result;
    int r = kq_export(broker, &options, &result);
    finish_line();
    if (r == 0 || result.partitions > 0)
        printf("exported %zu partitions of %zu topics: %lld messages, %lld bytes\n",
               result.partitions, result.topics, (long long)result.messages,
               (long long)result.bytes);
    return r;
}

int kq_export_run(struct kq_broker *broker, const struct kq_export_command *command)
{
    int r = command->act == KQ_EXPORT_COMMANDS
                ? kq_export_commands(broker, command->topics, command->topic_count, stdout)
                : run(broker, command);
    if (r == 0 && fflush(stdout) == 0)
        return KQ_EXIT_OK;
    return r == -EINTR ? KQ_EXIT_INTERRUPTED : KQ_EXIT_EXPORT;
}
