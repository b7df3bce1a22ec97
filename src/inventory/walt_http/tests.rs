use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::*;
use crate::inventory::Inventories;
use crate::inventory::test_data::node_options;

/// Long enough for any answer on loopback; nothing waits for it to pass.
const AMPLE: Duration = Duration::from_secs(30);

const NODES: &str = r#"{"num_nodes": 2, "nodes": [
    {"name": "rpi1", "ip": "192.0.2.1", "booted": true, "image": "alice/pc:latest"},
    {"name": "rpi2", "ip": "not-an-address", "booted": true}]}"#;

const IMAGES: &str = r#"{"num_images": 1, "images": [
    {"fullname": "alice/pc:latest", "user": "alice", "id": "807e", "in_use": false}]}"#;

#[derive(Clone)]
enum Reply {
    /// 200 with this body.
    Body(&'static str),
    /// These bytes, then the end of the connection.
    Raw(&'static str),
    /// 200 with this body, once told.
    Held(Arc<Notify>, &'static str),
    /// Nothing; the connection stays open.
    Silence,
}

/// A small HTTP server: one reply for `/nodes`, one for `/images`.
struct Server {
    address: SocketAddr,
    replies: Arc<Mutex<[Reply; 2]>>,
    requests: Arc<Mutex<Vec<String>>>,
    /// Aborts what it holds when dropped; the port is free again then.
    tasks: JoinSet<()>,
}

impl Server {
    async fn start(nodes: Reply, images: Reply) -> Self {
        let mut server = Self {
            address: "127.0.0.1:0".parse().unwrap(),
            replies: Arc::new(Mutex::new([nodes, images])),
            requests: Arc::default(),
            tasks: JoinSet::new(),
        };
        server.come_back().await;
        server
    }

    async fn good() -> Self {
        Self::start(Reply::Body(NODES), Reply::Body(IMAGES)).await
    }

    async fn go_away(&mut self) {
        self.tasks.shutdown().await;
    }

    async fn come_back(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let (replies, requests) = (Arc::clone(&self.replies), Arc::clone(&self.requests));
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (replies, requests) = (Arc::clone(&replies), Arc::clone(&requests));
                connections.spawn(async move { answer(stream, &replies, &requests).await });
            }
        });
    }

    fn reply(&self, nodes: Reply, images: Reply) {
        *lock(&self.replies) = [nodes, images];
    }

    fn requests(&self) -> Vec<String> {
        lock(&self.requests).clone()
    }

    fn inventory(&self) -> WaltInventory {
        self.inventory_with_deadline(AMPLE)
    }

    fn inventory_with_deadline(&self, deadline: Duration) -> WaltInventory {
        WaltInventory::new(&self.config(), node_options(), deadline).unwrap()
    }

    fn config(&self) -> Walt {
        Walt { api: format!("http://{}/api/v1", self.address), refresh: Duration::from_secs(5) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(stream: TcpStream, replies: &Mutex<[Reply; 2]>, requests: &Mutex<Vec<String>>) {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.unwrap() == 0 {
            return;
        }
    }
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let reply = {
        let [nodes, images] = &*lock(replies);
        let of_nodes = path.starts_with("/api/v1/nodes");
        if of_nodes { nodes } else { images }.clone()
    };
    lock(requests).push(path);
    let text = match reply {
        Reply::Raw(text) => text.to_owned(),
        Reply::Body(body) => with_head(body),
        Reply::Held(released, body) => {
            released.notified().await;
            with_head(body)
        }
        Reply::Silence => std::future::pending().await,
    };
    // The client may have given up.
    let _ = stream.write_all(text.as_bytes()).await;
}

fn with_head(body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

fn node_names(inventory: &WaltInventory) -> Vec<String> {
    let nodes = inventory.nodes();
    nodes.iter().map(|node| node.name.to_string()).collect()
}

fn failure(inventory: &WaltInventory) -> String {
    match inventory.freshness() {
        Freshness::Never { reason } | Freshness::Stale { reason, .. } => reason,
        Freshness::Fresh => panic!("the last reading was good"),
    }
}

#[tokio::test]
async fn lists_are_read_and_an_entry_with_bad_address_is_left_out() {
    let server = Server::good().await;
    let inventory = server.inventory();
    inventory.read_lists().await;

    assert_eq!(inventory.freshness(), Freshness::Fresh);
    assert_eq!(node_names(&inventory), ["rpi1"]);
    let rpi1 = inventory.node(&"rpi1".parse().unwrap()).unwrap();
    assert_eq!(rpi1.address.to_string(), "192.0.2.1:22");
    assert!(inventory.node(&"rpi2".parse().unwrap()).is_none());
    assert_eq!(inventory.images()[0].fullname, "alice/pc:latest");
    let mut requests = server.requests();
    requests.sort();
    assert_eq!(requests, ["/api/v1/images", "/api/v1/nodes"]);
}

#[tokio::test]
async fn last_good_answer_stays_while_the_server_is_away() {
    let mut server = Server::good().await;
    let inventory = Arc::new(server.inventory());
    inventory.read_lists().await;
    server.go_away().await;
    inventory.read_lists().await;

    assert_eq!(node_names(&inventory), ["rpi1"]);
    assert_eq!(inventory.images().len(), 1);
    let later = Instant::now() + Duration::from_secs(190);
    match inventory.freshness_at(later) {
        Freshness::Stale { age, reason } => {
            assert!(age >= Duration::from_secs(190), "{age:?}");
            assert_eq!(reason, "connection refused");
        }
        other => panic!("{other:?}"),
    }
    let inventories = Inventories::new(vec![inventory.clone()]);
    let unknown = inventories.node(&"rpi2".parse().unwrap()).unwrap_err();
    assert_eq!(unknown.similar, ["rpi1"]);
    let stale = unknown.stale.unwrap();
    assert!(
        stale.starts_with("the WalT server has not answered for ")
            && stale.ends_with(" s: connection refused"),
        "{stale}"
    );

    server.come_back().await;
    inventory.read_lists().await;
    assert_eq!(inventory.freshness(), Freshness::Fresh);
    assert_eq!(inventories.stale(), None);
}

#[tokio::test]
async fn server_that_never_answered_gives_no_age() {
    let mut server = Server::good().await;
    server.go_away().await;
    let inventory = server.inventory();
    inventory.read_lists().await;
    assert_eq!(inventory.freshness(), Freshness::Never { reason: "connection refused".to_owned() });
}

#[tokio::test]
async fn bad_answers_are_named_and_change_nothing() {
    let server = Server::good().await;
    let inventory = server.inventory();
    inventory.read_lists().await;
    for (reply, reason) in [
        (
            Reply::Raw("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"),
            "HTTP 500 Internal Server Error",
        ),
        (Reply::Body("{\"nodes\": [,"), "the answer is not JSON"),
        (Reply::Body("{}"), "the answer has no list \"nodes\""),
        (Reply::Raw("SSH-2.0-OpenSSH\r\n"), "not an HTTP answer"),
        (Reply::Raw(""), "not an HTTP answer"),
        (
            Reply::Raw("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"nodes\""),
            "the answer was cut short",
        ),
    ] {
        server.reply(reply, Reply::Body(IMAGES));
        inventory.read_lists().await;
        let failure = failure(&inventory);
        assert!(failure.starts_with(reason), "{failure} instead of {reason}");
        assert_eq!(node_names(&inventory), ["rpi1"]);
    }
}

#[tokio::test]
async fn answer_past_the_bound_is_refused() {
    let body: &'static str = " ".repeat(16 * 1024 * 1024 + 1).leak();
    let server = Server::start(Reply::Body(body), Reply::Body(IMAGES)).await;
    let inventory = server.inventory();
    inventory.read_lists().await;
    assert_eq!(failure(&inventory), "the answer is longer than 16777216 bytes");
}

#[tokio::test]
async fn one_list_is_renewed_although_the_other_fails() {
    let server = Server::good().await;
    let inventory = server.inventory();
    inventory.read_lists().await;
    server.reply(
        Reply::Body(r#"{"nodes": [{"name": "rpi3", "ip": "192.0.2.3"}]}"#),
        Reply::Body("[]"),
    );
    inventory.read_lists().await;
    assert_eq!(node_names(&inventory), ["rpi3"]);
    assert_eq!(inventory.images().len(), 1);
    assert!(failure(&inventory).starts_with("the answer is not an object"));
}

#[tokio::test]
async fn silent_server_is_given_up_at_the_deadline() {
    let server = Server::start(Reply::Silence, Reply::Body(IMAGES)).await;
    let inventory = server.inventory_with_deadline(Duration::from_millis(50));
    inventory.read_lists().await;
    assert_eq!(failure(&inventory), "no answer within 50ms");
}

#[tokio::test]
async fn slow_answer_does_not_replace_a_later_one() {
    let release = Arc::new(Notify::new());
    let held = Reply::Held(Arc::clone(&release), NODES);
    let server = Server::start(held, Reply::Body(IMAGES)).await;
    let inventory = Arc::new(server.inventory());
    let slow = tokio::spawn({
        let inventory = Arc::clone(&inventory);
        async move { inventory.read_lists().await }
    });
    while server.requests().len() < 2 {
        tokio::task::yield_now().await;
    }
    server.reply(Reply::Body(r#"{"nodes": []}"#), Reply::Body(IMAGES));
    inventory.read_lists().await;
    release.notify_one();
    slow.await.unwrap();
    assert!(node_names(&inventory).is_empty());
}

#[tokio::test]
async fn changed_images_are_told_before_the_lists_are_read_again() {
    let server = Server::good().await;
    let inventory = server.inventory();
    inventory.images_changed().await.unwrap();
    let mut requests = server.requests();
    assert_eq!(requests.remove(0), "/api/v1/images?refresh=true");
    requests.sort();
    assert_eq!(requests, ["/api/v1/images", "/api/v1/nodes"]);
    assert_eq!(inventory.images().len(), 1);

    server.reply(
        Reply::Body(NODES),
        Reply::Raw("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"),
    );
    let error = inventory.images_changed().await.unwrap_err().to_string();
    let wanted = "/api/v1/images?refresh=true: HTTP 503 Service Unavailable";
    assert!(error.starts_with("GET http://127.0.0.1:") && error.ends_with(wanted));
}

#[tokio::test]
async fn first_reading_can_be_awaited_and_cancelling_ends_the_task() {
    let server = Server::good().await;
    let cancel = CancellationToken::new();
    let (inventory, task) =
        WaltInventory::spawn(&server.config(), node_options(), cancel.clone()).unwrap();
    assert_eq!(inventory.wait_first(AMPLE).await, Freshness::Fresh);
    assert_eq!(node_names(&inventory), ["rpi1"]);
    cancel.cancel();
    tokio::time::timeout(AMPLE, task).await.unwrap().unwrap();
}

#[tokio::test]
async fn waiting_for_the_first_reading_ends_at_the_deadline() {
    let server = Server::good().await;
    // Nothing reads.
    let inventory = server.inventory();
    let freshness = inventory.wait_first(Duration::from_millis(10)).await;
    assert!(matches!(freshness, Freshness::Never { .. }));
}

#[test]
fn complaint_is_made_once_until_the_entry_was_good() {
    let answer = |complaints: &[&str]| {
        Ok(Parsed {
            entries: Nodes::new(),
            complaints: complaints.iter().map(|&text| text.to_owned()).collect(),
        })
    };
    let mut list = List::<Nodes>::default();
    assert_eq!(list.take(answer(&["rpi1", "rpi2"])), ["rpi1", "rpi2"]);
    assert!(list.take(answer(&["rpi1", "rpi2"])).is_empty());
    assert_eq!(list.take(answer(&["rpi2", "rpi3"])), ["rpi3"]);
    assert_eq!(list.take(answer(&["rpi1", "rpi3"])), ["rpi1"]);
}

#[test]
fn https_address_is_an_error_at_once() {
    let config = Walt { api: "https://walt/api/v1".to_owned(), refresh: Duration::from_secs(5) };
    let error = WaltInventory::new(&config, node_options(), AMPLE).err();
    assert!(error.unwrap().to_string().contains("plain HTTP only"));
}
