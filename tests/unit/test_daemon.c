#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "broker/daemon.h"
#include "tests/unit/directory.h"
#include "tests/unit/said.h"

/* Runs BODY as kqfs would run, after kq_daemon_detach, and returns what the caller of kqfs sees. */
static int detached(void (*body)(int life), int *ret_life)
{
    int life[2];
    assert_int_equal(pipe(life), 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(life[0]);
        if (kq_daemon_detach() < 0)
            _exit(99);
        body(life[1]);
        _exit(3);
    }
    close(life[1]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    *ret_life = life[0];
    return WEXITSTATUS(status);
}

static void fail_early(int life)
{
    _exit(4);
}

static void die_early(int life)
{
    signal(SIGKILL, SIG_DFL);
    raise(SIGKILL);
}

static void become_ready(int life)
{
    char answer;
    kq_daemon_ready();
    answer = getsid(0) == getpid() && getppid() != 0 ? 'y' : 'n';
    _exit(write(life, &answer, 1) == 1 ? 0 : 1);
}

static void the_callers_exit_code_is_that_of_a_failed_start(void **state)
{
    int life;
    assert_int_equal(detached(fail_early, &life), 4);
    close(life);
    assert_int_equal(detached(die_early, &life), 1);
    close(life);
}

static void the_caller_goes_on_once_all_is_well(void **state)
{
    int life;
    char answer;
    assert_int_equal(detached(become_ready, &life), 0);
    assert_int_equal(read(life, &answer, 1), 1);
    assert_int_equal(answer, 'y');
    close(life);
}

static void the_service_manager_hears_of_it(void **state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char path[DIRECTORY_BYTES], got[32] = "";
    directory_make(path, NULL);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/s", path);
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    setenv("NOTIFY_SOCKET", address.sun_path, 1);
    kq_daemon_ready();
    unsetenv("NOTIFY_SOCKET");
    assert_int_equal(recv(fd, got, sizeof(got) - 1, 0), 7);
    assert_string_equal(got, "READY=1");
    kq_daemon_notify("STOPPING=1"); /* nobody asked: nothing is sent */
    assert_int_equal(recv(fd, got, sizeof(got) - 1, MSG_DONTWAIT), -1);
    close(fd);
    assert_int_equal(directory_remove(path), 0);
}

static sem_t stopped;
static atomic_int stops;

static void on_stop(void)
{
    stops++;
    sem_post(&stopped);
}

static void the_first_signal_stops_and_the_next_change_nothing(void **state)
{
    sem_init(&stopped, 0, 0);
    assert_int_equal(kq_signals_start(on_stop, "working"), 0);
    assert_false(kq_signals_stopping());
    kill(getpid(), SIGTERM);
    sem_wait(&stopped);
    assert_true(kq_signals_stopping());
    kill(getpid(), SIGINT);
    kill(getpid(), SIGHUP);
    kill(getpid(), SIGPIPE);
    kq_signals_end();
    assert_int_equal(stops, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_callers_exit_code_is_that_of_a_failed_start),
        cmocka_unit_test(the_caller_goes_on_once_all_is_well),
        cmocka_unit_test(the_service_manager_hears_of_it),
        cmocka_unit_test(the_first_signal_stops_and_the_next_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
