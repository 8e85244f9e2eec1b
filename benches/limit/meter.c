/* Runs a program and says what it cost: meter OUTPUT SECONDS PROGRAM ARGUMENT...
 *
 * OUTPUT gets one line: the status of waitpid, seconds of the monotonic clock at the start and at the end, seconds of user
 * and of system time, the peak of resident memory in KiB, and context switches, voluntary and not. Beyond SECONDS the
 * program is killed. It is small because the kernel counts the memory of whoever forks into the peak of the program. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static volatile sig_atomic_t child;

static void late(int signal_number)
{
    (void)signal_number;
    kill((pid_t)child, SIGKILL);
}

static double seconds(struct timeval time)
{
    return (double)time.tv_sec + (double)time.tv_usec / 1e6;
}

int main(int count, char **words)
{
    if (count < 4) {
        fprintf(stderr, "usage: meter OUTPUT SECONDS PROGRAM ARGUMENT...\n");
        return 2;
    }
    double begun = now();
    pid_t pid = fork();
    if (pid < 0) {
        perror("fork");
        return 2;
    }
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execvp(words[3], words + 3);
        perror(words[3]);
        _exit(127);
    }
    child = (sig_atomic_t)pid;
    signal(SIGALRM, late);
    alarm((unsigned)atoi(words[2]));
    int status = 0;
    struct rusage used;
    while (wait4(pid, &status, 0, &used) != pid)
        ;
    double ended = now();
    FILE *output = fopen(words[1], "w");
    if (!output) {
        perror(words[1]);
        return 2;
    }
    fprintf(output, "%d %.9f %.9f %.6f %.6f %ld %ld %ld\n", status, begun, ended, seconds(used.ru_utime),
            seconds(used.ru_stime), used.ru_maxrss, used.ru_nvcsw, used.ru_nivcsw);
    return fclose(output) ? 2 : 0;
}
