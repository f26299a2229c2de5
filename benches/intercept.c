/* What `cargo xtask bench-intercept` runs inside and outside of containers: medians of some system calls, in ns.
 *
 *   intercept DIR COUNT
 *
 * prints the medians of mknod of the null device and of a FIFO in DIR, and of sysinfo, and the mean of getppid. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double median(double *times, int n)
{
	qsort(times, n, sizeof *times, compare);
	return times[n / 2];
}

int main(int argc, char **argv)
{
	int n = argc > 2 ? atoi(argv[2]) : 1000;
	double *node = calloc(n, sizeof *node), *fifo = calloc(n, sizeof *fifo), *info = calloc(n, sizeof *info);
	if (argc < 2 || n < 1 || !node || !fifo || !info || chdir(argv[1]))
		return 2;
	int failed = 0;
	struct sysinfo si;
	for (int i = 0; i < n; i++) {
		double a = now();
		failed |= mknod("node", S_IFCHR | 0666, makedev(1, 3));
		double b = now();
		unlink("node");
		failed |= mknod("fifo", S_IFIFO | 0666, 0);
		unlink("fifo");
		double c = now();
		sysinfo(&si);
		double d = now();
		node[i] = b - a, info[i] = d - c;
	}
	/* By themselves, as what comes after a call that waits for others finds its caches cold. */
	for (int i = 0; i < n; i++) {
		double a = now();
		failed |= mknod("fifo", S_IFIFO | 0666, 0);
		fifo[i] = now() - a;
		unlink("fifo");
	}
	double a = now();
	for (int i = 0; i < 1000000; i++)
		syscall(SYS_getppid);
	double ppid = (now() - a) / 1e6;
	printf("%.0f %.0f %.0f %.1f %d\n", median(node, n), median(fifo, n), median(info, n), ppid, failed != 0);
	return 0;
}
