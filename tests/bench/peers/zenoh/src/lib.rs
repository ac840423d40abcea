// SPDX-License-Identifier: Apache-2.0
//! Zenoh by its crate, for the same work as the others (peer.h): two peers over a Unix socket, nobody else. Messages of a page and more
//! are written in a pool of shared memory; smaller ones are copied. The sender waits where the network is congested.

use std::ffi::{c_char, c_int, c_uint, c_void, CStr, CString};
use std::time::{Duration, Instant};
use zenoh::handlers::FifoChannelHandler;
use zenoh::pubsub::{Publisher, Subscriber};
use zenoh::qos::{CongestionControl, Reliability};
use zenoh::sample::Sample;
use zenoh::shm::{BlockOn, GarbageCollect, PosixShmProviderBackend, ShmProvider, ShmProviderBuilder, ZShmMut};
use zenoh::{Config, Session, Wait};

const TIMEOUT: c_int = 1;
const PAGE: usize = 4096;

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
    let text = CString::new(format!("{error:?}").replace('\0', "")).unwrap();
    unsafe { peer_fail(what.as_ptr(), text.as_ptr()) }
}

enum Out {
    None,
    Shared(ZShmMut),
    Copied(Vec<u8>),
}

struct Peer {
    size: usize,
    out: Out,
    taken: Option<(Sample, Vec<u8>)>, // the second: for messages that came in pieces
    publisher: Publisher<'static>,
    subscriber: Subscriber<FifoChannelHandler<Sample>>,
    provider: Option<ShmProvider<PosixShmProviderBackend>>,
    session: Session,
}

/// Of the one thread that asks. Zenoh has others, which know nothing of it.
static mut PEER: Option<Peer> = None;

fn peer() -> &'static mut Peer {
    unsafe { (*std::ptr::addr_of_mut!(PEER)).as_mut().unwrap() }
}

fn open(spec: &Spec) -> Result<Peer, Box<dyn std::error::Error + Send + Sync>> {
    let names = ["from0", "from1"];
    let mine = spec.side as usize;
    let queue = spec.queue as usize;
    let dir = unsafe { CStr::from_ptr(spec.dir) }.to_str()?;
    let place = format!("[\"unixsock-stream/{dir}/zenoh\"]");
    let mut config = Config::default();
    config.insert_json5("mode", "\"peer\"")?;
    config.insert_json5("scouting/multicast/enabled", "false")?;
    config.insert_json5("listen/endpoints", if mine == 1 { &place } else { "[]" })?;
    if mine == 0 {
        config.insert_json5("connect/endpoints", &place)?;
        config.insert_json5("connect/timeout_ms", "10000")?;
        config.insert_json5("connect/retry", "{ period_init_ms: 5, period_max_ms: 20, period_increase_factor: 1 }")?;
    }
    let session = zenoh::open(config).wait()?;
    let subscriber = session.declare_subscriber(names[1 - mine]).with(zenoh::handlers::FifoChannel::new(queue)).wait()?;
    let publisher = session
        .declare_publisher(names[mine])
        .congestion_control(CongestionControl::Block)
        .reliability(Reliability::Reliable)
        .express(true) // not kept back for a batch
        .wait()?;
    let provider = if spec.size >= PAGE {
        let backend = PosixShmProviderBackend::builder((queue + 4) * (spec.size + PAGE)).wait()?;
        Some(ShmProviderBuilder::backend(backend).wait())
    } else {
        None
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while !publisher.matching_status().wait()?.matching() {
        if Instant::now() > deadline {
            return Err("the other side does not come".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(Peer { size: spec.size, out: Out::None, taken: None, publisher, subscriber, provider, session })
}

#[no_mangle]
pub extern "C" fn peer_open(spec: &Spec) -> c_int {
    match open(spec) {
        Ok(peer) => {
            unsafe { PEER = Some(peer) };
            0
        }
        Err(error) => fail("zenoh", error),
    }
}

#[no_mangle]
pub extern "C" fn peer_loan(ret: &mut *mut c_void) -> c_int {
    let peer = peer();
    match &peer.provider {
        Some(provider) => match provider.alloc(peer.size).with_policy::<BlockOn<GarbageCollect>>().wait() {
            Ok(mut room) => {
                *ret = room.as_mut_ptr().cast();
                peer.out = Out::Shared(room);
            }
            Err(error) => return fail("alloc", error),
        },
        None => {
            let mut room = vec![0u8; peer.size];
            *ret = room.as_mut_ptr().cast();
            peer.out = Out::Copied(room);
        }
    }
    0
}

#[no_mangle]
pub extern "C" fn peer_send() -> c_int {
    let peer = peer();
    let sent = match std::mem::replace(&mut peer.out, Out::None) {
        Out::Shared(room) => peer.publisher.put(room).wait(),
        Out::Copied(room) => peer.publisher.put(room).wait(),
        Out::None => Ok(()),
    };
    sent.map_or_else(|error| fail("put", error), |()| 0)
}

#[no_mangle]
pub extern "C" fn peer_take(ret: &mut *const c_void, timeout_ms: c_int) -> c_int {
    let peer = peer();
    match peer.subscriber.recv_timeout(Duration::from_millis(timeout_ms as u64)) {
        Ok(Some(sample)) => {
            if sample.payload().len() != peer.size {
                return fail("recv_timeout", "a message of another size");
            }
            let bytes = sample.payload().to_bytes();
            let (pointer, pieces) = match bytes {
                std::borrow::Cow::Borrowed(bytes) => (bytes.as_ptr(), Vec::new()),
                std::borrow::Cow::Owned(bytes) => (bytes.as_ptr(), bytes),
            };
            *ret = pointer.cast();
            peer.taken = Some((sample, pieces));
            0
        }
        Ok(None) => TIMEOUT,
        Err(error) => fail("recv_timeout", error),
    }
}

#[no_mangle]
pub extern "C" fn peer_release() -> c_int {
    peer().taken = None;
    0
}

#[no_mangle]
pub extern "C" fn peer_close() {
    if let Some(peer) = unsafe { (*std::ptr::addr_of_mut!(PEER)).take() } {
        let Peer { publisher, subscriber, session, .. } = peer;
        drop((publisher, subscriber));
        let _ = session.close().wait();
    }
}
