/* A wall clock of its own for the processes of one lab server: LD_PRELOAD this, and name the plan's file in SIDEKICK_LAB_CLOCK.
 * Only the wall clock is moved. Boot time and monotonic time stay the kernel's: the testbed shifts those with time namespaces. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct plan {
	volatile int64_t offset_ns;
	volatile int64_t drift_ppm;
	volatile int64_t drift_from_s; /* wall time from which the drift counts */
};

static const struct plan *plan;

__attribute__((constructor)) static void read_plan(void)
{
	const char *path = getenv("SIDEKICK_LAB_CLOCK");
	int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (file < 0)
		return;
	void *map = mmap(NULL, sizeof *plan, PROT_READ, MAP_SHARED, file, 0);
	close(file);
	if (map != MAP_FAILED)
		plan = map;
}

static void shift(struct timespec *at)
{
	if (!plan)
		return;
	int64_t ns = plan->offset_ns + (at->tv_sec - plan->drift_from_s) * plan->drift_ppm * 1000 + at->tv_nsec;
	at->tv_sec += ns / 1000000000;
	ns %= 1000000000;
	if (ns < 0) {
		ns += 1000000000;
		at->tv_sec -= 1;
	}
	at->tv_nsec = ns;
}

int clock_gettime(clockid_t id, struct timespec *at)
{
	int result = syscall(SYS_clock_gettime, id, at);
	if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
		shift(at);
	return result;
}

int gettimeofday(struct timeval *at, void *zone)
{
	struct timespec now;
	(void)zone;
	if (clock_gettime(CLOCK_REALTIME, &now) != 0)
		return -1;
	at->tv_sec = now.tv_sec;
	at->tv_usec = now.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *at)
{
	struct timespec now;
	if (clock_gettime(CLOCK_REALTIME, &now) != 0)
		return (time_t)-1;
	if (at)
		*at = now.tv_sec;
	return now.tv_sec;
}
