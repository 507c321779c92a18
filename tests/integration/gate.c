/* A disk that stands still while somebody wants it to: preloaded into the broker, it holds up every
 * write to a log while the file KQFS_GATE_WRITE exists, and every sync while KQFS_GATE_SYNC does.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/types.h>

static void wait_while(const char *variable)
{
    const char *gate = getenv(variable);
    while (gate && access(gate, F_OK) == 0)
        usleep(1000);
}

static int is_log(int fd)
{
    char link[64], path[512];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof(path) - 1);
    if (length < 4)
        return 0;
    path[length] = '\0';
    return strcmp(path + length - 4, ".log") == 0;
}

/* With offsets of 64 bits everywhere, this is pwrite64. */
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t position);
int fdatasync(int fd);

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t position)
{
    static ssize_t (*real)(int, const void *, size_t, off_t);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "pwrite64");
    if (is_log(fd))
        wait_while("KQFS_GATE_WRITE");
    return real(fd, bytes, length, position);
}

int fdatasync(int fd)
{
    static int (*real)(int);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "fdatasync");
    wait_while("KQFS_GATE_SYNC");
    return real(fd);
}
