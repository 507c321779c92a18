/* The configuration file: any bytes are taken or refused, and what was taken shows as a file that
 * is taken again and shows as the same. */
#include "broker/base/diag.h"
#include "broker/config.h"
#include "tests/fuzz/fuzz.h"

/* The text of CONFIG without its comments on where each value came from. */
static void show(const struct kq_config *config, struct kq_buf *ret)
{
    MUST(kq_config_format(config, ret) == 0);
    size_t kept = 0;
    for (size_t i = 0; i < ret->length; i++) {
        const uint8_t *newline = memchr(ret->data + i, '\n', ret->length - i);
        MUST(newline);
        const uint8_t *comment = memmem(ret->data + i, ret->length - i, " ; ", 3);
        size_t end = (size_t)((comment && comment < newline ? comment : newline) - ret->data);
        if (ret->data[i] != ';') {
            memmove(ret->data + kept, ret->data + i, end - i);
            kept += end - i;
            ret->data[kept++] = '\n';
        }
        i = (size_t)(newline - ret->data);
    }
    ret->length = kept;
}

static struct kq_config *parse(const void *bytes, size_t length, int *ret)
{
    struct kq_config *config;
    MUST(kq_config_new(&config) == 0);
    *ret = kq_config_parse(config, "fuzz", bytes, length);
    return config;
}

/* A value that became too long for a line (a relative path) stands as a comment. */
static bool has_all(const struct kq_buf *text)
{
    static const char left_out[] = "\n; too long";
    return !memmem(text->data, text->length, left_out, strlen(left_out));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct kq_buf shown = {0}, text = {0}, again = {0};
    int r, r_again;
    kq_diag_set_level(-1);
    setenv("HOME", "/home", true);
    struct kq_config *config = parse(bytes, length, &r);
    if (r == 0) {
        MUST(kq_config_format(config, &text) == 0);
        struct kq_config *second = parse(text.data, text.length, &r_again);
        MUST(r_again == 0);
        show(config, &shown);
        show(second, &again);
        MUST(!has_all(&text) ||
             (shown.length == again.length && memcmp(shown.data, again.data, again.length) == 0));
        kq_config_free(second);
    }
    kq_config_free(config);
    kq_buf_release(&shown);
    kq_buf_release(&text);
    kq_buf_release(&again);
    return 0;
}
