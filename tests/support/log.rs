//! Bytes that a process writes, collected as they come.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// What came so far. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Log {
    shared: Arc<(Mutex<Content>, Condvar)>,
}

#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    ended: bool,
}

impl Log {
    /// Collects everything from `source` in a thread of its own.
    pub(crate) fn collect(mut source: impl Read + Send + 'static) -> Self {
        let log = Self::default();
        let writer = log.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            // A pseudo-terminal reports its end as an error.
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                writer.update(|content| content.bytes.extend_from_slice(&buffer[..count]));
            }
            writer.update(|content| content.ended = true);
        });
        log
    }

    fn update(&self, change: impl FnOnce(&mut Content)) {
        let (content, changed) = &*self.shared;
        change(&mut content.lock().unwrap());
        changed.notify_all();
    }

    /// Everything so far.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.shared.0.lock().unwrap().bytes.clone()
    }

    /// Everything so far, as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// Waits until `find` finds something in the bytes from `start` on. `None` when the source
    /// ended or the time is over without it.
    pub(crate) fn wait_for<T>(
        &self,
        start: usize,
        timeout: Duration,
        mut find: impl FnMut(&[u8]) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let (content, changed) = &*self.shared;
        let mut content = content.lock().unwrap();
        loop {
            if let Some(found) = find(&content.bytes[start..]) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if content.ended || left.is_zero() {
                return None;
            }
            content = changed.wait_timeout(content, left).unwrap().0;
        }
    }

    /// Waits until the source ended; false when the time is over first.
    pub(crate) fn wait_for_end(&self, timeout: Duration) -> bool {
        let (content, changed) = &*self.shared;
        let (content, _) = changed
            .wait_timeout_while(content.lock().unwrap(), timeout, |content| !content.ended)
            .unwrap();
        content.ended
    }
}

/// The position just after `needle`.
pub(crate) fn end_of(haystack: &[u8], needle: &str) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle.as_bytes())
        .map(|position| position + needle.len())
}
