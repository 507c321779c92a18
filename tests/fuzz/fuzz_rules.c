/* Rules for principals: any list is refused or applied within its limits, and gives a name or none.
 * The first byte says of which kind; a line is the list, the next the principal. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "auth/rules.h"
#include "broker/base/diag.h"
#include "broker/base/mem.h"

#define NAME_BYTES_MAX 1024

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct kq_rules *rules;
    char *name = NULL;
    if (length == 0)
        return 0;
    kq_diag_set_level(LOG_EMERG);
    kq_autofree char *text = kq_format("%.*s", (int)length - 1, (const char *)bytes + 1);
    if (!text)
        return 0;
    char *principal = strchr(text, '\n');
    if (principal)
        *principal++ = '\0';
    int r = bytes[0] & 1 ? kq_rules_new_kerberos("", text, "EXAMPLE.ORG", &rules)
                         : kq_rules_new_subject("", text, &rules);
    if (r < 0)
        return 0;
    if (kq_rules_apply(rules, principal ? principal : "", &name) == 0 &&
        (!name[0] || strlen(name) > NAME_BYTES_MAX || ((bytes[0] & 1) && strpbrk(name, "/@"))))
        abort();
    free(name);
    kq_rules_free(rules);
    return 0;
}
