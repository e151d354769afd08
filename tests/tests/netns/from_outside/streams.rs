//! Transfers that are under way in both directions for as long as a test wants, and are looked at byte by byte.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::site::Site;

/// Bytes that are sent at a time.
pub(super) const CHUNK: usize = 64 << 10;
/// Time between two of them: a transfer is to be under way, and not in the way of whatever else is measured.
const PAUSE: Duration = Duration::from_millis(10);
/// Limit of what does not come.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection to a backend that gives back each byte.
pub(super) struct Stream {
    is_over: Arc<AtomicBool>,
    came_back: Arc<AtomicUsize>,
    sending: JoinHandle<Result<usize>>,
    receiving: JoinHandle<Result<()>>,
}

impl Stream {
    /// Connects the client, and begins.
    pub(super) fn open(site: &Site, to: SocketAddr) -> Result<Self> {
        let stream = site.client.inside(|| TcpStream::connect_timeout(&to, PATIENCE))??;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let seed = u64::from(stream.local_addr()?.port());
        let (is_over, came_back) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (writer, end, count) = (stream.try_clone()?, Arc::clone(&is_over), Arc::clone(&came_back));
        let sending = std::thread::spawn(move || send(&writer, seed, &end));
        let receiving = std::thread::spawn(move || receive(&stream, seed, &count));
        Ok(Self { is_over, came_back, sending, receiving })
    }

    /// How many bytes have come back, each of them right.
    pub(super) fn came_back(&self) -> usize {
        self.came_back.load(Ordering::Relaxed)
    }

    /// Ends it in order; how many bytes went there and came back.
    pub(super) fn end(self) -> Result<usize> {
        self.is_over.store(true, Ordering::Relaxed);
        let panicked = |_| anyhow!("a thread panicked");
        let sent = self.sending.join().map_err(panicked)?.context("send")?;
        self.receiving.join().map_err(panicked)?.context("receive")?;
        let came_back = self.came_back.load(Ordering::Relaxed);
        ensure!(sent == came_back, "{came_back} of {sent} bytes came back");
        Ok(sent)
    }
}

fn send(mut stream: &TcpStream, seed: u64, is_over: &AtomicBool) -> Result<usize> {
    let mut bytes = Bytes::new(seed);
    let mut sent = 0;
    while !is_over.load(Ordering::Relaxed) {
        stream.write_all(bytes.next_chunk()).with_context(|| format!("after {sent} bytes"))?;
        sent += CHUNK;
        std::thread::sleep(PAUSE);
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(sent)
}

fn receive(stream: &TcpStream, seed: u64, count: &AtomicUsize) -> Result<()> {
    let mut bytes = Bytes::new(seed);
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let so_far = count.load(Ordering::Relaxed);
        stream.take(CHUNK as u64).read_to_end(&mut chunk).with_context(|| format!("after {so_far} bytes"))?;
        if chunk.is_empty() {
            return Ok(());
        }
        ensure!(chunk == bytes.next_chunk(), "other bytes came back than were sent, after {so_far}");
        count.fetch_add(CHUNK, Ordering::Relaxed);
    }
}

/// What is sent, chunk by chunk.
struct Bytes {
    random: fastrand::Rng,
    chunk: Vec<u8>,
}

impl Bytes {
    fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), chunk: vec![0; CHUNK] }
    }

    fn next_chunk(&mut self) -> &[u8] {
        self.random.fill(&mut self.chunk);
        &self.chunk
    }
}
