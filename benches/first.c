/* What `cargo xtask bench-boot` boots: takes the time before all else, writes it to a file, and stays. With an argument,
 * the name of that file, it ends instead. */
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct timespec now;
    char text[32];

    clock_gettime(CLOCK_MONOTONIC, &now);
    int len = snprintf(text, sizeof text, "%lld\n", now.tv_sec * 1000000000LL + now.tv_nsec);
    int fd = open(argc > 1 ? argv[1] : "/first", O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || write(fd, text, len) != len)
        return 1;
    close(fd);
    while (argc < 2)
        pause();
    return 0;
}
