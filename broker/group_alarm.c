/* Deadlines of groups and members.
 *
 * The timers' thread calls without a lock, so a call may be on its way while the alarm is moved or
 * cancelled. Whoever does that under the group's lock notes that the call is stale; there is at
 * most one such call, since the thread makes one at a time. The timer holds a reference on the
 * group (and the member) from when it is set until its call is over. */
#include "broker/group.h"

#include "broker/base/clock.h"

#define NS_PER_MS 1000000

static void hold(struct kq_alarm *alarm)
{
    kq_group_ref(alarm->group);
    if (alarm->member)
        alarm->member->references++;
}

/* Never the last reference on the group: the caller has one. */
static void let_go(struct kq_alarm *alarm)
{
    struct kq_group *group = alarm->group;
    if (alarm->member)
        kq_group_member_unref(alarm->member);
    kq_group_unref(group);
}

static void expire(struct kq_timer *timer)
{
    struct kq_alarm *alarm = (struct kq_alarm *)timer;
    struct kq_group *group = kq_group_ref(alarm->group);
    kq_group_lock(group);
    if (alarm->stale) {
        alarm->stale = false;
        let_go(alarm);
    } else if (kq_clock_mono_ns() < alarm->deadline_ns) {
        alarm->queued_ns = alarm->deadline_ns;
        kq_timers_set(group->groups->timers, timer, alarm->queued_ns);
    } else {
        alarm->armed = false;
        alarm->due(alarm);
        let_go(alarm);
    }
    kq_group_unlock(group);
    kq_group_unref(group);
}

void kq_alarm_init(struct kq_alarm *alarm, struct kq_group *group, struct kq_group_member *member,
                   void (*due)(struct kq_alarm *alarm))
{
    *alarm =
        (struct kq_alarm){.timer.expire = expire, .group = group, .member = member, .due = due};
}

/* Takes the timer of an armed alarm back. True: its reference is the caller's. False: its call has
 * begun, and waits for the group's lock. */
static bool take_back(struct kq_alarm *alarm)
{
    bool taken = kq_timers_take(alarm->group->groups->timers, &alarm->timer);
    alarm->stale |= !taken;
    return taken;
}

void kq_alarm_set(struct kq_alarm *alarm, int64_t after_ms)
{
    int64_t now_ns = kq_clock_mono_ns();
    int64_t most_ms = (INT64_MAX - now_ns) / NS_PER_MS;
    alarm->deadline_ns = now_ns + kq_min64(after_ms, most_ms) * NS_PER_MS;
    if (alarm->armed && alarm->deadline_ns >= alarm->queued_ns)
        return;
    if (!alarm->armed || !take_back(alarm))
        hold(alarm);
    alarm->armed = true;
    alarm->queued_ns = alarm->deadline_ns;
    kq_timers_set(alarm->group->groups->timers, &alarm->timer, alarm->queued_ns);
}

void kq_alarm_cancel(struct kq_alarm *alarm)
{
    if (!alarm->armed)
        return;
    alarm->armed = false;
    if (take_back(alarm))
        let_go(alarm);
}
