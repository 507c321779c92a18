/* The configuration file: INI, read by inih line by line, so that every complaint has its line. */
#include <fcntl.h>
#include <ini.h>
#include <string.h>

#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/base/mem.h"
#include "broker/config.h"

#define FILE_BYTES_MAX (1024 * 1024)

struct reading {
    struct kq_config *config;
    const char *path;
    const char *at, *end;
    int line;  /* of the last line handed to inih */
    int error; /* of the first complaint, already reported; reading ends there */
};

static void stop(struct reading *reading, const char *reason)
{
    kq_diag(LOG_ERR, "%s:%d: %s", reading->path, reading->line, reason);
    reading->error = -EINVAL;
}

/* inih goes on behind a line that it cannot read; a complaint about what follows would mislead. */
static bool readable(const char *line)
{
    size_t first = strspn(line, " \t\r\n");
    if (!line[first] || line[first] == ';' || line[first] == '#')
        return true;
    return line[first] == '[' ? strchr(line, ']') != NULL : strpbrk(line, "=:") != NULL;
}

/* An fgets for inih: one line of the file into ROOM bytes. Leading blanks are dropped, since inih
 * would take an indented line as more of the value before it. */
static char *read_line(char *to, int room, void *stream)
{
    struct reading *reading = stream;
    if (reading->error || reading->at == reading->end)
        return NULL;
    const char *at = reading->at;
    const char *newline = memchr(at, '\n', (size_t)(reading->end - at));
    const char *end = newline ? newline : reading->end;
    reading->at = newline ? newline + 1 : end;
    reading->line++;
    while (at < end && (*at == ' ' || *at == '\t'))
        at++;
    size_t length = (size_t)(end - at);
    if (memchr(at, '\0', length)) {
        stop(reading, "a NUL byte; is this a text file?");
        return NULL;
    }
    if (length && (*at == ';' || *at == '#'))
        length = 0; /* a comment may be of any length */
    if (length + 2 > (size_t)room) {
        kq_diag(LOG_ERR, "%s:%d: a line has at most %d bytes; give a longer value as an option",
                reading->path, reading->line, room - 2);
        reading->error = -EINVAL;
        return NULL;
    }
    memcpy(to, at, length);
    to[length] = '\n';
    to[length + 1] = '\0';
    if (!readable(to)) {
        stop(reading, "neither `[section]` nor `name = value`");
        return NULL;
    }
    return to;
}

static int take(void *user, const char *section, const char *name, const char *value)
{
    struct reading *reading = user;
    if (reading->error)
        return 0;
    kq_autofree char *where = kq_format("%s:%d", reading->path, reading->line);
    reading->error = where ? kq_config_set(reading->config, KQ_ORIGIN_FILE, where, reading->line,
                                           section, name, value)
                           : -ENOMEM;
    return reading->error == 0;
}

int kq_config_parse(struct kq_config *config, const char *path, const char *bytes, size_t length)
{
    static const char byte_order_mark[] = "\xef\xbb\xbf";
    struct reading reading = {.config = config, .path = path, .at = bytes, .end = bytes + length};
    if (length >= 3 && memcmp(bytes, byte_order_mark, 3) == 0)
        reading.at += 3;
    int line = ini_parse_stream(read_line, &reading, take, &reading);
    if (reading.error)
        return reading.error;
    if (line < 0)
        return -ENOMEM;
    if (line > 0) {
        kq_diag(LOG_ERR, "%s:%d: neither `[section]` nor `name = value`", path, line);
        return -EINVAL;
    }
    return 0;
}

int kq_config_read_file(struct kq_config *config, const char *path)
{
    kq_autobuf struct kq_buf bytes = {0};
    int r = kq_io_slurp(AT_FDCWD, path, FILE_BYTES_MAX, &bytes);
    if (r == -ENOENT)
        return r;
    if (r) {
        kq_diag(LOG_ERR, "%s: %s", path,
                r == -EFBIG ? "larger than 1 MiB; is this the configuration?" : strerror(-r));
        return r;
    }
    return kq_config_parse(config, path, (const char *)bytes.data, bytes.length);
}
