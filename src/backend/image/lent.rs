//! What a client lends to its programs in a container: its agent and its display.
//!
//! Whatever they need in files is in `/dev`, which engines keep in memory: no image gets it.

use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::arrivals::{Arrivals, Listener};
use super::interior::{Interior, blocking};
use crate::backend::{Arrival, SessionRequest, X11Request};

/// The TCP port of display 0, X(7).
const DISPLAY_PORT: u16 = 6000;
/// The displays that sshd(8) uses: X11DisplayOffset of sshd_config(5), and its bound.
const DISPLAYS: std::ops::Range<u16> = 10..1000;
/// Matches every address, Xauth.h.
const FAMILY_WILD: u16 = 65535;

const AGENT: &str = "agent";
const AUTHORITY: &str = "Xauthority";

/// What is lent to one session, until it is dropped.
#[derive(Default)]
pub(super) struct Lent {
    env: Vec<String>,
    _until: Option<DropGuard>,
}

impl Lent {
    /// The variables by which its programs find it.
    pub(super) fn env(&self) -> &[String] {
        &self.env
    }
}

/// The variables that [`lend`] will set for the first session of a container.
pub(super) fn env_of_first(request: &SessionRequest) -> Vec<String> {
    let place = Place(0);
    let agent = request.agent.then(|| place.agent_variable());
    let x11 = request.x11.as_ref().filter(|x11| authority(x11, DISPLAYS.start).is_some());
    let display = x11.map(|x11| place.display_variables(DISPLAYS.start, x11.screen));
    agent.into_iter().chain(display.into_iter().flatten()).collect()
}

/// Makes what the client offers to a session available in the container. What cannot be is not:
/// the session goes on without it.
pub(super) async fn lend(
    request: &SessionRequest,
    interior: &Arc<Interior>,
    arrivals: &Arrivals,
) -> Lent {
    if !request.agent && request.x11.is_none() {
        return Lent::default();
    }
    match try_to_lend(request, interior, arrivals).await {
        Ok(lent) => lent,
        Err(error) => {
            tracing::warn!(%error, "the client's agent and display cannot be lent to a container");
            Lent::default()
        }
    }
}

async fn try_to_lend(
    request: &SessionRequest,
    interior: &Arc<Interior>,
    arrivals: &Arrivals,
) -> io::Result<Lent> {
    let place = Place(interior.next_lending());
    let display = match &request.x11 {
        Some(x11) => Display::open(x11, interior).await?,
        None => None,
    };
    let content = display.as_ref().map(|display| display.authority.clone());
    let (root, path, agent) = (interior.root().await?, place.directory(), request.agent);
    let (directory, agent) = blocking(move || {
        let mut directory = root.private_directory(path.as_bytes())?;
        if let Some(content) = content {
            directory.write_file(AUTHORITY, &content)?;
        }
        let agent = if agent { Some(directory.listen_on_socket(AGENT)?) } else { None };
        Ok((directory, agent))
    })
    .await?;

    let until = arrivals.until();
    arrivals.afterwards(&until, move || directory.remove());
    let mut lent = Lent { env: Vec::new(), _until: Some(until.clone().drop_guard()) };
    if let Some(listener) = agent {
        let listener = Listener::Unix(tokio::net::UnixListener::from_std(listener)?);
        arrivals.offer_all(listener, interior, &until, |_| Arrival::Agent);
        lent.env.push(place.agent_variable());
    }
    if let Some(display) = display {
        lent.env.extend(place.display_variables(display.number, display.screen));
        display.serve(interior, arrivals, &until);
    }
    Ok(lent)
}

/// A directory of `/dev`, by number.
struct Place(usize);

impl Place {
    fn directory(&self) -> String {
        format!("/dev/.waltgate-{}", self.0)
    }

    fn agent_variable(&self) -> String {
        format!("SSH_AUTH_SOCK={}/{AGENT}", self.directory())
    }

    fn display_variables(&self, number: u16, screen: u32) -> [String; 2] {
        [
            format!("DISPLAY=localhost:{number}.{screen}"),
            format!("XAUTHORITY={}/{AUTHORITY}", self.directory()),
        ]
    }
}

/// A display that a container's programs see.
struct Display {
    number: u16,
    screen: u32,
    single_connection: bool,
    authority: Vec<u8>,
    listeners: Vec<TcpListener>,
}

impl Display {
    /// The first that is free; `None` if the client's cookie is none.
    async fn open(x11: &X11Request, interior: &Interior) -> io::Result<Option<Self>> {
        for number in DISPLAYS {
            let Some(authority) = authority(x11, number) else { return Ok(None) };
            match interior.listen_on_loopback(DISPLAY_PORT + number).await {
                Ok((_, listeners)) => {
                    return Ok(Some(Self {
                        number,
                        screen: x11.screen,
                        single_connection: x11.single_connection,
                        authority,
                        listeners,
                    }));
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("no display number is free"))
    }

    fn serve(self, interior: &Arc<Interior>, arrivals: &Arrivals, until: &CancellationToken) {
        let until = until.child_token();
        for listener in self.listeners {
            let last = self.single_connection.then(|| until.clone());
            arrivals.offer_all(Listener::Tcp(listener), interior, &until, move |originator| {
                if let Some(last) = &last {
                    last.cancel();
                }
                Arrival::X11 { originator }
            });
        }
    }
}

/// A file by which X clients find the cookie of a display, Xauth(3): the family of the display's
/// address, then address, number, name of the protocol and cookie, each behind its length. `None` if
/// that is not what the client sent.
fn authority(x11: &X11Request, number: u16) -> Option<Vec<u8>> {
    let cookie = decoded(&x11.cookie)?;
    let number = number.to_string();
    let fields = [b"", number.as_bytes(), x11.protocol.as_bytes(), &cookie];
    let mut content = FAMILY_WILD.to_be_bytes().to_vec();
    for field in fields {
        content.extend(u16::try_from(field.len()).ok()?.to_be_bytes());
        content.extend(field);
    }
    Some(content)
}

fn decoded(hexadecimal: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = hexadecimal.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn x11(cookie: &str) -> X11Request {
        X11Request {
            single_connection: false,
            protocol: "MIT".to_owned(),
            cookie: cookie.to_owned(),
            screen: 0,
        }
    }

    #[test]
    fn the_cookie_is_written_as_x_clients_read_it() {
        let written = authority(&x11("00fFa7"), 10).unwrap();
        assert_eq!(written, b"\xff\xff\0\0\0\x0210\0\x03MIT\0\x03\x00\xff\xa7");
    }

    #[test]
    fn a_cookie_that_is_not_hexadecimal_is_none() {
        for cookie in ["0", "xy", "+1", "é0"] {
            assert_eq!(authority(&x11(cookie), 10), None, "{cookie}");
        }
    }
}
