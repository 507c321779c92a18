#include "broker/cleaner.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "broker/base/clock.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"
#include "broker/compact.h"
#include "broker/internal.h"
#include "broker/metrics.h"

#define FAILED_BACKOFF_MS 60000 /* what failed is tried again */
#define MS INT64_C(1000000)
#define MAP_LOAD 0.9       /* log.cleaner.io.buffer.load.factor */
#define PACE_NS (100 * MS) /* of the allowed rate may be used at once */
#define LOOKING INT64_MIN  /* a due_ms while a thread looks: nobody asked meanwhile */

static struct kq_metric runs = {.name = "kqfs_cleaner_runs_total",
                                .help = "Runs of compaction over a log since the start.",
                                .type = KQ_COUNTER};
static struct kq_metric failures = {.name = "kqfs_cleaner_failures_total",
                                    .help = "Runs that failed since the start.",
                                    .type = KQ_COUNTER};
static struct kq_metric bytes_read = {.name = "kqfs_cleaner_read_bytes_total",
                                      .help = "Bytes of logs that the cleaner read.",
                                      .type = KQ_COUNTER};
static struct kq_metric bytes_written = {.name = "kqfs_cleaner_written_bytes_total",
                                         .help = "Bytes of compacted segments that it wrote.",
                                         .type = KQ_COUNTER};
static struct kq_metric removed = {.name = "kqfs_cleaner_removed_messages_total",
                                   .help = "Messages that compaction removed.",
                                   .type = KQ_COUNTER};
static struct kq_metric uncleanable = {
    .name = "kqfs_cleaner_uncleanable_partitions",
    .help = "Partitions that are not compacted since they are damaged.",
    .type = KQ_GAUGE};

static void register_metrics(void)
{
    static struct kq_metric *const all[] = {&runs,          &failures, &bytes_read,
                                            &bytes_written, &removed,  &uncleanable};
    for (size_t i = 0; i < kq_array_size(all); i++)
        kq_metric_register(all[i]);
}

void kq_cleaner_init(struct kq_cleaner *cleaner)
{
    pthread_condattr_t monotonic;
    *cleaner = (struct kq_cleaner){.thread_count = 0};
    TAILQ_INIT(&cleaner->list);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&cleaner->lock, NULL);
    pthread_cond_init(&cleaner->wake, &monotonic);
    pthread_cond_init(&cleaner->idle, NULL);
    pthread_condattr_destroy(&monotonic);
    register_metrics();
}

void kq_cleaner_destroy(struct kq_cleaner *cleaner)
{
    pthread_mutex_destroy(&cleaner->lock);
    pthread_cond_destroy(&cleaner->wake);
    pthread_cond_destroy(&cleaner->idle);
}

static struct kq_cleaner *cleaner_of(const struct kq_partition *partition)
{
    return &partition->topic->broker->cleaner;
}

static void wait_until(struct kq_cleaner *cleaner, int64_t until_ns)
{
    struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    pthread_cond_timedwait(&cleaner->wake, &cleaner->lock, &until);
}

/* --- The list --- */

/* With the lock held. */
static void unlist(struct kq_cleaner *cleaner, struct kq_partition *partition)
{
    if (partition->cleaning.listed)
        TAILQ_REMOVE(&cleaner->list, partition, cleaning.entry);
    partition->cleaning.listed = false;
}

/* With the lock held. A partition that is listed is looked at every log.cleaner.backoff.ms. */
static void list(struct kq_cleaner *cleaner, struct kq_partition *partition)
{
    struct kq_cleaning_slot *slot = &partition->cleaning;
    int64_t soon_ms =
        slot->listed ? kq_clock_wall_ms() + partition->topic->broker->options.cleaner.backoff_ms
                     : 0;
    bool sooner = !slot->listed || slot->due_ms == LOOKING || slot->due_ms > soon_ms;
    if (!slot->listed)
        TAILQ_INSERT_TAIL(&cleaner->list, partition, cleaning.entry);
    slot->listed = true;
    if (sooner) {
        slot->due_ms = soon_ms;
        pthread_cond_broadcast(&cleaner->wake);
    }
}

/* With the lock held: nobody is at PARTITION any more. */
static void let_go(struct kq_cleaner *cleaner, struct kq_partition *partition)
{
    partition->cleaning.busy = false;
    pthread_cond_broadcast(&cleaner->idle);
}

void kq_cleaner_ask(struct kq_partition *partition, bool retry)
{
    struct kq_cleaner *cleaner = cleaner_of(partition);
    struct kq_cleaning_slot *slot = &partition->cleaning;
    struct kq_topic_config config;
    bool cleans = partition->topic->broker->options.cleaner.threads > 0;
    kq_topic_config(partition->topic, &config);
    if (!config.compact && !retry)
        return;
    pthread_mutex_lock(&cleaner->lock);
    if (retry && slot->uncleanable) {
        slot->uncleanable = false;
        kq_metric_add(&uncleanable, -1);
    }
    if (config.compact && !slot->gone && !slot->uncleanable && cleans && !cleaner->stopping)
        list(cleaner, partition);
    pthread_mutex_unlock(&cleaner->lock);
}

/* With the lock held. */
static void hold(struct kq_cleaner *cleaner, struct kq_partition *partition)
{
    partition->cleaning.holds++;
    atomic_store(&partition->cleaning.stop, true);
    pthread_cond_broadcast(&cleaner->wake);
    while (partition->cleaning.busy)
        pthread_cond_wait(&cleaner->idle, &cleaner->lock);
}

void kq_cleaner_hold(struct kq_partition *partition)
{
    struct kq_cleaner *cleaner = cleaner_of(partition);
    pthread_mutex_lock(&cleaner->lock);
    hold(cleaner, partition);
    pthread_mutex_unlock(&cleaner->lock);
}

void kq_cleaner_release(struct kq_partition *partition)
{
    struct kq_cleaner *cleaner = cleaner_of(partition);
    pthread_mutex_lock(&cleaner->lock);
    if (--partition->cleaning.holds == 0)
        atomic_store(&partition->cleaning.stop, false);
    pthread_cond_broadcast(&cleaner->wake);
    pthread_mutex_unlock(&cleaner->lock);
}

void kq_cleaner_leave(struct kq_partition *partition)
{
    struct kq_cleaner *cleaner = cleaner_of(partition);
    pthread_mutex_lock(&cleaner->lock);
    hold(cleaner, partition);
    unlist(cleaner, partition);
    if (partition->cleaning.uncleanable)
        kq_metric_add(&uncleanable, -1);
    partition->cleaning.uncleanable = false;
    partition->cleaning.gone = true;
    partition->cleaning.first_dirty = -1;
    pthread_mutex_unlock(&cleaner->lock);
}

/* --- The record --- */

static int collect(struct kq_broker *broker, struct kq_checkpoint_writer *writer)
{
    struct kq_topic *topic, *previous = NULL;
    int r = 0;
    while (r == 0 && kq_topic_next(broker, previous ? previous->name : "", &topic) == 0) {
        for (int32_t i = 0; i < kq_topic_partition_count(topic) && r == 0; i++) {
            struct kq_partition *partition = kq_topic_at(topic, i);
            pthread_mutex_lock(&broker->cleaner.lock);
            int64_t first_dirty = partition->cleaning.first_dirty;
            pthread_mutex_unlock(&broker->cleaner.lock);
            if (first_dirty >= 0)
                r = kq_checkpoint_add(writer, topic->name, i, first_dirty);
        }
        kq_topic_unref(previous);
        previous = topic;
    }
    kq_topic_unref(previous);
    return r;
}

int kq_cleaner_write_checkpoint(struct kq_broker *broker)
{
    struct kq_checkpoint_writer writer = {0};
    pthread_mutex_lock(&broker->checkpoint_lock);
    int r = collect(broker, &writer);
    if (r == 0 && (writer.count > 0 || broker->cleaner.recorded))
        r = kq_checkpoint_write(&writer, broker->dirfd, KQ_CHECKPOINT_CLEANER);
    else
        kq_buf_release(&writer.lines);
    if (r == 0)
        broker->cleaner.recorded = true;
    pthread_mutex_unlock(&broker->checkpoint_lock);
    return r;
}

/* What is recorded may be lost: then all counts as dirty. */
static int take_record(struct kq_broker *broker)
{
    struct kq_checkpoint record = {0};
    struct kq_topic *topic, *previous = NULL;
    int r = kq_checkpoint_read(broker->dirfd, KQ_CHECKPOINT_CLEANER, &record);
    if (r < 0 && r != -ENOENT && r != -ENOMEM)
        kq_diag(LOG_WARNING,
                "%s/" KQ_CHECKPOINT_CLEANER " cannot be read (%s): compacting all anew",
                broker->data_dir, strerror(-r));
    broker->cleaner.recorded = r != -ENOENT;
    if (r == -ENOMEM)
        return r;
    while (kq_topic_next(broker, previous ? previous->name : "", &topic) == 0) {
        for (int32_t i = 0; i < kq_topic_partition_count(topic); i++) {
            struct kq_partition *partition = kq_topic_at(topic, i);
            partition->cleaning.first_dirty =
                r == 0 ? kq_checkpoint_find(&record, topic->name, i, -1) : -1;
        }
        kq_topic_unref(previous);
        previous = topic;
    }
    kq_topic_unref(previous);
    kq_checkpoint_release(&record);
    return 0;
}

/* --- Choosing --- */

static void compact_config(const struct kq_topic_config *config, struct kq_compact_config *ret)
{
    *ret = (struct kq_compact_config){
        .delete_retention_ms = config->delete_retention_ms,
        .min_lag_ms = config->min_compaction_lag_ms,
        .max_lag_ms = config->max_compaction_lag_ms,
        .min_dirty_ratio = config->min_cleanable_dirty_ratio,
    };
}

/* What there is to do in PARTITION, which is busy. KQ_END: nothing, its topic changed. */
static int look_at(struct kq_partition *partition, struct kq_compact_state *ret)
{
    struct kq_topic_config topic_config;
    struct kq_compact_config config;
    kq_topic_config(partition->topic, &topic_config);
    if (!topic_config.compact || !kq_guard_enter(&partition->guard))
        return KQ_END;
    compact_config(&topic_config, &config);
    int r = kq_log_compact_look(partition->log, &config, partition->cleaning.first_dirty,
                                kq_clock_wall_ms(), ret);
    kq_guard_leave(&partition->guard);
    return r;
}

static void complain(struct kq_partition *partition, int error)
{
    kq_diag_limited(60000, LOG_WARNING, "compacting %s/%s-%d failed: %s; it is tried again",
                    partition->topic->broker->data_dir, partition->topic->name, partition->number,
                    strerror(-error));
}

/* When PARTITION is to be looked at again, now that STATE was found; INT64_MAX: when asked to. */
static int64_t next_look(struct kq_partition *partition, const struct kq_compact_state *state,
                         int error)
{
    int64_t now_ms = kq_clock_wall_ms();
    bool active = atomic_load_explicit(&partition->appointment.active, memory_order_relaxed);
    bool asked = partition->cleaning.due_ms != LOOKING;
    if (error < 0)
        return now_ms + FAILED_BACKOFF_MS;
    if (active || asked)
        return now_ms + partition->topic->broker->options.cleaner.backoff_ms;
    return state->next_ms;
}

/* With the lock held, which is given up meanwhile; PARTITION may be looked at. True: it is busy
 * now, and should be cleaned; RET says how dirty it is. */
static bool is_due(struct kq_cleaner *cleaner, struct kq_partition *partition, double *ret)
{
    struct kq_cleaning_slot *slot = &partition->cleaning;
    struct kq_compact_state state = {.next_ms = INT64_MAX};
    slot->busy = true;
    slot->due_ms = LOOKING;
    pthread_mutex_unlock(&cleaner->lock);
    int r = look_at(partition, &state);
    if (r < 0)
        complain(partition, r);
    pthread_mutex_lock(&cleaner->lock);
    *ret = kq_compact_dirty_ratio(&state);
    if (r == 0 && state.due && slot->holds == 0)
        return true;
    slot->due_ms = next_look(partition, &state, r);
    let_go(cleaner, partition);
    return false;
}

/* With the lock held, which is given up meanwhile: the dirtiest of the list, busy; NULL, and the
 * wall clock at which one may be. */
static struct kq_partition *choose(struct kq_cleaner *cleaner, int64_t *ret_next_ms)
{
    struct kq_partition *best = NULL, *at = TAILQ_FIRST(&cleaner->list), *next;
    double most = -1, dirty;
    *ret_next_ms = INT64_MAX;
    for (; at && !cleaner->stopping; at = next) {
        struct kq_cleaning_slot *slot = &at->cleaning;
        struct kq_partition *loser = NULL;
        bool free = !slot->busy && slot->holds == 0;
        if (free && slot->due_ms <= kq_clock_wall_ms() && is_due(cleaner, at, &dirty)) {
            loser = dirty > most ? best : at;
            best = dirty > most ? at : best;
            most = dirty > most ? dirty : most;
        }
        next = TAILQ_NEXT(at, cleaning.entry);
        if (loser)
            let_go(cleaner, loser);
        if (!slot->busy && slot->due_ms == INT64_MAX)
            unlist(cleaner, at);
        else if (free)
            *ret_next_ms = kq_min64(*ret_next_ms, slot->due_ms);
    }
    return best;
}

/* --- Cleaning --- */

struct pacing {
    struct kq_broker *broker;
    struct kq_partition *partition;
};

/* What is read and written takes as long as the rate says, of all threads together. */
static int keep_pace(void *context, int64_t bytes)
{
    const struct pacing *pacing = context;
    struct kq_cleaner *cleaner = &pacing->broker->cleaner;
    int64_t rate = pacing->broker->options.cleaner.io_rate;
    atomic_bool *stop = &pacing->partition->cleaning.stop;
    if (atomic_load_explicit(stop, memory_order_relaxed))
        return -ECANCELED;
    if (rate == INT64_MAX)
        return atomic_load(&cleaner->stopping) ? -ECANCELED : 0;
    pthread_mutex_lock(&cleaner->lock);
    cleaner->pace_ns = kq_max64(cleaner->pace_ns, kq_clock_mono_ns()) +
                       (int64_t)((double)bytes * 1e9 / (double)rate);
    int64_t until_ns = cleaner->pace_ns - PACE_NS;
    while (!cleaner->stopping && !atomic_load(stop) && kq_clock_mono_ns() < until_ns)
        wait_until(cleaner, until_ns);
    bool ends = cleaner->stopping || atomic_load(stop);
    pthread_mutex_unlock(&cleaner->lock);
    return ends ? -ECANCELED : 0;
}

static void count(struct kq_partition *partition, const struct kq_compact_done *done)
{
    kq_metric_add(&bytes_read, done->bytes_read);
    kq_metric_add(&bytes_written, done->bytes_written);
    kq_metric_add(&removed, done->messages_read - done->messages_kept);
    if (done->keyless > 0)
        kq_diag_limited(60000, LOG_WARNING,
                        "compacting %s-%d removed %lld messages without a key: they came before "
                        "cleanup.policy was set to compact",
                        partition->topic->name, partition->number, (long long)done->keyless);
}

static void tell_success(struct kq_partition *partition, const struct kq_compact_done *done)
{
    kq_metric_add(&runs, 1);
    kq_diag(LOG_DEBUG,
            "compacted %s-%d up to offset %lld: %lld of %lld messages left, %lld bytes read, "
            "%lld written",
            partition->topic->name, partition->number, (long long)done->first_dirty,
            (long long)done->messages_kept, (long long)done->messages_read,
            (long long)done->bytes_read, (long long)done->bytes_written);
}

/* PARTITION is busy; with no lock held. */
static int run(struct kq_partition *partition, struct kq_compact_done *ret)
{
    struct kq_broker *broker = partition->topic->broker;
    const struct kq_cleaner_options *options = &broker->options.cleaner;
    struct pacing pacing = {.broker = broker, .partition = partition};
    struct kq_topic_config topic_config;
    struct kq_compact_state state;
    *ret = (struct kq_compact_done){.first_dirty = partition->cleaning.first_dirty};
    int r = look_at(partition, &state);
    if (r != 0 || !state.due || !kq_guard_enter(&partition->guard))
        return r < 0 ? r : -ECANCELED;
    kq_topic_config(partition->topic, &topic_config);
    const struct kq_compact_work work = {
        .first_dirty = state.first_dirty,
        .until = state.until,
        .now_ms = kq_clock_wall_ms(),
        .delete_retention_ms = topic_config.delete_retention_ms,
        .map_bytes = (size_t)options->dedupe_bytes / options->threads,
        .map_load = MAP_LOAD,
        .io_bytes = (size_t)options->io_bytes / options->threads / 2,
        .pace = keep_pace,
        .context = &pacing,
    };
    r = kq_log_compact(partition->log, &work, ret);
    kq_guard_leave(&partition->guard);
    return r;
}

/* With the lock held. */
static void conclude(struct kq_partition *partition, int r, const struct kq_compact_done *done)
{
    struct kq_cleaning_slot *slot = &partition->cleaning;
    if (r == 0 && !slot->gone)
        slot->first_dirty = done->first_dirty;
    slot->due_ms =
        r == 0 || r == -ECANCELED || r == -ESTALE ? 0 : kq_clock_wall_ms() + FAILED_BACKOFF_MS;
    if (r == -EBADMSG) {
        slot->uncleanable = true;
        unlist(cleaner_of(partition), partition);
        kq_metric_add(&uncleanable, 1);
    }
}

static void tell(struct kq_partition *partition, int r, const struct kq_compact_done *done)
{
    struct kq_broker *broker = partition->topic->broker;
    count(partition, done);
    if (done->text_changed)
        kq_broker_emit(broker, KQ_EVENT_TEXT_CLEANED, partition->topic, partition);
    if (r == 0)
        tell_success(partition, done);
    if (r < 0 && r != -ECANCELED && r != -ESTALE)
        kq_metric_add(&failures, 1);
    if (r == -EBADMSG)
        kq_diag(LOG_ERR,
                "%s/%s-%d is damaged and not compacted any more: repair it, or drop the messages "
                "up to there, and start the broker anew",
                broker->data_dir, partition->topic->name, partition->number);
    else if (r < 0 && r != -ECANCELED && r != -ESTALE)
        complain(partition, r);
}

static void clean(struct kq_broker *broker, struct kq_partition *partition)
{
    struct kq_compact_done done;
    int r = run(partition, &done);
    tell(partition, r, &done);
    pthread_mutex_lock(&broker->cleaner.lock);
    conclude(partition, r, &done);
    let_go(&broker->cleaner, partition);
    pthread_mutex_unlock(&broker->cleaner.lock);
    if (r == 0 && (r = kq_cleaner_write_checkpoint(broker)) < 0)
        kq_diag_limited(60000, LOG_WARNING,
                        "cannot write %s/" KQ_CHECKPOINT_CLEANER ": %s; after a restart more is "
                        "compacted than need be",
                        broker->data_dir, strerror(-r));
}

/* --- The threads --- */

/* With the lock held. */
static void sleep_until(struct kq_cleaner *cleaner, int64_t due_ms)
{
    if (due_ms == INT64_MAX) {
        pthread_cond_wait(&cleaner->wake, &cleaner->lock);
        return;
    }
    /* The wall clock may be set meanwhile: look now and then. */
    int64_t left_ms = kq_max64(1, kq_min64(due_ms - kq_clock_wall_ms(), FAILED_BACKOFF_MS));
    wait_until(cleaner, kq_clock_mono_ns() + left_ms * MS);
}

static void *keep_clean(void *argument)
{
    struct kq_broker *broker = argument;
    struct kq_cleaner *cleaner = &broker->cleaner;
    int64_t next_ms;
    pthread_setname_np(pthread_self(), "kqfs-cleaner");
    pthread_mutex_lock(&cleaner->lock);
    while (!cleaner->stopping) {
        struct kq_partition *partition = choose(cleaner, &next_ms);
        if (!partition) {
            if (!cleaner->stopping)
                sleep_until(cleaner, next_ms);
            continue;
        }
        pthread_mutex_unlock(&cleaner->lock);
        clean(broker, partition);
        pthread_mutex_lock(&cleaner->lock);
    }
    pthread_mutex_unlock(&cleaner->lock);
    return NULL;
}

static int ask(struct kq_partition *partition, void *context)
{
    kq_cleaner_ask(partition, false);
    return 0;
}

static int start_threads(struct kq_broker *broker)
{
    struct kq_cleaner *cleaner = &broker->cleaner;
    unsigned wanted = broker->options.cleaner.threads;
    sigset_t all, before;
    int error = 0;
    cleaner->threads = kq_alloc(wanted * sizeof(pthread_t));
    if (!cleaner->threads)
        return -ENOMEM;
    sigfillset(&all);
    sigdelset(&all, SIGSYS); /* of a system call that is refused: broker/seccomp.c */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (error == 0 && cleaner->thread_count < wanted) {
        error = pthread_create(&cleaner->threads[cleaner->thread_count], NULL, keep_clean, broker);
        cleaner->thread_count += error == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -error;
}

int kq_cleaner_start(struct kq_broker *broker)
{
    int r = take_record(broker);
    if (r == 0)
        r = kq_cleaner_write_checkpoint(broker);
    if (r == 0 && broker->options.cleaner.threads > 0)
        r = start_threads(broker);
    return r < 0 ? r : kq_each_partition(broker, ask, NULL);
}

void kq_cleaner_stop(struct kq_broker *broker)
{
    struct kq_cleaner *cleaner = &broker->cleaner;
    pthread_mutex_lock(&cleaner->lock);
    cleaner->stopping = true;
    pthread_cond_broadcast(&cleaner->wake);
    pthread_mutex_unlock(&cleaner->lock);
    for (unsigned i = 0; i < cleaner->thread_count; i++)
        pthread_join(cleaner->threads[i], NULL);
    cleaner->thread_count = 0;
    free(cleaner->threads);
    cleaner->threads = NULL;
}
