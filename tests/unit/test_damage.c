/* Damage in the middle of a log costs the text that lay there. What lies before and behind it keeps
 * its position; nothing is shown at a place that is not its own. */
#include "broker/textindex.h"
#include "log_kit.h"

#define BATCHES 27

struct batch {
    int64_t segment; /* its base offset */
    int64_t position, size;
    int64_t offset, next_offset;
    int64_t text, text_end;
    bool damaged;
};

static struct batch model[BATCHES];

static int count_of(int i)
{
    return 1 + i % 3;
}

static size_t length_of(int i)
{
    return i % 9 == 4 ? 300 : 20 + (size_t)(i * 7) % 50;
}

/* A log of BATCHES batches, open. */
static void fill(struct kit *kit, int segment_bytes, int interval)
{
    int64_t text = 0, segment = 0, last = -1;
    kit_end(kit);
    kit_begin_fast(kit);
    kit->config.segment_bytes = segment_bytes;
    kit->config.index_interval_bytes = interval;
    kit_open(kit);
    for (int i = 0; i < BATCHES; i++) {
        struct kq_log_appended appended;
        struct kq_extent extent;
        assert_int_equal(kit_append(kit, count_of(i), length_of(i), 1000 + i, i, true, &appended),
                         0);
        assert_int_equal(kq_log_read(kit->log, appended.base_offset, 1, false, true, &extent), 0);
        struct batch batch = {.position = extent.position,
                              .size = extent.length,
                              .offset = appended.base_offset,
                              .next_offset = appended.next_offset,
                              .text = text};
        kq_extent_unref(&extent);
        if (batch.position <= last)
            segment = batch.offset;
        last = batch.position;
        batch.segment = segment;
        text = batch.text_end = text + count_of(i) * ((int64_t)length_of(i) + 1);
        model[i] = batch;
    }
}

static void file_path(const struct kit *kit, int batch, const char *kind, char *ret)
{
    snprintf(ret, 256, "%s/" KIT_LOG "/%020lld.%s", kit->directory, (long long)model[batch].segment,
             kind);
}

static void change(struct kit *kit, int batch, int64_t at, int64_t length, uint8_t flip)
{
    char path[256];
    file_path(kit, batch, "log", path);
    int fd = open(path, O_RDWR);
    for (int64_t i = 0; i < length; i++) {
        uint8_t byte;
        assert_int_equal(pread(fd, &byte, 1, model[batch].position + at + i), 1);
        byte = flip ? byte ^ flip : 0;
        assert_int_equal(pwrite(fd, &byte, 1, model[batch].position + at + i), 1);
    }
    close(fd);
}

struct damage {
    const char *what;
    int64_t at, length;
    uint8_t flip; /* 0: becomes zeros */
    int batches;
};

static const struct damage damages[] = {
    {"a length that is too small", 8 + 3, 1, 0x08, 1},
    {"a length that is too large", 8 + 2, 1, 0x01, 1},
    {"a length that is far too large", 8 + 1, 1, 0x40, 1},
    {"a magic byte", 16, 1, 0x08, 1},
    {"a value's length", 61 + 6, 1, 0x04, 1},
    {"a value", 61 + 9, 1, 0x04, 1},
    {"zeros over a few batches", 30, 200, 0, 2},
};

/* The batch of the first damage is in the middle of its segment, and so is the last. */
static void do_damage(struct kit *kit, int batch, const struct damage *damage)
{
    int64_t length = damage->length;
    if (damage->batches > 1)
        length = model[batch + 1].position + 10 - model[batch].position - damage->at;
    assert_int_equal(model[batch].segment, model[batch + damage->batches].segment);
    change(kit, batch, damage->at, length, damage->flip);
    for (int i = 0; i < damage->batches; i++)
        model[batch + i].damaged = true;
}

/* What was never counted while it was whole has no text. */
static void recount(void)
{
    int64_t text = 0;
    for (int i = 0; i < BATCHES; i++) {
        int64_t length = model[i].damaged ? 0 : model[i].text_end - model[i].text;
        model[i].text = text;
        model[i].text_end = text += length;
    }
}

static void check_text(struct kit *kit, int i, bool lax)
{
    for (int64_t text = model[i].text; text < model[i].text_end; text++) {
        struct kq_extent extent;
        int r = kq_log_read_text(kit->log, text, 1, true, &extent);
        if (r == -EIO && lax)
            continue;
        assert_int_equal(r, model[i].damaged ? -EIO : 0);
        if (r != 0)
            continue;
        assert_int_equal(extent.base_offset, model[i].offset);
        assert_int_equal(extent.text, model[i].text);
        assert_int_equal(extent.position, model[i].position);
        kq_extent_unref(&extent);
    }
}

/* The batches behind a damaged place in the same segment may be out of reach for look-ups by
 * offset; what is found is right. */
static void check_offsets(struct kit *kit, int i, bool behind, bool lax)
{
    for (int64_t offset = model[i].offset; offset < model[i].next_offset; offset++) {
        struct kq_extent extent;
        int r = kq_log_read(kit->log, offset, 1, true, true, &extent);
        if (r == -EBADMSG && (model[i].damaged || behind))
            continue;
        if (r == -EIO && (model[i].damaged || lax))
            continue;
        assert_int_equal(r, 0);
        assert_int_equal(extent.base_offset, model[i].offset);
        assert_int_equal(extent.text, model[i].text);
        kq_extent_unref(&extent);
    }
}

/* LAX: intact text may be out of reach, but not at another place. */
static void check(struct kit *kit, bool lax)
{
    bool behind = false;
    kit_text_bounds(kit, 0, model[BATCHES - 1].text_end);
    for (int i = 0; i < BATCHES; i++) {
        behind = model[i].damaged || (behind && model[i].segment == model[i - 1].segment);
        check_text(kit, i, lax);
        check_offsets(kit, i, behind, lax);
    }
}

static const int intervals[] = {1, 700, 1 << 20};
static const int segment_sizes[] = {2200, 1 << 20};

/* A batch with two more behind it in its segment, and with one before. */
static int in_the_middle_of_its_segment(void)
{
    for (int i = BATCHES / 3; i < BATCHES - 3; i++) {
        if (model[i - 1].segment == model[i + 3].segment)
            return i;
    }
    fail();
    return -1;
}

static void all_else_keeps_its_text_position(void **state)
{
    struct kit *kit = *state;
    for (int way = 0; way < 2 * 3 * 7 * 2; way++) {
        const struct damage *damage = &damages[way / 6 % 7];
        fill(kit, segment_sizes[way % 2], intervals[way / 2 % 3]);
        int batch = in_the_middle_of_its_segment();
        if (way >= 42)
            kit_close(kit);
        do_damage(kit, batch, damage);
        if (way >= 42)
            kit_open(kit);
        check(kit, false);
        if (way < 42) { /* the end of the segment moves on */
            assert_int_equal(kit_append(kit, 1, 700, 2000, 99, true, NULL), 0);
            assert_int_equal(kit_append(kit, 1, 700, 2000, 99, false, NULL), 0);
            for (int i = 0; i < BATCHES; i++)
                check_text(kit, i, false);
        }
    }
}

static void remove_text_index(struct kit *kit, int batch)
{
    char path[256];
    file_path(kit, batch, "textindex", path);
    unlink(path);
}

static void a_text_index_that_is_lost_too_still_leaves_what_the_next_segment_says(void **state)
{
    struct kit *kit = *state;
    for (int way = 0; way < 3 * 7; way++) {
        const struct damage *damage = &damages[way % 7];
        fill(kit, segment_sizes[0], intervals[way / 7]);
        kit_close(kit);
        remove_text_index(kit, 2);
        do_damage(kit, 2, damage);
        kit_open(kit);
        check(kit, false);
    }
}

static void text_that_was_never_counted_is_placed_without_the_damage(void **state)
{
    struct kit *kit = *state;
    for (int way = 0; way < 2 * 3 * 7; way++) {
        const struct damage *damage = &damages[way / 6];
        fill(kit, segment_sizes[way % 2], intervals[way / 2 % 3]);
        int batch = in_the_middle_of_its_segment();
        kit_close(kit);
        for (int i = 0; i < BATCHES; i++)
            remove_text_index(kit, i);
        do_damage(kit, batch, damage);
        recount();
        kit_open(kit);
        check(kit, false);
        kit_close(kit);
        kit_open(kit);
        check(kit, false);
    }
}

static void damage_twice_hides_what_lies_between_but_shifts_nothing(void **state)
{
    struct kit *kit = *state;
    for (int way = 0; way < 3 * 2; way++) {
        fill(kit, 1 << 20, intervals[way % 3]);
        if (way >= 3)
            kit_close(kit);
        do_damage(kit, 8, &damages[0]);
        do_damage(kit, 10, &damages[6]);
        if (way >= 3)
            kit_open(kit);
        check(kit, true);
        for (int i = 0; i < BATCHES; i++) {
            if (i < 8 || i > 11)
                check_text(kit, i, false);
        }
    }
}

static void every_flipped_byte_of_a_batch_costs_its_text_at_most(void **state)
{
    struct kit *kit = *state;
    fill(kit, 2200, 700);
    for (int64_t at = 8; at < model[2].size; at++) {
        if (at >= 12 && at < 16) /* the epoch is not in the checksum, and means nothing */
            continue;
        model[2].damaged = true;
        change(kit, 2, at, 1, 0x10);
        for (int i = 0; i < 9; i++)
            check_text(kit, i, false);
        change(kit, 2, at, 1, 0x10);
    }
    model[2].damaged = false;
    check(kit, false);
}

static void damage_up_to_the_end_of_a_segment_does_not_move_the_next(void **state)
{
    struct kit *kit = *state;
    for (int way = 0; way < 3; way++) {
        int last = 0;
        fill(kit, 2200, intervals[way]);
        while (model[last + 1].segment == model[0].segment)
            last++;
        for (int i = 3; i <= last; i++) {
            change(kit, i, 0, model[i].size, 0);
            model[i].damaged = true;
        }
        check(kit, false);
    }
}

/* Overwrites the entries behind batch FROM's position with ones that lie TEXT too early. */
static void falsify_text_index(struct kit *kit, int from, int64_t text)
{
    uint8_t raw[KQ_TEXT_ENTRY];
    struct kq_text_entry entry;
    char path[256];
    file_path(kit, from, "textindex", path);
    int fd = open(path, O_RDWR), changed = 0;
    int64_t base = model[from].segment;
    for (off_t at = KQ_TEXT_HEADER; pread(fd, raw, sizeof(raw), at) == (ssize_t)sizeof(raw);
         at += KQ_TEXT_ENTRY) {
        assert_int_equal(kq_text_entry_read(raw, base, &entry), 0);
        if (entry.position <= model[from].position)
            continue;
        entry.text -= text;
        kq_text_entry_write(raw, base, &entry);
        assert_int_equal(pwrite(fd, raw, sizeof(raw), at), sizeof(raw));
        changed++;
    }
    assert_true(changed > 0);
    close(fd);
}

static void an_index_that_contradicts_the_batches_is_written_anew(void **state)
{
    struct kit *kit = *state;
    fill(kit, 4400, 700);
    kit_close(kit);
    do_damage(kit, 3, &damages[0]);
    falsify_text_index(kit, 3, model[3].text_end - model[3].text + 1);
    kit_open(kit);
    check_text(kit, 3, false);
    check(kit, false);
}

static void a_start_within_a_damaged_batch_is_where_that_begins(void **state)
{
    struct kit *kit = *state;
    for (int way = 0; way < 2 * 3 * 8; way++) {
        fill(kit, segment_sizes[way % 2], intervals[way / 2 % 3]);
        int batch = in_the_middle_of_its_segment(), damage = way / 6 - 1;
        batch += count_of(batch) == 1;
        assert_int_equal(kq_log_delete_before(kit->log, model[batch].offset + 1), 0);
        kit_close(kit);
        if (damage >= 0)
            do_damage(kit, batch, &damages[damage]);
        kit_open(kit);
        int64_t before = damage < 0 ? (int64_t)length_of(batch) + 1 : 0;
        kit_text_bounds(kit, model[batch].text + before, model[BATCHES - 1].text_end);
        for (int i = batch + (damage < 0); i < BATCHES; i++)
            check_text(kit, i, false);
    }
}

static void a_reader_who_may_not_block_is_sent_away_from_damage(void **state)
{
    struct kit *kit = *state;
    struct kq_extent extent;
    fill(kit, 1 << 20, 700);
    do_damage(kit, 9, &damages[3]);
    assert_int_equal(kq_log_read_text(kit->log, model[9].text, 1, false, &extent), KQ_WOULD_BLOCK);
}

static int setup(void **state)
{
    kq_diag_set_level(LOG_EMERG);
    struct kit *kit = malloc(sizeof(*kit));
    kit_begin_fast(kit);
    *state = kit;
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, kit_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(all_else_keeps_its_text_position),
        TEST(a_text_index_that_is_lost_too_still_leaves_what_the_next_segment_says),
        TEST(text_that_was_never_counted_is_placed_without_the_damage),
        TEST(damage_twice_hides_what_lies_between_but_shifts_nothing),
        TEST(every_flipped_byte_of_a_batch_costs_its_text_at_most),
        TEST(damage_up_to_the_end_of_a_segment_does_not_move_the_next),
        TEST(an_index_that_contradicts_the_batches_is_written_anew),
        TEST(a_start_within_a_damaged_batch_is_where_that_begins),
        TEST(a_reader_who_may_not_block_is_sent_away_from_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
