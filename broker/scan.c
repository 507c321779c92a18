#include "broker/scan.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>

#include "broker/base/diag.h"
#include "broker/base/io.h"
#include "broker/base/mem.h"
#include "broker/broker.h"
#include "broker/importlog.h"
#include "broker/store.h"

#define SMALL_FILE 4096

static int push(char ***list, size_t *count, size_t *capacity, const char *name, size_t length)
{
    if (*count == *capacity) {
        size_t larger = *capacity ? 2 * *capacity : 16;
        char **moved = kq_realloc(*list, larger * sizeof(char *));
        if (!moved)
            return -ENOMEM;
        *list = moved;
        *capacity = larger;
    }
    char *copy = kq_alloc(length + 1);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, name, length);
    copy[length] = '\0';
    (*list)[(*count)++] = copy;
    return 0;
}

static int push_directory(struct kq_scan *scan, const char *name)
{
    if (scan->directory_count == scan->directory_capacity) {
        size_t larger = scan->directory_capacity ? 2 * scan->directory_capacity : 64;
        struct kq_found_directory *moved = kq_realloc(scan->directories, larger * sizeof(*moved));
        if (!moved)
            return -ENOMEM;
        scan->directories = moved;
        scan->directory_capacity = larger;
    }
    char *topic = kq_strdup(name);
    if (!topic)
        return -ENOMEM;
    int32_t number = kq_scan_split(topic);
    scan->directories[scan->directory_count++] = (struct kq_found_directory){topic, number};
    return 0;
}

int32_t kq_scan_split(char *name)
{
    char *dash = strrchr(name, '-');
    if (!dash || !isdigit((unsigned char)dash[1]) || (dash[1] == '0' && dash[2]))
        return -1;
    size_t digits = strspn(dash + 1, "0123456789");
    if (dash[1 + digits] || digits > 7)
        return -1;
    long number = strtol(dash + 1, NULL, 10);
    if (number >= KQ_STORE_MAX_PARTITIONS)
        return -1;
    *dash = '\0';
    if (kq_topic_name_valid(name))
        return (int32_t)number;
    *dash = '-';
    return -1;
}

/* `….<32 hexadecimal digits>` and END */
static bool is_put_aside(const char *name, const char *end)
{
    size_t length = strlen(name), tail = 32 + strlen(end);
    if (length < tail + 2 || strcmp(name + length - strlen(end), end) != 0 ||
        name[length - tail - 1] != '.')
        return false;
    return strspn(name + length - tail, "0123456789abcdef") == 32;
}

/* kqfs-tmp.<pid>.<n>, as kq_io_replace names them. */
static bool is_temporary(const char *name)
{
    if (strncmp(name, "kqfs-tmp.", 9) != 0)
        return false;
    size_t pid = strspn(name + 9, "0123456789");
    const char *dot = name + 9 + pid;
    size_t serial = *dot == '.' ? strspn(dot + 1, "0123456789") : 0;
    return pid && serial && !dot[1 + serial];
}

static int take_directory(const char *path, const char *name, struct kq_scan *scan)
{
    char copy[NAME_MAX + 1];
    snprintf(copy, sizeof(copy), "%s", name);
    if (is_put_aside(name, "-delete"))
        return push(&scan->leftovers, &scan->leftover_count, &scan->leftover_capacity, name,
                    strlen(name));
    if (is_put_aside(name, "-stray") && !path)
        return push(&scan->strays, &scan->stray_count, &scan->stray_capacity, name, strlen(name));
    if (strcmp(name, KQ_METALOG_DIRECTORY) == 0)
        return 0;
    if (kq_scan_split(copy) >= 0)
        return push_directory(scan, name);
    if (path && strcmp(name, "lost+found") != 0)
        kq_diag(LOG_WARNING, "%s/%s is no partition of a topic: left alone", path, name);
    return 0;
}

static int take_file(const char *name, struct kq_scan *scan)
{
    size_t length = strlen(name), suffix = strlen(KQ_STORE_SUFFIX);
    if (is_temporary(name))
        return push(&scan->temporaries, &scan->temporary_count, &scan->temporary_capacity, name,
                    length);
    if (length <= suffix || strcmp(name + length - suffix, KQ_STORE_SUFFIX) != 0)
        return 0;
    int r = push(&scan->topics, &scan->topic_count, &scan->topic_capacity, name, length - suffix);
    if (r == 0 && !kq_topic_name_valid(scan->topics[scan->topic_count - 1]))
        free(scan->topics[--scan->topic_count]);
    return r;
}

static int take(int dirfd, const char *path, const struct dirent *entry, struct kq_scan *scan)
{
    unsigned char type = entry->d_type;
    struct stat st;
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
        return 0;
    if (type == DT_UNKNOWN && fstatat(dirfd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        type = S_ISDIR(st.st_mode) ? DT_DIR : DT_REG;
    return type == DT_DIR ? take_directory(path, entry->d_name, scan)
                          : take_file(entry->d_name, scan);
}

static int by_topic_and_number(const void *a, const void *b)
{
    const struct kq_found_directory *left = a, *right = b;
    int order = strcmp(left->topic, right->topic);
    return order ? order : (left->number > right->number) - (left->number < right->number);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The caller closes RET. */
static int open_list(int dirfd, const char *name, DIR **ret)
{
    int fd = kq_io_open(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    if (fd < 0)
        return fd;
    DIR *list = fdopendir(fd);
    if (!list) { /* of a directory that is open it lacks memory */
        close(fd);
        return -ENOMEM;
    }
    *ret = list;
    return 0;
}

int kq_scan_directory(int dirfd, const char *path, struct kq_scan *ret)
{
    DIR *list = NULL;
    const struct dirent *entry;
    int r = open_list(dirfd, ".", &list);
    if (r != 0)
        return r;
    while (r == 0 && (errno = 0, entry = readdir(list)))
        r = take(dirfd, path, entry, ret);
    if (r == 0 && errno)
        r = -errno;
    closedir(list);
    if (ret->directory_count)
        qsort(ret->directories, ret->directory_count, sizeof(*ret->directories),
              by_topic_and_number);
    if (ret->topic_count)
        qsort(ret->topics, ret->topic_count, sizeof(char *), by_name);
    return r;
}

const struct kq_found_directory *kq_scan_find(const struct kq_scan *scan, const char *topic,
                                              size_t *ret_count)
{
    size_t low = 0, high = scan->directory_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (strcmp(scan->directories[middle].topic, topic) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    size_t count = 0;
    while (low + count < scan->directory_count &&
           strcmp(scan->directories[low + count].topic, topic) == 0)
        count++;
    *ret_count = count;
    return count ? &scan->directories[low] : NULL;
}

static void free_list(char **list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(list[i]);
    free(list);
}

void kq_scan_release(struct kq_scan *scan)
{
    for (size_t i = 0; i < scan->directory_count; i++)
        free((char *)scan->directories[i].topic);
    free(scan->directories);
    free_list(scan->topics, scan->topic_count);
    free_list(scan->strays, scan->stray_count);
    free_list(scan->leftovers, scan->leftover_count);
    free_list(scan->temporaries, scan->temporary_count);
    *scan = (struct kq_scan){0};
}

/* A segment that is not empty, or does not begin at 0, or was set aside. */
static bool is_trace(int dirfd, const char *name)
{
    struct stat st;
    size_t digits = strspn(name, "0123456789");
    if (digits != 20 || strncmp(name + digits, ".log", 4) != 0)
        return false;
    if (strspn(name, "0") < digits || name[digits + 4])
        return true;
    return fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || st.st_size > 0;
}

int kq_scan_holds_messages(int directory, const char *name)
{
    DIR *list = NULL;
    const struct dirent *entry;
    bool found = false;
    int r = open_list(directory, name, &list);
    if (r != 0)
        return r;
    while (!found && (errno = 0, entry = readdir(list)))
        found = is_trace(dirfd(list), entry->d_name);
    r = found ? 1 : -errno;
    closedir(list);
    return r;
}

int kq_scan_topic_id(int directory, const char *name, uint8_t ret[KQ_UUID_BYTES])
{
    static const char key[] = "topic_id: ";
    kq_autobuf struct kq_buf text = {0};
    char path[NAME_MAX + 32];
    if (snprintf(path, sizeof(path), "%s/partition.metadata", name) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    int r = kq_io_slurp(directory, path, SMALL_FILE, &text);
    if (r == 0)
        r = kq_buf_append(&text, "", 1);
    if (r < 0)
        return r;
    const char *id = strstr((char *)text.data, key);
    return id && strlen(id + strlen(key)) >= KQ_UUID_TEXT &&
                   kq_uuid_parse(id + strlen(key), ret) == 0
               ? 0
               : -ENOENT;
}
