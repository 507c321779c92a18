/* Preloaded by the power loss test's check of itself: a program that says it synced, and did not.
 */
int fsync(int fd);
int fdatasync(int fd);

int fsync(int fd)
{
    return 0;
}

int fdatasync(int fd)
{
    return 0;
}
