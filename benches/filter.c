/* How long the kernel takes to install a seccomp filter: ours, and that of libseccomp for the same list of calls.
 *
 *   filter OURS NAMES ROUNDS
 *
 * OURS is our program (struct sock_filter after struct sock_filter), NAMES the calls that it allows, one a line; all others
 * fail with EPERM, on x86_64, i386 and x32. libseccomp's header is not needed: what is used of it stands here. Its filter is
 * the one that it makes unless told otherwise: a list of comparisons. Prints instructions and medians in us: ours, theirs. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef void *scmp_filter_ctx;
scmp_filter_ctx seccomp_init(uint32_t);
int seccomp_arch_add(scmp_filter_ctx, uint32_t);
int seccomp_rule_add_array(scmp_filter_ctx, uint32_t, int, unsigned, const void *);
int seccomp_syscall_resolve_name(const char *);
int seccomp_export_bpf(scmp_filter_ctx, int);

#define ACT_EPERM (0x00050000u | EPERM)
#define ACT_ALLOW 0x7fff0000u
#define ARCH_X86 0x40000003u
/* AUDIT_ARCH_X86_64 without the bit of 64: libseccomp's name for x32. */
#define ARCH_X32 0x4000003eu

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* In a child, which the filter stays with. */
static double install(const void *program, size_t bytes)
{
	double *took = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t child = fork();
	if (child == 0) {
		struct sock_fprog prog = { bytes / sizeof(struct sock_filter), (struct sock_filter *)program };
		struct timespec a, b;
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		clock_gettime(CLOCK_MONOTONIC, &a);
		long ret = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog);
		clock_gettime(CLOCK_MONOTONIC, &b);
		*took = ret ? -1 : (b.tv_sec - a.tv_sec) * 1e6 + (b.tv_nsec - a.tv_nsec) / 1e3;
		_exit(0);
	}
	waitpid(child, NULL, 0);
	double time = *took;
	munmap(took, 4096);
	return time;
}

static void *slurp(int fd, size_t *bytes)
{
	*bytes = lseek(fd, 0, SEEK_END);
	void *all = mmap(NULL, *bytes, PROT_READ, MAP_PRIVATE, fd, 0);
	return all == MAP_FAILED ? NULL : all;
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	int rounds = atoi(argv[3]);
	FILE *ours_file = fopen(argv[1], "r"), *names = fopen(argv[2], "r");
	scmp_filter_ctx ctx = seccomp_init(ACT_EPERM);
	if (!ours_file || !names || !ctx || rounds < 1)
		return 2;
	if (seccomp_arch_add(ctx, ARCH_X86) || seccomp_arch_add(ctx, ARCH_X32))
		return 3;
	char name[64];
	while (fgets(name, sizeof name, names)) {
		name[strcspn(name, "\n")] = 0;
		int nr = seccomp_syscall_resolve_name(name);
		/* One that is newer than the library. */
		if (nr != -1)
			seccomp_rule_add_array(ctx, ACT_ALLOW, nr, 0, NULL);
	}
	int fd = memfd_create("theirs", 0);
	if (seccomp_export_bpf(ctx, fd))
		return 4;
	size_t ours_len, theirs_len;
	void *ours = slurp(fileno(ours_file), &ours_len), *theirs = slurp(fd, &theirs_len);
	double *a = calloc(rounds, sizeof *a), *b = calloc(rounds, sizeof *b);
	if (!ours || !theirs || !a || !b)
		return 5;
	for (int i = 0; i < rounds; i++) {
		a[i] = install(ours, ours_len);
		b[i] = install(theirs, theirs_len);
		if (a[i] < 0 || b[i] < 0)
			return 6;
	}
	qsort(a, rounds, sizeof *a, compare);
	qsort(b, rounds, sizeof *b, compare);
	printf("%zu %.1f %zu %.1f\n", ours_len / 8, a[rounds / 2], theirs_len / 8, b[rounds / 2]);
	return 0;
}
