//! The relay between scripted ends.

use std::sync::Mutex;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::spool::{DiskBudget, Patience, Producer};
use super::*;

/// A program whose input takes nothing until released, and whose output is scripted.
#[derive(Default)]
struct Program {
    release_input: Notify,
    taken: Mutex<Vec<u8>>,
    eof: CancellationToken,
    signals: Mutex<Vec<String>>,
    sizes: Mutex<Vec<WindowSize>>,
    controlled: Notify,
    hung_up: CancellationToken,
}

struct SlowStdin(Arc<Program>);

#[async_trait]
impl Stdin for SlowStdin {
    async fn write(&mut self, data: Bytes) -> Result<(), Gone> {
        self.0.release_input.notified().await;
        self.0.taken.lock().unwrap().extend_from_slice(&data);
        self.0.release_input.notify_one();
        Ok(())
    }

    async fn eof(&mut self) -> Result<(), Gone> {
        self.0.eof.cancel();
        Ok(())
    }
}

/// Stops reading after the first write.
struct ClosedStdin;

#[async_trait]
impl Stdin for ClosedStdin {
    async fn write(&mut self, _data: Bytes) -> Result<(), Gone> {
        Err(Gone)
    }

    async fn eof(&mut self) -> Result<(), Gone> {
        Err(Gone)
    }
}

struct Controls(Arc<Program>);

#[async_trait]
impl Control for Controls {
    async fn window_change(&self, size: WindowSize) -> Result<(), Gone> {
        self.0.sizes.lock().unwrap().push(size);
        self.0.controlled.notify_one();
        Ok(())
    }

    async fn signal(&self, name: &str) -> Result<(), Gone> {
        self.0.signals.lock().unwrap().push(name.to_owned());
        self.0.controlled.notify_one();
        Ok(())
    }

    async fn hang_up(&self) {
        self.0.hung_up.cancel();
    }
}

struct Script(mpsc::Receiver<OutputEvent>);

#[async_trait]
impl Output for Script {
    async fn next(&mut self) -> Option<OutputEvent> {
        self.0.recv().await
    }
}

/// A client that takes output only while its gate is open.
#[derive(Default)]
struct FakeClient {
    gate: CancellationToken,
    received: Mutex<Vec<(Stream, Vec<u8>)>>,
    noticed: Notify,
    eof: CancellationToken,
    gone: CancellationToken,
}

#[async_trait]
impl ClientOutput for FakeClient {
    async fn write(&self, stream: Stream, bytes: Bytes) -> Result<(), Gone> {
        self.gate.cancelled().await;
        self.received.lock().unwrap().push((stream, bytes.to_vec()));
        Ok(())
    }

    async fn notice(&self, line: &str) -> Result<(), Gone> {
        self.received.lock().unwrap().push((Stream::Stderr, line.as_bytes().to_vec()));
        self.noticed.notify_one();
        Ok(())
    }

    async fn eof(&self) -> Result<(), Gone> {
        self.eof.cancel();
        Ok(())
    }

    async fn gone(&self) {
        self.gone.cancelled().await;
    }
}

struct Rig {
    client: Arc<FakeClient>,
    program: Arc<Program>,
    input: Producer<InputEof>,
    window: watch::Sender<WindowSize>,
    signals: mpsc::Sender<String>,
    script: mpsc::Sender<OutputEvent>,
    notices: broadcast::Sender<String>,
    running: tokio::task::JoinHandle<SessionEnd>,
}

fn start(stdin: impl FnOnce(Arc<Program>) -> Box<dyn Stdin>, shared: bool) -> Rig {
    let limits = SpoolLimits {
        memory: 1024,
        disk: 1024 * 1024,
        directory: std::env::temp_dir(),
        budget: DiskBudget::new(1024 * 1024),
        patience: Patience::none(),
    };
    let program = Arc::new(Program::default());
    let client = Arc::new(FakeClient::default());
    let (input, mut consumer) = spool(limits.clone());
    let (window, window_receiver) = watch::channel(WindowSize::default());
    let (signals, signal_receiver) = mpsc::channel(4);
    let (script, script_receiver) = mpsc::channel(1);
    let session = BackendSession {
        stdin: stdin(program.clone()),
        control: Arc::new(Controls(program.clone())),
        output: Box::new(Script(script_receiver)),
        output_is_shared: shared,
    };
    let output = client.clone();
    let notices = broadcast::Sender::new(4);
    let mut heard = Notices::from(&notices);
    let running = tokio::spawn(async move {
        let mut control = ControlRequests { window: window_receiver, signals: signal_receiver };
        let client = Client {
            input: &mut consumer,
            control: &mut control,
            output: output.as_ref(),
            notices: &mut heard,
        };
        run(client, session, &limits, &Counters::default()).await
    });
    Rig { client, program, input, window, signals, script, notices, running }
}

fn slow(program: Arc<Program>) -> Box<dyn Stdin> {
    Box::new(SlowStdin(program))
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

const SUCCESS: SessionEnd = SessionEnd::Exited(ExitStatus::Code(0));

#[tokio::test]
async fn exit_status_survives_early_stdout_close() {
    let rig = start(slow, true);
    rig.client.gate.cancel();
    rig.script.send(OutputEvent::Stdout(bytes("out"))).await.unwrap();
    rig.script.send(OutputEvent::Eof).await.unwrap();
    rig.client.eof.cancelled().await;
    rig.script.send(OutputEvent::Exit(ExitStatus::Code(7))).await.unwrap();
    drop(rig.script);
    assert_eq!(rig.running.await.unwrap(), SessionEnd::Exited(ExitStatus::Code(7)));
    assert_eq!(*rig.client.received.lock().unwrap(), [(Stream::Data, b"out".to_vec())]);
}

#[tokio::test]
async fn lines_of_the_gateways_own_come_between_pieces_of_output_and_count_as_none() {
    for shared in [false, true] {
        let rig = start(slow, shared);
        rig.notices.send("from the gateway".to_owned()).unwrap();
        rig.client.noticed.notified().await;
        rig.script.send(OutputEvent::Notice("from the backend".to_owned())).await.unwrap();
        rig.client.noticed.notified().await;
        rig.client.gate.cancel();
        rig.script.send(OutputEvent::Stdout(bytes("out"))).await.unwrap();
        rig.script.send(OutputEvent::Exit(ExitStatus::Code(0))).await.unwrap();
        drop(rig.script);
        assert_eq!(rig.running.await.unwrap(), SUCCESS);
        let received = rig.client.received.lock().unwrap();
        let texts: Vec<_> = received.iter().map(|(_, text)| text.as_slice()).collect();
        assert_eq!(texts, [&b"from the gateway"[..], b"from the backend", b"out"]);
    }
}

#[tokio::test]
async fn output_goes_on_after_the_clients_eof() {
    let rig = start(slow, false);
    rig.client.gate.cancel();
    rig.input.push(Piece::Mark(InputEof)).await;
    rig.program.eof.cancelled().await;
    rig.script.send(OutputEvent::Stderr(bytes("late"))).await.unwrap();
    rig.script.send(OutputEvent::Exit(ExitStatus::Code(0))).await.unwrap();
    drop(rig.script);
    assert_eq!(rig.running.await.unwrap(), SUCCESS);
    assert_eq!(*rig.client.received.lock().unwrap(), [(Stream::Stderr, b"late".to_vec())]);
}

#[tokio::test]
async fn signals_and_window_changes_overtake_stalled_input() {
    let rig = start(slow, true);
    rig.input.push(Piece::Bytes(Stream::Data, bytes("stuck"))).await;
    rig.signals.send("INT".into()).await.unwrap();
    rig.program.controlled.notified().await;
    let size = WindowSize { columns: 132, rows: 43, ..WindowSize::default() };
    rig.window.send_replace(size);
    rig.program.controlled.notified().await;
    assert_eq!(*rig.program.signals.lock().unwrap(), ["INT"]);
    assert_eq!(*rig.program.sizes.lock().unwrap(), [size]);
    assert!(rig.program.taken.lock().unwrap().is_empty());
    rig.client.gone.cancel();
    rig.running.abort();
}

#[tokio::test]
async fn input_sent_before_the_client_closed_reaches_the_program() {
    let rig = start(slow, true);
    for _ in 0..1000 {
        rig.input.push(Piece::Bytes(Stream::Data, bytes("last words "))).await;
    }
    drop(rig.input);
    rig.client.gone.cancel();
    rig.program.release_input.notify_one();
    assert_eq!(rig.running.await.unwrap(), SessionEnd::ClientGone);
    assert_eq!(rig.program.taken.lock().unwrap().len(), 11_000);
    assert!(rig.program.hung_up.is_cancelled());
}

#[tokio::test]
async fn a_client_that_goes_away_hangs_the_program_up() {
    let rig = start(slow, false);
    drop(rig.input);
    rig.client.gone.cancel();
    assert_eq!(rig.running.await.unwrap(), SessionEnd::ClientGone);
    assert!(rig.program.hung_up.is_cancelled());
}

#[tokio::test]
async fn a_backend_that_goes_away_is_not_an_exit() {
    let rig = start(slow, true);
    drop(rig.script);
    assert_eq!(rig.running.await.unwrap(), SessionEnd::BackendLost);
}

#[tokio::test]
async fn a_shared_source_is_read_on_while_the_client_does_not_read() {
    let rig = start(slow, true);
    let sent = 64 * 1024;
    for _ in 0..sent / 512 {
        // The script's queue holds one event: sending on proves that the relay reads.
        rig.script.send(OutputEvent::Stdout(Bytes::from(vec![b'x'; 512]))).await.unwrap();
    }
    assert!(rig.client.received.lock().unwrap().is_empty());
    rig.script.send(OutputEvent::Exit(ExitStatus::Code(0))).await.unwrap();
    drop(rig.script);
    rig.client.gate.cancel();
    assert_eq!(rig.running.await.unwrap(), SUCCESS);
    let received: usize =
        rig.client.received.lock().unwrap().iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(received, sent);
}

#[tokio::test]
async fn input_is_drained_after_the_program_stopped_reading() {
    let rig = start(|_| Box::new(ClosedStdin), false);
    rig.client.gate.cancel();
    for _ in 0..4096 {
        // Far more than memory and disk of the queue hold together.
        rig.input.push(Piece::Bytes(Stream::Data, Bytes::from(vec![0; 1024]))).await;
    }
    rig.script.send(OutputEvent::Exit(ExitStatus::Code(0))).await.unwrap();
    drop(rig.script);
    assert_eq!(rig.running.await.unwrap(), SUCCESS);
}
