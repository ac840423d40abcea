// SPDX-License-Identifier: Apache-2.0
//! iceoryx2 by its crate, for the same work as the others (peer.h). Variants: "event" sleeps on an event service that the other side
//! notifies after each message, "poll" asks again and again. A publisher waits until its subscriber has room.

use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use iceoryx2::sample::Sample;
use iceoryx2::sample_mut_uninit::SampleMutUninit;
use std::ffi::{c_char, c_int, c_uint, c_void, CStr, CString};
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

type Ipc = ipc::Service;

const TIMEOUT: c_int = 1;
/// A sleeper looks again after this: once in some thousand sleeps nobody woke it although there was a message.
const LOOK: Duration = Duration::from_millis(20);

#[repr(C)]
pub struct Spec {
    side: c_int,
    dir: *const c_char,
    variant: *const c_char,
    size: usize,
    queue: c_uint,
}

extern "C" {
    fn peer_fail(what: *const c_char, text: *const c_char) -> c_int;
}

fn fail(what: &str, error: impl std::fmt::Debug) -> c_int {
    let what = CString::new(what).unwrap();
    let text = CString::new(format!("{error:?}")).unwrap();
    unsafe { peer_fail(what.as_ptr(), text.as_ptr()) }
}

struct Peer {
    size: usize,
    out: Option<SampleMutUninit<Ipc, [MaybeUninit<u8>], ()>>,
    taken: Option<Sample<Ipc, [u8], ()>>,
    publisher: Publisher<Ipc, [u8], ()>,
    subscriber: Subscriber<Ipc, [u8], ()>,
    bell: Option<(Notifier<Ipc>, Listener<Ipc>)>,
    _node: Node<Ipc>,
}

/// Of the one thread that there is.
static mut PEER: Option<Peer> = None;

fn peer() -> &'static mut Peer {
    unsafe { (*std::ptr::addr_of_mut!(PEER)).as_mut().unwrap() }
}

fn open(spec: &Spec) -> Result<Peer, Box<dyn std::error::Error>> {
    let names = ["from0", "from1"];
    let mine = spec.side as usize;
    let queue = spec.queue as usize;
    let node = NodeBuilder::new().create::<Ipc>()?;
    let services = names.map(|name| {
        node.service_builder(&name.try_into().unwrap())
            .publish_subscribe::<[u8]>()
            .enable_safe_overflow(false)
            .subscriber_max_buffer_size(queue)
            .max_publishers(1)
            .max_subscribers(1)
            .open_or_create()
    });
    let [first, second] = services;
    let (first, second) = (first?, second?);
    let (to, from) = if mine == 0 { (&first, &second) } else { (&second, &first) };
    let publisher = to
        .publisher_builder()
        .initial_max_slice_len(spec.size)
        .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
        .create()?;
    let subscriber = from.subscriber_builder().buffer_size(queue).create()?;
    let bell = if unsafe { CStr::from_ptr(spec.variant) }.to_bytes() == b"event" {
        let mut events = Vec::new();
        for name in ["bell0", "bell1"] {
            events.push(node.service_builder(&name.try_into()?).event().open_or_create()?);
        }
        Some((events[1 - mine].notifier_builder().create()?, events[mine].listener_builder().create()?))
    } else {
        None
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while to.dynamic_config().number_of_subscribers() == 0 || from.dynamic_config().number_of_publishers() == 0 {
        if Instant::now() > deadline {
            return Err("the other side does not come".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(Peer { size: spec.size, out: None, taken: None, publisher, subscriber, bell, _node: node })
}

#[no_mangle]
pub extern "C" fn peer_open(spec: &Spec) -> c_int {
    set_log_level_from_env_or(LogLevel::Error);
    match open(spec) {
        Ok(peer) => {
            unsafe { PEER = Some(peer) };
            0
        }
        Err(error) => fail("iceoryx2", error),
    }
}

#[no_mangle]
pub extern "C" fn peer_loan(ret: &mut *mut c_void) -> c_int {
    let peer = peer();
    match peer.publisher.loan_slice_uninit(peer.size) {
        Ok(mut sample) => {
            *ret = sample.payload_mut().as_mut_ptr().cast();
            peer.out = Some(sample);
            0
        }
        Err(error) => fail("loan_slice_uninit", error),
    }
}

#[no_mangle]
pub extern "C" fn peer_send() -> c_int {
    let peer = peer();
    let sample = unsafe { peer.out.take().unwrap().assume_init() };
    if let Err(error) = sample.send() {
        return fail("send", error);
    }
    match &peer.bell {
        Some((notifier, _)) => notifier.notify().map_or_else(|error| fail("notify", error), |_| 0),
        None => 0,
    }
}

#[no_mangle]
pub extern "C" fn peer_take(ret: &mut *const c_void, timeout_ms: c_int) -> c_int {
    let peer = peer();
    let deadline = Instant::now() + Duration::from_millis(timeout_ms as u64);
    loop {
        match peer.subscriber.receive() {
            Ok(Some(sample)) => {
                *ret = sample.payload().as_ptr().cast();
                peer.taken = Some(sample);
                return 0;
            }
            Ok(None) => {}
            Err(error) => return fail("receive", error),
        }
        if let Some((_, listener)) = &peer.bell {
            match listener.timed_wait(|_| {}, LOOK.min(deadline.saturating_duration_since(Instant::now()))) {
                Ok(0) if Instant::now() >= deadline => return TIMEOUT,
                Ok(_) => {}
                Err(error) => return fail("timed_wait", error),
            }
        }
    }
}

#[no_mangle]
pub extern "C" fn peer_release() -> c_int {
    peer().taken = None;
    0
}

#[no_mangle]
pub extern "C" fn peer_close() {
    unsafe { PEER = None };
}
