/* Base64url without padding (RFC 4648, section 5), as JOSE has it (RFC 7515). */
#pragma once

#include "broker/base/buf.h"

/* Appends what LENGTH characters of TEXT mean. -EBADMSG: another character, padding, or bits left
 * over that are not zero: one value has one text; -ENOMEM. */
int kq_base64url_decode(const char *text, size_t length, struct kq_buf *ret);
