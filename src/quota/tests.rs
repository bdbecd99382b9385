//! The engine on a paused clock: which calls are admitted, which wait, and what ends a wait.

use tokio::{
    task::{JoinHandle, yield_now},
    time::{advance, sleep, timeout},
};

use super::{window::MARGIN, *};

const SERVICE_KEY: UpstreamKey = UpstreamKey::Service;
const SECOND: Duration = Duration::from_secs(1);

fn quota(rate: &str, wait: Duration) -> Quota {
    let rate = Some(rate.parse().expect("a rate"));
    Quota::with(
        &Settings {
            rate,
            replicas: 1,
            service: None,
            wait,
            has_service_key: true,
        },
        None,
    )
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
    quota
        .acquire(&SERVICE_KEY, &caller, requests, far(), &HeaderMap::new())
        .await
}

/// Sends one request now.
async fn send(quota: &Quota) {
    let slots = acquire(quota, "", 1).await.expect("a free slot");
    slots.current().expect("one").mark_sent();
}

/// Starts a call. Its result is the time from the test's start to its request.
#[cfg(test)]
fn start_call(
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
async fn without_a_wait_a_call_is_admitted_at_once_or_gets_the_exact_wait() {
    let quota = quota("2/10s", Duration::ZERO);
    send(&quota).await;
    sleep(SECOND).await;
    send(&quota).await;
    let exhausted = acquire(&quota, "", 1).await.expect_err("no free slot");
    assert_eq!(exhausted.wait, 9 * SECOND + MARGIN);
    let limits = exhausted.limits;
    assert_eq!((limits.limit, limits.remaining), (2, 0));
    assert_eq!(limits.reset, exhausted.wait);
    let both = acquire(&quota, "", 2).await.expect_err("no free slot");
    assert_eq!(both.wait, 10 * SECOND + MARGIN);
    sleep(exhausted.wait - Duration::from_millis(1)).await;
    assert!(acquire(&quota, "", 1).await.is_err(), "a moment too soon");
    sleep(Duration::from_millis(1)).await;
    acquire(&quota, "", 1).await.expect("as reported");
}

#[tokio::test(start_paused = true)]
async fn five_hundred_calls_of_one_caller_delay_anothers_first_call_by_one_turn() {
    let quota = quota("2/10s", 3600 * SECOND);
    let start = Instant::now();
    let loud: Vec<_> = (0..500)
        .map(|_| start_call(&quota, "loud", start))
        .collect();
    sleep(SECOND).await;
    assert_eq!(waiting_calls(&quota), 498);
    let polite = sent_after(start_call(&quota, "polite", start)).await;
    assert!(polite <= 10 * SECOND + 2 * MARGIN, "{polite:?}");
    loud.iter().for_each(JoinHandle::abort);
    sleep(SECOND).await;
    assert_eq!(waiting_calls(&quota), 0, "calls that left no longer wait");
}

#[tokio::test(start_paused = true)]
async fn a_call_of_one_request_does_not_overtake_one_of_two() {
    let quota = quota("2/10s", 3600 * SECOND);
    send(&quota).await;
    let mut two = Box::pin(acquire(&quota, "a", 2));
    assert!(
        timeout(SECOND, &mut two).await.is_err(),
        "only one slot is free"
    );
    let one = start_call(&quota, "b", Instant::now());
    sleep(SECOND).await;
    assert_eq!(waiting_calls(&quota), 2);
    let both = timeout(10 * SECOND, two).await.expect("two slots");
    drop(both);
    sent_after(one).await;
}

#[tokio::test(start_paused = true)]
async fn a_first_call_that_leaves_lets_the_next_one_go() {
    let quota = quota("2/10s", 3600 * SECOND);
    let start = Instant::now();
    for _ in 0..2 {
        send(&quota).await;
    }
    let mut leaving = Box::pin(acquire(&quota, "a", 2));
    assert!(timeout(SECOND, &mut leaving).await.is_err(), "it waits");
    let next = [
        start_call(&quota, "b", start),
        start_call(&quota, "c", start),
    ];
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
async fn an_unused_slot_goes_to_a_waiting_call_at_once() {
    let quota = quota("2/10s", 3600 * SECOND);
    let start = Instant::now();
    let unused = acquire(&quota, "", 2).await.expect("a free slot");
    let waiting = start_call(&quota, "", start);
    sleep(SECOND).await;
    drop(unused);
    let took = sent_after(waiting).await;
    assert_eq!(took.as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_slots_of_an_admitted_call_that_left_are_not_lost() {
    let quota = quota("2/10s", 3600 * SECOND);
    let unused = acquire(&quota, "", 2).await.expect("a free slot");
    let mut leaving = Box::pin(acquire(&quota, "a", 2));
    assert!(timeout(SECOND, &mut leaving).await.is_err(), "it waits");
    drop(unused); // it is admitted, but not polled again
    assert_eq!(waiting_calls(&quota), 0);
    assert!(quota.try_acquire(&SERVICE_KEY).await.is_err());
    drop(leaving);
    quota.try_acquire(&SERVICE_KEY).await.expect("two slots");
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_wait_would_be_too_long_is_rejected_at_once() {
    let quota = quota("2/10s", 15 * SECOND);
    let start = Instant::now();
    for _ in 0..2 {
        send(&quota).await;
    }
    let deadline = Instant::now() + 10 * SECOND;
    let late = quota
        .acquire(&SERVICE_KEY, &caller(""), 1, deadline, &HeaderMap::new())
        .await;
    assert_eq!(late.expect_err("too late").wait, 10 * SECOND + MARGIN);
    let turns = [start_call(&quota, "", start), start_call(&quota, "", start)];
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
async fn a_stopped_key_ends_all_waits_that_would_be_in_vain() {
    let quota = quota("2/10s", 15 * SECOND);
    let mut slots = acquire(&quota, "", 2).await.expect("a free slot");
    let first = slots.split_off();
    let start = Instant::now();
    let waiting = ["a", "a", "b"].map(|name| start_call(&quota, name, start));
    first.current().expect("one").mark_sent();
    sleep(SECOND).await;
    let stop = Some(60 * SECOND);
    let reported = ReportedLimit {
        remaining: None,
        stop,
    };
    let limits = first.current().expect("one").reconcile(reported);
    assert_eq!((limits.remaining, limits.reset), (0, 60 * SECOND));
    for call in waiting {
        let ended = timeout(SECOND, call).await.expect("at once");
        ended.expect("no panic").expect_err("in vain");
    }
}

#[tokio::test(start_paused = true)]
async fn keys_beyond_the_maximum_share_one_quota_until_others_are_forgotten() {
    let quota = quota("2/10s", Duration::ZERO);
    let key = |number: usize| UpstreamKey::brought(&format!("key-{number}"));
    let send = async |key: UpstreamKey| {
        let slots = quota.try_acquire(&key).await?;
        slots.current().expect("one").mark_sent();
        Ok::<_, Exhausted>(())
    };
    for number in 0..MAX_KEYS + 2 {
        send(key(number)).await.expect("a free slot");
    }
    assert!(
        send(key(MAX_KEYS + 2)).await.is_err(),
        "the shared one is used up"
    );
    send(key(7)).await.expect("it has one of its own");
    sleep(10 * SECOND + MARGIN).await;
    for _ in 0..2 {
        send(key(MAX_KEYS + 2))
            .await
            .expect("the others are forgotten");
        send(key(MAX_KEYS + 3)).await.expect("another of its own");
    }
}
