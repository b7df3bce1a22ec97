//! The WalT server's web API: plain HTTP on a loopback address.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::testbed::unused_address;

/// A WalT server, as far as the gateway asks it. Clones are the same server.
#[derive(Clone)]
pub(crate) struct WaltApi {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    nodes: Vec<Value>,
    images: Vec<Value>,
    available: bool,
    requests: Vec<String>,
}

impl WaltApi {
    /// A server with no nodes and no images.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind(unused_address()).unwrap();
        let state =
            State { nodes: Vec::new(), images: Vec::new(), available: true, requests: Vec::new() };
        let api =
            Self { address: listener.local_addr().unwrap(), state: Arc::new(Mutex::new(state)) };
        // The thread holds the state only, and ends with the test process.
        let state = Arc::clone(&api.state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(&stream, &state);
            }
        });
        api
    }

    /// The `[walt]` table that uses it, with a refresh every second.
    pub(crate) fn table(&self) -> String {
        format!("[walt]\napi = \"http://{}/api/v1\"\nrefresh_seconds = 1\n", self.address)
    }

    /// Lists one more node, at an address on port 22.
    pub(crate) fn add_node(&self, name: &str, ip: &str, image: &str, booted: bool) {
        self.state.lock().unwrap().nodes.push(json!({
            "name": name, "model": "pc-x86-64", "virtual": true, "image": image,
            "booted": booted, "ip": ip, "mac": "52:54:00:bb:1b:b9",
            "config": {"netsetup": 1, "expose": "none"},
        }));
    }

    /// Sets an attribute and a setting of a listed node.
    pub(crate) fn configure_node(&self, name: &str, mac: &str, setting: &str, value: bool) {
        let mut state = self.state.lock().unwrap();
        let node = state.nodes.iter_mut().find(|node| node["name"] == name).unwrap();
        node["mac"] = json!(mac);
        node["config"][setting] = json!(value);
    }

    /// Lists a node at another address from now on.
    pub(crate) fn move_node(&self, name: &str, ip: &str) {
        for node in &mut self.state.lock().unwrap().nodes {
            if node["name"] == name {
                node["ip"] = json!(ip);
            }
        }
    }

    /// Lists one more image, `OWNER/NAME:TAG`.
    pub(crate) fn add_image(&self, fullname: &str, id: &str, in_use: bool) {
        let user = fullname.split('/').next().unwrap();
        self.state.lock().unwrap().images.push(json!({
            "fullname": fullname, "user": user, "id": id, "in_use": in_use,
            "created": "2024-03-12 14:52:47", "compatibility": ["pc-x86-64"],
        }));
    }

    /// While it is not available, it closes connections without an answer.
    pub(crate) fn set_available(&self, available: bool) {
        self.state.lock().unwrap().available = available;
    }

    /// The requested paths with their queries, in order.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }
}

fn answer(stream: &TcpStream, state: &Mutex<State>) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let Some(request) = lines.next() else { return };
    // The request has no body: it ends with an empty line.
    while lines.next().is_some_and(|line| !line.is_empty()) {}
    let target = request.split(' ').nth(1).unwrap_or_default().to_owned();

    let mut state = state.lock().unwrap();
    if !state.available {
        return;
    }
    let path = target.split('?').next().unwrap_or_default();
    let (status, body) = match path {
        "/api/v1/nodes" => {
            ("200 OK", json!({"num_nodes": state.nodes.len(), "nodes": state.nodes}))
        }
        "/api/v1/images" => {
            ("200 OK", json!({"num_images": state.images.len(), "images": state.images}))
        }
        _ => ("404 Not Found", json!({})),
    };
    state.requests.push(target);
    let body = body.to_string();
    // A client that went away meanwhile is its own business.
    write!(
        &*stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len(),
    )
    .ok();
}
