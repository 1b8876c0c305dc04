/* The wall clock as a test wants it: a process with this loaded before its C library sees CLOCK_REALTIME shifted by the
 * seconds that the file $SHIFT_CLOCK holds at that moment (8 bytes, little-endian). No other clock is touched. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile long long *shift(void) {
    static volatile long long *seconds;
    if (!seconds) {
        int file = open(getenv("SHIFT_CLOCK"), O_RDONLY | O_CLOEXEC);
        void *page = mmap(NULL, sizeof *seconds, PROT_READ, MAP_SHARED, file, 0);
        close(file);
        if (page == MAP_FAILED) abort();
        seconds = page;
    }
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    long failed = syscall(SYS_clock_gettime, clock, time);
    if (!failed && clock == CLOCK_REALTIME) time->tv_sec += *shift();
    return failed ? -1 : 0;
}
