//! The queue of waiting calls: fair between callers by weight, first come first served within a caller.
//!
//! Surplus round robin (Adiseshu, Parulkar and Varghese, 1996), a deficit round robin that can overdraw. The waiting callers
//! form a ring, and a caller's turn is worth its weight in requests. A new caller joins at the end of the ring. So its first call
//! waits for at most one turn of each other caller, however many calls those have. A parked caller keeps its waiting calls, but gets no
//! turn. This file knows no time.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::Caller;

/// A waiting call.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    /// Identifies the call. Later calls have higher numbers.
    pub(super) id: u64,
    /// The number of requests that it sends.
    pub(super) requests: u32,
    /// How to wake it.
    pub(super) wake: T,
}

/// The waiting calls of one caller.
#[derive(Debug)]
struct Line<T> {
    weight: i64,
    /// The requests left of the caller's turn. At most 0 outside its turn.
    credit: i64,
    waiting: VecDeque<Waiting<T>>,
    /// The sum over `waiting`.
    requests: u32,
    /// Whether it gets no turn. If so, it is not in the ring.
    is_parked: bool,
}

impl<T> Line<T> {
    fn new() -> Self {
        Self {
            weight: 1,
            credit: 0,
            waiting: VecDeque::new(),
            requests: 0,
            is_parked: false,
        }
    }
}

/// The calls that wait for one upstream key.
#[derive(Debug)]
pub(super) struct Queue<T> {
    lines: HashMap<Arc<str>, Line<T>>,
    /// The callers with waiting calls that are not parked. The first one has its turn.
    ring: VecDeque<Arc<str>>,
    calls: usize,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Self {
            lines: HashMap::new(),
            ring: VecDeque::new(),
            calls: 0,
        }
    }

    /// The number of waiting calls.
    pub(super) fn calls(&self) -> usize {
        self.calls
    }

    /// The waiting calls of one caller.
    pub(super) fn of(&self, caller: &str) -> impl Iterator<Item = &Waiting<T>> {
        self.lines
            .get(caller)
            .into_iter()
            .flat_map(|line| &line.waiting)
    }

    /// All waiting calls, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Waiting<T>> {
        self.lines.values().flat_map(|line| &line.waiting)
    }

    /// Adds a call behind all others of its caller.
    pub(super) fn push(&mut self, caller: &Caller, call: Waiting<T>) {
        let line = self.lines.entry(Arc::clone(&caller.name));
        let line = line.or_insert_with(|| {
            self.ring.push_back(Arc::clone(&caller.name));
            Line::new()
        });
        line.weight = i64::from(caller.weight.max(1));
        line.requests += call.requests;
        line.waiting.push_back(call);
        self.calls += 1;
    }

    /// Puts a call back that was removed by [`pop`](Self::pop), in front of all others.
    pub(super) fn restore(&mut self, caller: &Caller, call: Waiting<T>) {
        let line = self.lines.entry(Arc::clone(&caller.name));
        let line = line.or_insert_with(Line::new);
        line.weight = i64::from(caller.weight.max(1));
        line.requests += call.requests;
        line.credit += i64::from(call.requests);
        let position = line.waiting.partition_point(|other| other.id < call.id);
        line.waiting.insert(position, call);
        self.calls += 1;
        if !line.is_parked {
            self.ring.retain(|name| *name != caller.name);
            self.ring.push_front(Arc::clone(&caller.name));
        }
    }

    /// Gives a caller no more turns.
    pub(super) fn park(&mut self, caller: &str) {
        if let Some(line) = self.lines.get_mut(caller) {
            line.is_parked = true;
            self.ring.retain(|name| **name != *caller);
        }
    }

    /// Gives a parked caller turns again, behind the others.
    pub(super) fn unpark(&mut self, caller: &Arc<str>) {
        if let Some(line) = self.lines.get_mut(caller)
            && line.is_parked
        {
            line.is_parked = false;
            self.ring.push_back(Arc::clone(caller));
        }
    }

    /// The call that is served next.
    pub(super) fn next(&mut self) -> Option<&Waiting<T>> {
        self.begin_turn()?.waiting.front()
    }

    /// Removes the call that is served next.
    pub(super) fn pop(&mut self) -> Option<Waiting<T>> {
        let line = self.begin_turn()?;
        let call = line.waiting.pop_front()?;
        line.requests -= call.requests;
        line.credit -= i64::from(call.requests);
        let (is_empty, is_over) = (line.waiting.is_empty(), line.credit <= 0);
        self.calls -= 1;
        match self.ring.pop_front() {
            Some(name) if is_empty => drop(self.lines.remove(&name)),
            Some(name) if is_over => self.ring.push_back(name),
            Some(name) => self.ring.push_front(name),
            None => {}
        }
        Some(call)
    }

    /// Removes a call that no longer waits.
    pub(super) fn remove(&mut self, caller: &str, id: u64) {
        let Some(line) = self.lines.get_mut(caller) else {
            return;
        };
        let Ok(position) = line.waiting.binary_search_by_key(&id, |call| call.id) else {
            return;
        };
        if let Some(call) = line.waiting.remove(position) {
            line.requests -= call.requests;
            self.calls -= 1;
        }
        if line.waiting.is_empty() {
            self.lines.remove(caller);
            self.ring.retain(|name| **name != *caller);
        }
    }

    /// How many requests would be sent up to the last one of a call that this caller adds now, itself included. It assumes that no
    /// other call arrives or leaves.
    pub(super) fn ahead(&mut self, caller: &Caller, requests: u32) -> u32 {
        self.begin_turn();
        let position = self.ring.iter().position(|name| *name == caller.name);
        let own = self.lines.get(&caller.name);
        let (own_requests, credit) = own.map_or((0, 0), |line| (line.requests, line.credit));
        // A turn lasts while credit is left. So this many turns must begin first.
        let weight = i64::from(caller.weight.max(1));
        let turns = (i64::from(own_requests) - credit + weight).div_euclid(weight);
        let turns = turns.max(0);
        let mut ahead = u64::from(own_requests) + u64::from(requests);
        for (at, name) in self.ring.iter().enumerate() {
            let Some(line) = self.lines.get(name).filter(|_| position != Some(at)) else {
                continue;
            };
            let is_before = position.is_none_or(|position| at < position);
            let begun = i64::from(at == 0); // its credit already includes its turn
            let turns = match (is_before, position) {
                (true, _) => turns - begun,
                (false, Some(0)) => turns, // the credit includes the caller's own turn
                (false, _) => turns - 1,
            };
            let served = line.credit + turns.max(0) * line.weight;
            let served = served.clamp(0, i64::from(line.requests));
            ahead += u64::try_from(served).unwrap_or(0);
        }
        u32::try_from(ahead).unwrap_or(u32::MAX)
    }

    /// The caller whose turn it is. Skips callers that have overdrawn their turn.
    fn begin_turn(&mut self) -> Option<&mut Line<T>> {
        loop {
            let name = self.ring.front()?;
            let line = self
                .lines
                .get_mut(name)
                .expect("each caller in the ring has a waiting call");
            if line.credit <= 0 {
                line.credit += line.weight;
            }
            if line.credit > 0 {
                break;
            }
            self.ring.rotate_left(1);
        }
        self.lines.get_mut(self.ring.front()?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn caller(name: &str, weight: u32) -> Caller {
        Caller {
            name: name.into(),
            weight,
        }
    }

    struct Numbered {
        queue: Queue<String>,
        last: u64,
    }

    impl Numbered {
        fn new() -> Self {
            Self {
                queue: Queue::new(),
                last: 0,
            }
        }

        fn push(&mut self, caller: &Caller, requests: u32, times: usize) {
            for _ in 0..times {
                self.last += 1;
                let (id, wake) = (self.last, caller.name.to_string());
                let call = Waiting { id, requests, wake };
                self.queue.push(caller, call);
            }
        }

        /// The callers of the next calls, one letter each.
        fn pop(&mut self, times: usize) -> String {
            let calls = (0..times).filter_map(|_| self.queue.pop());
            calls.map(|call| call.wake).collect()
        }
    }

    #[test]
    fn a_turn_is_worth_the_callers_weight() {
        let mut waiting = Numbered::new();
        waiting.push(&caller("a", 1), 1, 9);
        waiting.push(&caller("b", 3), 1, 9);
        assert_eq!(waiting.pop(12), "abbbabbbabbb");
        assert_eq!(waiting.pop(9), "aaaaaa", "nobody else waits");
        assert_eq!(
            (waiting.queue.calls(), waiting.queue.pop().is_none()),
            (0, true)
        );
        assert!(waiting.queue.lines.is_empty() && waiting.queue.ring.is_empty());
    }

    #[test]
    fn a_callers_first_call_waits_for_one_turn_of_each_other_caller() {
        let mut waiting = Numbered::new();
        waiting.push(&caller("a", 2), 1, 500);
        waiting.push(&caller("b", 1), 1, 500);
        assert_eq!(waiting.pop(1), "a");
        waiting.push(&caller("c", 1), 1, 1);
        assert_eq!(waiting.pop(4), "abca");
    }

    #[test]
    fn a_restored_call_is_served_before_all_others() {
        let mut waiting = Numbered::new();
        let (a, b) = (caller("a", 1), caller("b", 1));
        waiting.push(&a, 1, 2);
        waiting.push(&b, 1, 2);
        let calls = [(); 3].map(|()| waiting.queue.pop().expect("four wait"));
        let [first, second, third] = calls;
        waiting.queue.restore(&a, third);
        waiting.queue.restore(&b, second);
        waiting.queue.restore(&a, first);
        let ids: Vec<_> = (0..4).filter_map(|_| waiting.queue.pop()).collect();
        let ids: Vec<_> = ids.iter().map(|call| call.id).collect();
        assert_eq!(ids, [1, 2, 3, 4], "a's in their order, and two turns of a");
        assert_eq!(waiting.queue.calls(), 0);
    }

    #[test]
    fn a_parked_caller_keeps_its_calls_and_gets_no_turn() {
        let mut waiting = Numbered::new();
        let (a, b) = (caller("a", 1), caller("b", 1));
        waiting.push(&a, 1, 2);
        waiting.push(&b, 1, 2);
        waiting.queue.park("a");
        waiting.push(&a, 1, 1);
        assert_eq!(waiting.queue.of("a").count(), 3);
        assert_eq!(waiting.pop(9), "bb");
        assert_eq!(waiting.queue.calls(), 3);
        waiting.push(&b, 1, 1);
        waiting.queue.unpark(&a.name);
        waiting.queue.unpark(&a.name);
        assert_eq!(waiting.pop(9), "baaa");
        assert!(waiting.queue.lines.is_empty() && waiting.queue.ring.is_empty());
    }

    #[test]
    fn a_call_of_two_requests_takes_two_turns() {
        let mut waiting = Numbered::new();
        waiting.push(&caller("a", 1), 2, 5);
        waiting.push(&caller("b", 1), 1, 5);
        assert_eq!(waiting.pop(6), "abbabb");
    }

    #[test]
    fn a_call_that_leaves_costs_the_others_no_turn() {
        let mut waiting = Numbered::new();
        waiting.push(&caller("a", 1), 1, 2);
        waiting.push(&caller("b", 1), 1, 1);
        waiting.push(&caller("c", 1), 1, 1);
        waiting.queue.remove("b", 3);
        waiting.queue.remove("b", 3);
        waiting.queue.remove("a", 1);
        waiting.queue.remove("nobody", 1);
        let next = waiting.queue.next().map(|call| call.id);
        assert_eq!((next, waiting.queue.calls()), (Some(2), 2));
        assert_eq!(waiting.pop(3), "ac");
    }

    proptest! {
        /// The prediction is exact if no other call arrives or leaves, and each call sends one request.
        #[test]
        fn the_number_of_earlier_requests_is_predicted(
            lines in prop::collection::vec((1_u32..5, 0_usize..20), 1..6),
            popped in 0_usize..30,
            whose in 0_usize..6,
        ) {
            let mut waiting = Numbered::new();
            let callers: Vec<_> = lines.iter().zip('a'..).map(|((weight, _), name)| {
                caller(&name.to_string(), *weight)
            }).collect();
            for (caller, (_, calls)) in callers.iter().zip(&lines) {
                waiting.push(caller, 1, *calls);
            }
            waiting.pop(popped);
            let added = callers.get(whose).cloned().unwrap_or(caller("z", 2));
            let predicted = waiting.queue.ahead(&added, 1);
            waiting.push(&added, 1, 1);
            let mut ahead = 1;
            while waiting.queue.pop().expect("the added call").id != waiting.last {
                ahead += 1;
            }
            prop_assert_eq!(predicted, ahead);
        }

        /// While all callers wait, none gets more than a few turns more than its share.
        #[test]
        fn waiting_callers_get_their_share(
            lines in prop::collection::vec((1_u32..5, 1_u32..3), 2..6),
            served in 50_u32..200,
        ) {
            let mut waiting = Numbered::new();
            for ((weight, requests), name) in lines.iter().zip('a'..) {
                waiting.push(&caller(&name.to_string(), *weight), *requests, 300);
            }
            let mut got = vec![0_i64; lines.len()];
            let mut sum = 0;
            while sum < served {
                let call = waiting.queue.pop().expect("all wait");
                let whose = usize::from(call.wake.as_bytes()[0] - b'a');
                got[whose] += i64::from(call.requests);
                sum += call.requests;
            }
            let turns: Vec<_> = got.iter().zip(&lines).map(|(got, (weight, _))| {
                (got / i64::from(*weight), *weight)
            }).collect();
            let (most, least) = (turns.iter().max(), turns.iter().min());
            let (most, least) = (most.expect("two").0, least.expect("two").0);
            prop_assert!(most - least <= 3, "{:?}", got);
        }
    }
}
