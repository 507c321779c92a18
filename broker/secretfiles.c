#include "broker/secretfiles.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "broker/base/err.h"
#include "broker/base/mem.h"

static int add(struct kq_secret_files *files, const char *path, size_t length)
{
    if (length == 0 || path[0] != '/')
        return 0;
    char **more = kq_realloc(files->paths, (files->count + 1) * sizeof(*more));
    if (!more)
        return -ENOMEM;
    files->paths = more;
    more[files->count] = kq_format("%.*s", (int)length, path);
    if (!more[files->count])
        return -ENOMEM;
    files->count++;
    return 0;
}

/* OPTION is one of those that net/address.h lists behind a listener's address. */
static int add_option(struct kq_secret_files *files, const char *option, size_t length)
{
    static const char *const names[] = {"certificate=", "key=", "ca=", "crl="};
    for (size_t i = 0; i < kq_array_size(names); i++) {
        size_t skipped = strlen(names[i]);
        if (length > skipped && strncasecmp(option, names[i], skipped) == 0)
            return add(files, option + skipped, length - skipped);
    }
    return 0;
}

static int add_listener(struct kq_secret_files *files, const char *text, size_t length)
{
    static const char *const schemes[] = {"ssl://", "sasl_ssl://"};
    bool tls = false;
    for (size_t i = 0; i < kq_array_size(schemes); i++)
        tls = tls || strncasecmp(text, schemes[i], strlen(schemes[i])) == 0;
    int r = 0;
    for (const char *at = text, *end = text + length; tls && r == 0 && at < end;) {
        const char *comma = memchr(at, ',', (size_t)(end - at));
        size_t part = comma ? (size_t)(comma - at) : (size_t)(end - at);
        r = add_option(files, at, part);
        at += part + 1;
    }
    return r;
}

static int add_listeners(struct kq_secret_files *files, const char *text)
{
    int r = 0;
    while (r == 0 && *(text += strspn(text, " \t"))) {
        size_t length = strcspn(text, " \t");
        r = add_listener(files, text, length);
        text += length;
    }
    return r;
}

int kq_secret_files_of(const struct kq_config *config, struct kq_secret_files *ret)
{
    const char *const settings[] = {
        config->tls.certificate, config->tls.key,         config->tls.ca,
        config->tls.crl,         config->kerberos.keytab, config->oauth.jwks,
    };
    struct kq_secret_files files = {0};
    int r = 0;
    for (size_t i = 0; r == 0 && i < kq_array_size(settings); i++)
        if (settings[i])
            r = add(&files, settings[i], strlen(settings[i]));
    if (r == 0)
        r = add_listeners(&files, config->listen);
    if (r < 0)
        kq_secret_files_release(&files);
    else
        *ret = files;
    return r;
}

void kq_secret_files_release(struct kq_secret_files *files)
{
    for (size_t i = 0; i < files->count; i++)
        free(files->paths[i]);
    free(files->paths);
    *files = (struct kq_secret_files){0};
}
