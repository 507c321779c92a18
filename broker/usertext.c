/* Changes of users as lines of text: what `kqfs passwd` writes to .kqfs/passwd, or to the data
 * directory itself where no broker runs. */
#include <string.h>

#include "broker/base/mem.h"
#include "broker/internal.h"
#include "broker/userstore.h"

struct line {
    char name[KQ_USER_NAME_BYTES + 1];
    struct kq_scram_credential credential;
};

/* What LENGTH bytes of text come to. */
struct reading {
    struct kq_users *users;
    struct line *lines;
    struct kq_user_change *changes;
    size_t line_count, change_count;
};

static int add_set(struct reading *reading, struct line *line, const char *rest, size_t length)
{
    struct kq_user_change *change = &reading->changes[reading->change_count];
    *change = (struct kq_user_change){.name = line->name, .credential = &line->credential};
    int r = kq_credential_parse(rest, length, &change->hash, &line->credential);
    if (r == 0)
        reading->change_count++;
    return r;
}

/* All that the user has. */
static int add_delete(struct reading *reading, struct line *line)
{
    struct kq_user_facts facts;
    int r = kq_user_facts(reading->users, line->name, &facts);
    for (int i = 0; i < KQ_SCRAM_HASHES && r == 0; i++)
        if (facts.iterations[i])
            reading->changes[reading->change_count++] =
                (struct kq_user_change){line->name, (enum kq_scram_hash)i, NULL};
    return r;
}

static int read_line(struct reading *reading, const char *text, size_t length)
{
    struct line *line = &reading->lines[reading->line_count++];
    bool set = length > 4 && memcmp(text, "set ", 4) == 0;
    size_t word = set ? 4 : 7;
    if (length >= KQ_USER_LINE_BYTES || (!set && (length <= 7 || memcmp(text, "delete ", 7) != 0)))
        return -EINVAL;
    const char *blank = memchr(text + word, ' ', length - word);
    size_t name = blank ? (size_t)(blank - text) - word : length - word;
    if (!blank == set || !kq_user_name_read(text + word, name, line->name))
        return -EINVAL;
    return set ? add_set(reading, line, blank + 1, length - word - name - 1)
               : add_delete(reading, line);
}

/* None of a name and mechanism twice. */
static int check_repeats(const struct reading *reading)
{
    for (size_t i = 0; i < reading->change_count; i++)
        for (size_t j = 0; j < i; j++)
            if (reading->changes[i].hash == reading->changes[j].hash &&
                strcmp(reading->changes[i].name, reading->changes[j].name) == 0)
                return -EINVAL;
    return 0;
}

static int read_lines(struct reading *reading, const char *text, size_t length)
{
    const char *end = text + length;
    int r = length && end[-1] == '\n' ? 0 : -EINVAL;
    while (text < end && r == 0) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        r = read_line(reading, text, (size_t)(newline - text));
        text = newline + 1;
    }
    return r < 0 ? r : check_repeats(reading);
}

static size_t count_lines(const char *text, size_t length)
{
    size_t count = 0;
    for (size_t i = 0; i < length; i++)
        count += text[i] == '\n';
    return count;
}

static int alter(struct kq_users *users, const char *text, size_t length)
{
    size_t count = count_lines(text, length);
    if (count == 0 || count > KQ_USER_LINES)
        return -EINVAL;
    struct reading reading = {.users = users,
                              .lines = kq_zalloc(count * sizeof(*reading.lines)),
                              .changes =
                                  kq_zalloc(count * KQ_SCRAM_HASHES * sizeof(*reading.changes))};
    kq_users_hold(users); /* what a user has that is deleted stays the same meanwhile */
    int r = reading.lines && reading.changes ? read_lines(&reading, text, length) : -ENOMEM;
    if (r == 0)
        r = kq_users_alter_held(users, reading.changes, reading.change_count);
    kq_users_let_go(users);
    if (reading.lines)
        explicit_bzero(reading.lines, count * sizeof(*reading.lines));
    free(reading.lines);
    free(reading.changes);
    return r;
}

int kq_user_alter_text(struct kq_broker *broker, const struct kq_caller *caller, const char *text,
                       size_t length)
{
    int r = kq_user_may_alter(broker, caller);
    return r < 0 ? r : alter(broker->users, text, length);
}

int kq_user_alter_stopped(const char *data_dir, uint32_t max_users, const char *text, size_t length)
{
    struct kq_broker place = {.dirfd = -1, .lock_fd = -1};
    struct kq_users *users;
    place.data_dir = kq_strdup(data_dir);
    int r = place.data_dir ? kq_datadir_lock(&place) : -ENOMEM;
    if (r == 0)
        r = kq_users_open(max_users, place.dirfd, &users);
    if (r == 0) {
        r = alter(users, text, length);
        kq_users_close(users);
    }
    kq_datadir_close(&place);
    free(place.data_dir);
    return r;
}
