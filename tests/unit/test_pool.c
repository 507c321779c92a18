/* Work on other threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/base/pool.h"

struct task {
    struct kq_job job;
    int number;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int done, running, most_running, last_number;
static bool in_order, gate_open;

static void reset(bool open)
{
    done = running = most_running = 0;
    last_number = -1;
    in_order = true;
    gate_open = open;
}

static void run(struct kq_job *job)
{
    struct task *task = (struct task *)job;
    pthread_mutex_lock(&lock);
    running++;
    most_running = running > most_running ? running : most_running;
    in_order = in_order && task->number > last_number;
    last_number = task->number;
    pthread_cond_broadcast(&changed);
    while (!gate_open)
        pthread_cond_wait(&changed, &lock);
    running--;
    done++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    free(task); /* the pool does not touch it any more */
}

static void submit(struct kq_pool *pool, int number)
{
    struct task *task = calloc(1, sizeof(*task));
    task->job.run = run;
    task->number = number;
    kq_pool_submit(pool, &task->job);
}

static void wait_until(int *value, int wanted)
{
    pthread_mutex_lock(&lock);
    while (*value < wanted)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static void open_gate(void)
{
    pthread_mutex_lock(&lock);
    gate_open = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void one_thread_runs_jobs_in_order(void **state)
{
    struct kq_pool *pool;
    reset(true);
    assert_int_equal(kq_pool_new("one", 1, &pool), 0);
    for (int i = 0; i < 1000; i++)
        submit(pool, i);
    wait_until(&done, 1000);
    assert_true(in_order);
    assert_int_equal(most_running, 1);
    kq_pool_free(pool);
}

static void blocked_jobs_get_threads_up_to_the_maximum(void **state)
{
    struct kq_pool *pool;
    reset(false);
    assert_int_equal(kq_pool_new("four", 4, &pool), 0);
    for (int i = 0; i < 10; i++)
        submit(pool, i);
    wait_until(&running, 4);
    assert_int_equal(done, 0);
    open_gate();
    wait_until(&done, 10);
    assert_int_equal(most_running, 4);
    kq_pool_free(pool);
}

static void freeing_runs_what_is_queued(void **state)
{
    struct kq_pool *pool;
    reset(true);
    assert_int_equal(kq_pool_new("queue", 2, &pool), 0);
    for (int i = 0; i < 500; i++)
        submit(pool, i);
    kq_pool_free(pool);
    assert_int_equal(done, 500);
    kq_pool_free(NULL);
}

/* In a process of its own, whose user may have no further threads. */
static void submit_without_threads(void)
{
    struct rlimit none = {0};
    struct kq_pool *pool;
    if ((getuid() == 0 && setuid(65534) < 0) || setrlimit(RLIMIT_NPROC, &none) < 0)
        _exit(77);
    reset(true);
    if (kq_pool_new("none", 4, &pool) < 0)
        _exit(1);
    submit(pool, 0);
    submit(pool, 1);
    _exit(done == 2 && in_order ? 0 : 2);
}

static void where_no_thread_can_be_made_the_caller_works(void **state)
{
    int status;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        submit_without_threads();
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        skip();
    assert_int_equal(WEXITSTATUS(status), 0);
}

static struct kq_pool *shared;

static void *submit_many(void *unused)
{
    for (int i = 0; i < 2000; i++)
        submit(shared, i);
    return NULL;
}

static void many_submitters_lose_nothing(void **state)
{
    pthread_t threads[4];
    reset(true);
    assert_int_equal(kq_pool_new("shared", 3, &shared), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, submit_many, NULL), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    wait_until(&done, 8000);
    kq_pool_free(shared);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        /* It forks: the first, before there are threads that may still be on their way out. */
        cmocka_unit_test(where_no_thread_can_be_made_the_caller_works),
        cmocka_unit_test(one_thread_runs_jobs_in_order),
        cmocka_unit_test(blocked_jobs_get_threads_up_to_the_maximum),
        cmocka_unit_test(freeing_runs_what_is_queued),
        cmocka_unit_test(many_submitters_lose_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
