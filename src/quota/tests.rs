//! Stories of the engine on a paused clock: who is let through, who waits, and what ends a wait.

use tokio::{
    task::{JoinHandle, yield_now},
    time::{advance, sleep, timeout},
};

use super::{window::MARGIN, *};

const SERVICE_KEY: UpstreamKey = UpstreamKey::Service;
const SECOND: Duration = Duration::from_secs(1);

fn quota(rate: &str, wait: Duration) -> Quota {
    let rate = Some(rate.parse().expect("a rate"));
    Quota::new(Settings {
        rate,
        wait,
        has_service_key: true,
    })
}

fn caller(name: &str) -> Caller {
    Caller {
        name: name.into(),
        weight: 1,
    }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

async fn acquire(quota: &Quota, name: &str, requests: u32) -> Result<Slots, Exhausted> {
    let caller = caller(name);
    quota.acquire(&SERVICE_KEY, &caller, requests, far()).await
}

/// Sends one request now.
async fn send(quota: &Quota) {
    let slots = acquire(quota, "", 1).await.expect("room");
    slots.current().expect("one").mark_sent();
}

/// A call that is on its way, and the time since the test's start when it has sent its one request.
#[cfg(test)]
fn entered(
    quota: &Quota,
    name: &'static str,
    start: Instant,
) -> JoinHandle<Result<Duration, Exhausted>> {
    let quota = quota.clone();
    tokio::spawn(async move {
        let slots = acquire(&quota, name, 1).await?;
        slots.current().expect("one").mark_sent();
        Ok(start.elapsed())
    })
}

/// When the call sent its request.
async fn sent_after(call: JoinHandle<Result<Duration, Exhausted>>) -> Duration {
    call.await.expect("no panic").expect("its turn")
}

fn waiting_calls(quota: &Quota) -> usize {
    quota.report().expect("on").waiting
}

#[tokio::test(start_paused = true)]
async fn without_patience_a_call_goes_at_once_or_learns_the_exact_wait() {
    let quota = quota("2/10s", Duration::ZERO);
    send(&quota).await;
    sleep(SECOND).await;
    send(&quota).await;
    let exhausted = acquire(&quota, "", 1).await.expect_err("no room");
    assert_eq!(exhausted.wait, 9 * SECOND + MARGIN);
    let limits = exhausted.limits;
    assert_eq!((limits.limit, limits.remaining), (2, 0));
    assert_eq!(limits.reset, exhausted.wait);
    let both = acquire(&quota, "", 2).await.expect_err("no room");
    assert_eq!(both.wait, 10 * SECOND + MARGIN);
    sleep(exhausted.wait - Duration::from_millis(1)).await;
    assert!(acquire(&quota, "", 1).await.is_err(), "a moment too soon");
    sleep(Duration::from_millis(1)).await;
    acquire(&quota, "", 1).await.expect("it said so");
}

#[tokio::test(start_paused = true)]
async fn five_hundred_calls_of_one_caller_delay_anothers_first_by_one_turn() {
    let quota = quota("2/10s", 3600 * SECOND);
    let start = Instant::now();
    let loud: Vec<_> = (0..500).map(|_| entered(&quota, "loud", start)).collect();
    sleep(SECOND).await;
    assert_eq!(waiting_calls(&quota), 498);
    let polite = sent_after(entered(&quota, "polite", start)).await;
    assert!(polite <= 10 * SECOND + 2 * MARGIN, "{polite:?}");
    loud.iter().for_each(JoinHandle::abort);
    sleep(SECOND).await;
    assert_eq!(waiting_calls(&quota), 0, "who leaves waits no longer");
}

#[tokio::test(start_paused = true)]
async fn a_small_call_does_not_pass_one_that_waits_for_room_for_two() {
    let quota = quota("2/10s", 3600 * SECOND);
    send(&quota).await;
    let mut two = Box::pin(acquire(&quota, "a", 2));
    assert!(
        timeout(SECOND, &mut two).await.is_err(),
        "there is room for one"
    );
    let one = entered(&quota, "b", Instant::now());
    sleep(SECOND).await;
    assert_eq!(waiting_calls(&quota), 2);
    let both = timeout(10 * SECOND, two).await.expect("room for two");
    drop(both);
    sent_after(one).await;
}

#[tokio::test(start_paused = true)]
async fn who_leaves_at_its_turn_passes_it_on() {
    let quota = quota("2/10s", 3600 * SECOND);
    let start = Instant::now();
    for _ in 0..2 {
        send(&quota).await;
    }
    let mut leaving = Box::pin(acquire(&quota, "a", 2));
    assert!(timeout(SECOND, &mut leaving).await.is_err(), "it waits");
    let next = [entered(&quota, "b", start), entered(&quota, "c", start)];
    yield_now().await;
    sleep(SECOND).await;
    assert_eq!(waiting_calls(&quota), 3);
    drop(leaving);
    for call in next {
        let took = sent_after(call).await;
        assert!(took <= 10 * SECOND + 2 * MARGIN, "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_is_not_used_goes_to_who_waits_at_once() {
    let quota = quota("2/10s", 3600 * SECOND);
    let start = Instant::now();
    let unused = acquire(&quota, "", 2).await.expect("room");
    let waiting = entered(&quota, "", start);
    sleep(SECOND).await;
    drop(unused);
    let took = sent_after(waiting).await;
    assert_eq!(took.as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_came_to_a_call_that_left_is_not_lost() {
    let quota = quota("2/10s", 3600 * SECOND);
    let unused = acquire(&quota, "", 2).await.expect("room");
    let mut leaving = Box::pin(acquire(&quota, "a", 2));
    assert!(timeout(SECOND, &mut leaving).await.is_err(), "it waits");
    drop(unused); // its turn comes, and it does not learn of it
    assert_eq!(waiting_calls(&quota), 0);
    assert!(quota.try_acquire(&SERVICE_KEY).is_err());
    drop(leaving);
    quota.try_acquire(&SERVICE_KEY).expect("room for two");
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_known_to_be_too_long_is_not_begun() {
    let quota = quota("2/10s", 15 * SECOND);
    let start = Instant::now();
    for _ in 0..2 {
        send(&quota).await;
    }
    let deadline = Instant::now() + 10 * SECOND;
    let due = quota.acquire(&SERVICE_KEY, &caller(""), 1, deadline).await;
    assert_eq!(due.expect_err("too late").wait, 10 * SECOND + MARGIN);
    let turns = [entered(&quota, "", start), entered(&quota, "", start)];
    yield_now().await;
    advance(Duration::from_millis(1)).await;
    let third = acquire(&quota, "", 1).await.expect_err("a window later");
    assert!(third.wait > 20 * SECOND, "{:?}", third.wait);
    assert!(start.elapsed() < SECOND, "at once");
    for turn in turns {
        sent_after(turn).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stopped_key_ends_the_wait_of_all_who_would_wait_in_vain() {
    let quota = quota("2/10s", 15 * SECOND);
    let mut slots = acquire(&quota, "", 2).await.expect("room");
    let first = slots.split_off();
    let start = Instant::now();
    let waiting = ["a", "a", "b"].map(|name| entered(&quota, name, start));
    first.current().expect("one").mark_sent();
    sleep(SECOND).await;
    let stop = Some(60 * SECOND);
    let answer = Answer {
        remaining: None,
        stop,
    };
    let limits = first.current().expect("one").learn(answer);
    assert_eq!((limits.remaining, limits.reset), (0, 60 * SECOND));
    for call in waiting {
        let ended = timeout(SECOND, call).await.expect("at once");
        ended.expect("no panic").expect_err("in vain");
    }
}

#[tokio::test(start_paused = true)]
async fn more_keys_than_are_counted_share_one_quota_until_others_are_forgotten() {
    let quota = quota("2/10s", Duration::ZERO);
    let key = |number: usize| UpstreamKey::brought(&format!("key-{number}"));
    let send = |key: UpstreamKey| {
        let slots = quota.try_acquire(&key)?;
        slots.current().expect("one").mark_sent();
        Ok::<_, Exhausted>(())
    };
    for number in 0..MAX_KEYS + 2 {
        send(key(number)).expect("room");
    }
    assert!(
        send(key(MAX_KEYS + 2)).is_err(),
        "the shared one is used up"
    );
    send(key(7)).expect("it has one of its own");
    sleep(10 * SECOND + MARGIN).await;
    for _ in 0..2 {
        send(key(MAX_KEYS + 2)).expect("the others are forgotten");
        send(key(MAX_KEYS + 3)).expect("another of its own");
    }
}
