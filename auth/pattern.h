/* Regular expressions that end: Perl's syntax (PCRE2, pcre2pattern(3)), with limits on the work and
 * memory of a match, so that neither a pattern nor a client's name can hold up the broker.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "broker/base/buf.h"

struct kq_pattern;

#define KQ_PATTERN_REASON 160 /* bytes, NUL included */

/* TEXT has LENGTH bytes. -EINVAL: it is malformed, RET_REASON (KQ_PATTERN_REASON bytes) says how;
 * -ENOMEM. */
int kq_pattern_new(const char *text, size_t length, struct kq_pattern **ret, char *ret_reason);
void kq_pattern_free(struct kq_pattern *pattern); /* NULL is fine */

/* Does it match the whole of SUBJECT? 0; -ENOENT: no; -ELOOP: there is no saying within the limits;
 * -EILSEQ: SUBJECT is not UTF-8; -ENOMEM. Any thread, several at once. */
int kq_pattern_match(const struct kq_pattern *pattern, const char *subject);

/* Appends SUBJECT to RET with what matches replaced, once or each time, as Java's
 * Matcher.replaceFirst and replaceAll do: in REPLACEMENT $1 is what group 1 matched, $0 everything;
 * the number ends where there is no group with more digits; where there is no such group at all, $9
 * is text. A backslash makes the next character text. The result has at most MOST bytes. 0; -E2BIG;
 * as kq_pattern_match, but never -ENOENT. */
int kq_pattern_replace(const struct kq_pattern *pattern, const char *subject,
                       const char *replacement, bool each, size_t most, struct kq_buf *ret);

/* Can it be replaced by TEXT? False: a backslash or $ with nothing behind it that means something.
 */
bool kq_pattern_takes(const char *text);
