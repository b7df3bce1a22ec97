//! The queue's promises: order, bounds, and nothing lost.

use std::time::Duration;

use tokio::sync::watch;

use super::limits::BESIDE_OTHERS;
use super::*;

fn limits(memory: usize, disk: u64) -> SpoolLimits {
    let memory = memory + OVERHEAD;
    let budget = DiskBudget::new(1024 * 1024);
    let directory = std::env::temp_dir();
    SpoolLimits { memory, disk, directory, budget, patience: Patience::none() }
}

fn piece(byte: u8, len: usize) -> Piece<()> {
    Piece::Bytes(Stream::Data, Bytes::from(vec![byte; len]))
}

async fn drain(consumer: &mut Consumer<()>) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(piece) = consumer.pop().await.unwrap() {
        match piece {
            Piece::Bytes(_, bytes) => all.extend_from_slice(&bytes),
            Piece::Mark(()) => all.push(b'|'),
        }
    }
    all
}

#[tokio::test]
async fn keeps_order_across_memory_disk_and_marks() {
    let (producer, mut consumer) = spool(limits(4, 100));
    producer.push(piece(1, 4)).await;
    producer.push(piece(2, 30)).await;
    producer.push(Piece::Mark(())).await;
    producer.push(piece(3, 1)).await;
    drop(producer);
    let mut expected = vec![1; 4];
    expected.extend([2; 30]);
    expected.push(b'|');
    expected.push(3);
    assert_eq!(drain(&mut consumer).await, expected);
}

#[tokio::test]
async fn waits_only_past_the_cap_and_goes_on_when_drained() {
    let (producer, mut consumer) = spool(limits(10, 20));
    producer.push(piece(1, 10)).await;
    producer.push(piece(2, 20)).await;
    let mut blocked = Box::pin(producer.push(piece(3, 15)));
    assert!(futures_util::poll!(blocked.as_mut()).is_pending());
    consumer.pop().await.unwrap();
    consumer.pop().await.unwrap();
    blocked.await;
    assert_eq!(consumer.pop().await.unwrap(), Some(piece(3, 15)));
}

#[tokio::test]
async fn wraps_around_the_file_without_losing_a_byte() {
    let (producer, mut consumer) = spool(limits(1, 1000));
    let sent: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    let source = sent.clone();
    let sending = tokio::spawn(async move {
        for chunk in source.chunks(333) {
            let chunk = Bytes::copy_from_slice(chunk);
            producer.push(Piece::Bytes(Stream::Data, chunk)).await;
        }
    });
    assert_eq!(drain(&mut consumer).await, sent);
    sending.await.unwrap();
}

#[tokio::test]
async fn a_piece_larger_than_memory_passes_without_a_disk() {
    let (producer, mut consumer) = spool(SpoolLimits::memory_only(4));
    producer.push(piece(7, 100)).await;
    assert_eq!(consumer.pop().await.unwrap(), Some(piece(7, 100)));
}

#[tokio::test]
async fn an_unusable_directory_falls_back_to_memory() {
    let mut limits = limits(8, 100);
    limits.directory = "/nonexistent".into();
    let (producer, mut consumer) = spool(limits);
    producer.push(piece(1, 8)).await;
    let mut blocked = Box::pin(producer.push(piece(2, 8)));
    while futures_util::poll!(blocked.as_mut()).is_pending() {
        if producer.0.lock().disk_failed {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(consumer.pop().await.unwrap(), Some(piece(1, 8)));
    blocked.await;
    assert_eq!(consumer.pop().await.unwrap(), Some(piece(2, 8)));
}

#[tokio::test]
async fn a_gone_consumer_never_blocks_the_producer() {
    let (producer, consumer) = spool(limits(1, 1));
    drop(consumer);
    for _ in 0..10 {
        producer.push(piece(1, 1000)).await;
    }
}

#[tokio::test]
async fn streams_stay_apart_on_disk() {
    let (producer, mut consumer) = spool::<()>(limits(1, 100));
    let err = |bytes: &'static [u8]| Piece::Bytes(Stream::Stderr, Bytes::from_static(bytes));
    producer.push(piece(0, 1)).await;
    producer.push(piece(1, 5)).await;
    producer.push(err(b"oops")).await;
    drop(producer);
    assert_eq!(consumer.pop().await.unwrap(), Some(piece(0, 1)));
    assert_eq!(consumer.pop().await.unwrap(), Some(piece(1, 5)));
    assert_eq!(consumer.pop().await.unwrap(), Some(err(b"oops")));
    assert_eq!(consumer.pop().await.unwrap(), None);
}

#[tokio::test]
async fn tiny_pieces_are_counted_with_what_they_cost() {
    let (producer, mut consumer) = spool::<()>(SpoolLimits::memory_only(10 * OVERHEAD));
    for _ in 0..9 {
        producer.push(piece(1, 1)).await;
    }
    let mut blocked = Box::pin(producer.push(piece(1, 1)));
    assert!(futures_util::poll!(blocked.as_mut()).is_pending());
    consumer.pop().await.unwrap();
    blocked.await;
}

#[tokio::test]
async fn queues_share_a_bound_on_the_disk_and_give_back_what_they_took() {
    let mut limits = limits(1, 1000);
    limits.budget = DiskBudget::new(1500);
    let budget = limits.budget.clone();
    let fill = async |producer: &Producer<()>, len| {
        producer.push(piece(0, 1)).await;
        producer.push(piece(1, len)).await;
    };
    let (first, mut first_end) = spool(limits.clone());
    let (second, second_end) = spool(limits.clone());
    fill(&first, 900).await;
    let mut blocked = Box::pin(fill(&second, 900));
    assert!(futures_util::poll!(blocked.as_mut()).is_pending());
    drop(blocked);
    second.push(piece(1, 500)).await;
    assert_eq!(budget.used(), 1400);

    first_end.pop().await.unwrap();
    first_end.pop().await.unwrap();
    assert_eq!(budget.used(), 500);
    drop(second_end);
    assert_eq!(budget.used(), 0);
}

fn patient(channels: usize) -> (SpoolLimits, watch::Sender<usize>) {
    let (count, counted) = watch::channel(channels);
    let patience = Patience::new(Duration::from_secs(3600), counted);
    (SpoolLimits { patience, ..limits(4, 100) }, count)
}

fn on_disk<M>(consumer: &Consumer<M>) -> u64 {
    consumer.0.lock().disk
}

#[tokio::test(start_paused = true)]
async fn a_lone_channel_is_held_back_rather_than_written_to_disk() {
    let (limits, _count) = patient(1);
    let (producer, mut consumer) = spool(limits);
    producer.push(piece(1, 4)).await;
    let mut held_back = Box::pin(producer.push(piece(2, 4)));
    assert!(futures_util::poll!(held_back.as_mut()).is_pending());
    assert_eq!(consumer.pop().await.unwrap(), Some(piece(1, 4)));
    held_back.await;
    assert_eq!(on_disk(&consumer), 0);
}

#[tokio::test(start_paused = true)]
async fn a_sibling_that_appears_ends_the_patience() {
    let (limits, count) = patient(1);
    let (producer, consumer) = spool(limits);
    producer.push(piece(1, 4)).await;
    let mut held_back = Box::pin(producer.push(piece(2, 4)));
    assert!(futures_util::poll!(held_back.as_mut()).is_pending());
    count.send_replace(2);
    let started = Instant::now();
    held_back.await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(on_disk(&consumer), 4);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_takes_nothing_is_waited_for_once() {
    let (limits, _count) = patient(2);
    let (producer, mut consumer) = spool(limits);
    producer.push(piece(1, 4)).await;
    let started = Instant::now();
    for byte in 2..12 {
        producer.push(piece(byte, 4)).await;
    }
    assert!(started.elapsed() < 2 * BESIDE_OTHERS, "{:?}", started.elapsed());
    assert_eq!(on_disk(&consumer), 40);
    drop(producer);
    assert_eq!(drain(&mut consumer).await.len(), 44);
}
