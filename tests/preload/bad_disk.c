/* tests/preload/bad_disk.c -- for LD_PRELOAD: a disk that fails, or is slow, for as long as a file says so.
 *
 *   BAD_DISK=/folder       what lies below it is on this disk
 *   BAD_DISK_SAYS=/file    looked at before each call; its first letter is W: writes fail (EIO); F: fsyncs do; S: each of both takes
 *                          a fifth of a second; anything else, or no file: the disk is well
 * Other files are left alone. Touch: any thread. */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static bool is_there(int fd)
{
    const char *disk = getenv("BAD_DISK");
    char link[64], path[4096];
    ssize_t n;

    if (!disk)
        return false;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof(path) - 1);
    return n > 0 && (size_t)n > strlen(disk) && strncmp(path, disk, strlen(disk)) == 0;
}

static char says(void)
{
    const char *name = getenv("BAD_DISK_SAYS");
    int fd = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    char word = ' ';

    if (fd >= 0 && read(fd, &word, 1) != 1)
        word = ' ';
    if (fd >= 0)
        close(fd);
    return word;
}

/* false: the call fails. */
static bool works(int fd, char fails)
{
    const struct timespec pause = {.tv_nsec = 200000000L};
    int before = errno;
    char word = is_there(fd) ? says() : ' ';

    if (word == 'S')
        nanosleep(&pause, NULL);
    errno = word == fails ? EIO : before;
    return word != fails;
}

ssize_t write(int fd, const void *data, size_t size)
{
    return works(fd, 'W') ? syscall(SYS_write, fd, data, size) : -1;
}

int fsync(int fd)
{
    return works(fd, 'F') ? (int)syscall(SYS_fsync, fd) : -1;
}
