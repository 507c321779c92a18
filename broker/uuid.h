/* Topic ids: 128 random bits, in Kafka's text form (URL-safe base64 without padding). Any thread.
 */
#pragma once

#include <stdint.h>

#define KQ_UUID_BYTES 16
#define KQ_UUID_TEXT 22

/* Random, and none of the few that Kafka reserves or cannot show as an argument. 0; -errno. */
int kq_uuid_new(uint8_t ret[KQ_UUID_BYTES]);

void kq_uuid_format(const uint8_t id[KQ_UUID_BYTES], char ret[KQ_UUID_TEXT + 1]);

/* TEXT need not end behind its 22 characters. 0; -EINVAL. */
int kq_uuid_parse(const char *text, uint8_t ret[KQ_UUID_BYTES]);
