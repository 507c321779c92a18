/* Which topics of a directory that was Kafka's are taken over, and as what. Shared by import.c and
 * importtopic.c, nobody else. One thread. */
#pragma once

#include <sys/stat.h>

#include "broker/importconfig.h"
#include "broker/importlog.h"
#include "broker/internal.h"
#include "broker/scan.h"

struct kq_importing {
    struct kq_broker *broker;
    struct kq_scan scan;
    struct kq_image *image; /* empty where there is no metadata */
    struct kq_import_config config;
    struct kq_metalog_end end, noted_end;
    int64_t noted_epoch;
    bool noted;        /* there is a note */
    bool has_metadata; /* of Kafka's */
    bool ran;          /* Kafka did since we looked last */
    struct stat owner; /* of the data directory */
    size_t topics, partitions, incomplete, quotas;
    const char *first_incomplete; /* a topic of which Kafka has more partitions elsewhere */
};

/* Has TOPIC a metadata file of ours? */
bool kq_import_is_recorded(const struct kq_importing *importing, const char *topic);

/* Decides on each topic of which there are directories, and writes the metadata files of those that
 * are taken over. Names of those that are refused are taken in the registry. Reports. -errno. */
int kq_import_topics(struct kq_importing *importing);
