//! Changes that nobody saved: kept when a client or the gateway vanishes, and found again.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use support::{Engine, Finished, Gateway, Image, Terminal, Testbed, eventually};

const OFFER: &str = "You have unsaved changes";

fn gateway(testbed: &Testbed, engine: &Engine) -> Gateway {
    testbed.gateway().engine(engine).start()
}

/// What the lobby answers to a command of an account.
fn lobby(gateway: &Gateway, account: &str, command: &str) -> Finished {
    gateway.ssh(&format!("{account}+walt")).command(command).run()
}

/// The identifiers of an account's unsaved changes, once there are any.
fn unsaved(gateway: &Gateway, account: &str) -> Vec<String> {
    let mut ids = Vec::new();
    eventually("the changes are listed", || {
        ids = listed(gateway, account);
        !ids.is_empty()
    });
    ids
}

fn listed(gateway: &Gateway, account: &str) -> Vec<String> {
    let text = lobby(gateway, account, "unsaved").expect_success().text();
    text.lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|word| word.len() == 12 && word.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .map(str::to_owned)
        .collect()
}

/// Changes a file of an image in a shell, and loses the connection.
fn vanish(gateway: &Gateway, user: &str, text: &str) {
    let mut terminal = gateway.login(user);
    terminal.expect("# ");
    change(&mut terminal, text);
    terminal.kill();
}

fn change(terminal: &mut Terminal, text: &str) {
    terminal.send(format!("echo {text} >/etc/motto; echo do''ne\r"));
    terminal.expect("done");
}

fn expect_no_container(image: &Image<'_>) {
    eventually("no container is left", || !image.has_containers());
}

#[test]
fn a_client_that_vanished_goes_on_where_it_was() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    for kind in ["limited", "os"] {
        let image = engine.image("guest", kind);
        let gateway = gateway(&testbed, &engine);
        vanish(&gateway, &image.user(), "kept");
        let ids = unsaved(&gateway, "guest");

        // Another image's login is not bothered.
        let mut terminal = gateway.login(&image.user());
        terminal.expect(OFFER);
        terminal.expect(&ids[0]);
        terminal.send("r\r");
        terminal.expect("# ");
        terminal.send("cat /etc/motto; echo more >/etc/more; echo do''ne\r");
        terminal.expect("\nkept\r\ndone");
        // And again.
        terminal.kill();
        assert_eq!(unsaved(&gateway, "guest"), ids);

        let mut terminal = gateway.login(&image.user());
        terminal.expect(OFFER);
        terminal.send("resume\r");
        terminal.expect("# ");
        terminal.send("exit\r");
        terminal.expect("Enter");
        terminal.send("\r");
        terminal.expect("y/n");
        terminal.send("y\r");
        terminal.expect(&format!("Image {} updated.", image.name()));
        assert_eq!(terminal.wait(), Some(0));
        assert_eq!(image.file_in(&image.owned_by("guest"), "/etc/motto"), "kept");
        assert_eq!(image.file_in(&image.owned_by("guest"), "/etc/more"), "more");
        assert!(listed(&gateway, "guest").is_empty());
        expect_no_container(&image);
    }
}

#[test]
fn an_offer_can_be_put_off_saved_or_discarded() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    vanish(&gateway, &image.user(), "first");
    unsaved(&gateway, "guest");

    let mut later = gateway.login(&image.user());
    later.expect(OFFER);
    later.send("\r");
    later.expect("# ");
    change(&mut later, "second");
    later.kill();
    eventually("both are kept", || listed(&gateway, "guest").len() == 2);

    let mut terminal = gateway.login(&image.user());
    // The latest first.
    terminal.expect(OFFER);
    terminal.send("s\r");
    terminal.expect("Enter a new image name");
    terminal.send(format!("{}-b\r", image.name()));
    terminal.expect("saved.");
    terminal.expect(OFFER);
    terminal.send("d\r");
    terminal.expect("y/n");
    terminal.send("y\r");
    terminal.expect("discarded");
    terminal.expect("# ");
    terminal.send("exit\r");
    assert_eq!(terminal.wait(), Some(0));
    let saved = format!("{}-b", image.owned_by("guest"));
    assert_eq!(image.file_in(&saved, "/etc/motto"), "second");
    engine.remove_image(&saved);
    assert!(listed(&gateway, "guest").is_empty());
    expect_no_container(&image);
}

#[test]
fn what_was_changed_in_an_idle_session_is_kept() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = testbed.gateway().engine(&engine).limits("idle_minutes = 0.2").start();
    let mut terminal = gateway.login(&image.user());
    terminal.expect("# ");
    change(&mut terminal, "idle");
    terminal.expect("waltgate: idle for ");
    terminal.expect(&format!("Image {} was not saved. The changes are kept", image.name()));
    terminal.expect("waltgate: closed after 12 s without traffic");
    assert_eq!(terminal.wait(), Some(255));
    let [id] = unsaved(&gateway, "guest").try_into().unwrap();

    let mut terminal = gateway.login(&image.user());
    terminal.expect(&id);
    terminal.send("r\r");
    terminal.expect("# ");
    terminal.send("cat /etc/motto\r");
    terminal.expect("idle");
    terminal.send("exit\r");
    terminal.expect("Enter");
    terminal.send("\x03");
    terminal.wait();
    expect_no_container(&image);
}

#[test]
fn the_lobby_lists_saves_and_discards_an_accounts_own_changes_only() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("waltplatform", "limited");
    let gateway = gateway(&testbed, &engine);
    let user = |account: &str| format!("{account}+{}", image.user());
    vanish(&gateway, &user("alice"), "hers");
    vanish(&gateway, &user("bob"), "his");
    let (hers, his) = (unsaved(&gateway, "alice"), unsaved(&gateway, "bob"));
    assert_eq!((hers.len(), his.len()), (1, 1));
    assert_ne!(hers, his);

    let said = lobby(&gateway, "bob", &format!("save {} mine", hers[0]));
    said.expect_code(255).expect_one_gateway_line();
    lobby(&gateway, "bob", &format!("discard {}", hers[0])).expect_code(255);
    lobby(&gateway, "alice", &format!("save {} Not-A-Name", hers[0])).expect_code(255);
    // Nothing of it did any harm.
    assert_eq!(listed(&gateway, "alice"), hers);

    let said = lobby(&gateway, "alice", &format!("save {} {}", hers[0], image.name()));
    said.expect_success().expect_stderr_with(&["New image", image.name(), "saved."]);
    assert_eq!(image.file_in(&image.owned_by("alice"), "/etc/motto"), "hers");
    lobby(&gateway, "bob", &format!("discard {}", &his[0][..6])).expect_success();
    assert!(listed(&gateway, "alice").is_empty() && listed(&gateway, "bob").is_empty());
    expect_no_container(&image);
    lobby(&gateway, "bob", "sing").expect_code(69).expect_one_gateway_line();
}

#[test]
fn the_changes_of_a_command_whose_client_vanished_are_kept_and_not_saved() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let command = "echo half >/etc/motto; echo ready; sleep 1000";
    let session = gateway.ssh(&image.user()).command(command).start();
    session.expect_stdout("ready");
    session.kill();
    let ids = unsaved(&gateway, "guest");
    assert!(!engine.history(&image.owned_by("guest")).join(" ").contains("saved as"));
    let name = format!("{}-half", image.name());
    lobby(&gateway, "guest", &format!("save {} {name}", ids[0])).expect_success();
    let saved = format!("guest/{name}");
    assert_eq!(image.file_in(&saved, "/etc/motto"), "half");
    engine.remove_image(&saved);
    expect_no_container(&image);
}

#[test]
fn a_gateway_that_is_stopped_at_the_question_says_where_the_changes_are() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let mut gateway = gateway(&testbed, &engine);
    let mut terminal = gateway.login(&image.user());
    terminal.expect("# ");
    change(&mut terminal, "kept");
    terminal.send("exit\r");
    terminal.expect("Enter a new image name");
    assert_eq!(gateway.stop(), Some(0));
    terminal.expect("(ctrl-C: abort): \r\nImage ");
    terminal.expect("The changes are kept for 24 h");
    terminal.expect(&format!("log in to {} again", image.user()));
    terminal.expect("the gateway is shutting down");
    assert_eq!(terminal.wait(), Some(75));

    gateway.restart();
    let mut terminal = gateway.login(&image.user());
    terminal.expect(OFFER);
    terminal.send("r\r");
    terminal.expect("# ");
    terminal.send("cat /etc/motto\r");
    terminal.expect("\nkept\r\n");
}

#[test]
fn what_is_to_become_of_changes_can_be_said_beforehand() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let own = image.owned_by("guest");
    let session = |value: &str| {
        let setting = format!("SetEnv=WALTGATE_SAVE_AS={value}");
        gateway.ssh(&image.user()).option(&["-o", &setting])
    };
    let copy = format!("{}-copy", image.name());

    let said = session(&copy).command("echo new >/etc/motto").run().expect_success();
    said.expect_stderr_with(&["New image", &copy, "saved."]);
    assert_eq!(image.file_in(&format!("guest/{copy}"), "/etc/motto"), "new");
    session("discard").command("echo lost >/etc/motto").run().expect_success();
    // A shell is not asked either.
    let mut terminal = session("discard").on_terminal();
    terminal.expect("# ");
    change(&mut terminal, "lost");
    terminal.send("exit\r");
    assert_eq!(terminal.wait(), Some(0));
    assert!(!terminal.screen().contains("Enter a new"), "{}", terminal.screen());
    assert!(!engine.history(&own).join(" ").contains("saved as"));

    // Nothing runs when it cannot be done.
    for refused in ["Not-A-Name", "default", &copy] {
        let said = session(refused).command("echo ran; touch /ran").run();
        assert_ne!(said.code, Some(0), "{said:?}");
        assert_eq!(said.stdout, b"", "{said:?}");
        said.expect_one_gateway_line();
    }
    engine.remove_image(&format!("guest/{copy}"));
    expect_no_container(&image);
}

#[test]
fn concurrent_savers_never_interleave_and_none_loses_anything() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let sessions: Vec<_> = (0..4)
        .map(|number| {
            let command = format!("echo {number} >/etc/motto; echo ready; read -r go");
            let session = gateway.ssh(&image.user()).command(&command).start();
            session.expect_stdout("ready");
            session
        })
        .collect();
    let finished: Vec<_> = sessions
        .into_iter()
        .map(|mut session| {
            session.send("go\n");
            session
        })
        .collect::<Vec<_>>()
        .into_iter()
        .map(support::client::Running::finish)
        .collect();
    let aside = |number: usize| format!("guest/{}-conflict-{number}", image.name());
    let mut saved: Vec<String> = (1..=3)
        .map(aside)
        .chain([image.owned_by("guest")])
        .map(|reference| image.file_in(&reference, "/etc/motto"))
        .collect();
    saved.sort();
    assert_eq!(saved, ["0", "1", "2", "3"]);
    let mut codes: Vec<_> = finished.iter().map(|finished| finished.code).collect();
    codes.sort();
    assert_eq!(codes, [Some(0), Some(75), Some(75), Some(75)]);
    let conflicts = finished.iter().filter(|finished| finished.code == Some(75));
    for conflict in conflicts {
        let said = &conflict.stderr;
        assert!(said.contains("saved by guest from 127.0.0.1"), "{said}");
        assert!(said.contains("-conflict-"), "{said}");
    }
    for number in 1..=3 {
        engine.remove_image(&aside(number));
    }
    expect_no_container(&image);
}

#[test]
fn sessions_on_one_image_are_told_of_each_other() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let mut first = gateway.login(&image.user());
    first.expect("# ");
    let mut second = gateway.login(&format!("bob+image.guest.{}", image.name()));
    second.expect("is open in another session too: by guest from 127.0.0.1");
    second.expect("# ");
    // Each has a container of its own.
    change(&mut second, "his");
    first.send("test -e /etc/motto || echo no''thing\r");
    first.expect("nothing");
    change(&mut first, "hers");
    first.send("exit\r");
    first.expect("is open in another session too: by bob");
    first.expect("Enter");
    first.send("\x03");
    first.wait();
}

/// One session from a login to a saved image. Returns whether the change was made, and whether
/// it was said to be saved, when the gateway is killed after `delay`.
fn killed_session(gateway: &Gateway, user: &str, number: usize, delay: Duration) -> (bool, bool) {
    let begun = Instant::now();
    let kill = std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            std::thread::sleep(delay.saturating_sub(begun.elapsed()));
            gateway.kill();
        });
        let command =
            format!("echo {number} >/etc/made-{number}; sync; echo made; sleep 0.2; echo over");
        let said = gateway.ssh(user).command(&command).run();
        killer.join().unwrap();
        said
    });
    let out = String::from_utf8_lossy(&kill.stdout).into_owned();
    let err = kill.stderr;
    (out.contains("made"), err.contains("updated."))
}

#[test]
fn a_gateway_killed_at_any_moment_loses_no_change_and_leaves_nothing_behind() {
    let seed = std::env::var("WALTGATE_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| rand::rng().random::<u64>());
    println!("WALTGATE_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let own = image.owned_by("guest");
    let mut gateway = gateway(&testbed, &engine);
    // How long it takes when nothing happens to it.
    let begun = Instant::now();
    gateway.ssh(&image.user()).command("echo 0 >/etc/first").run().expect_success();
    let usual = begun.elapsed() + Duration::from_millis(400);

    let mut rescued = Vec::new();
    for number in 0..20 {
        let delay = usual.mul_f64(random.random_range(0.1..1.1));
        let (made, saved) = killed_session(&gateway, &image.user(), number, delay);
        gateway.restart();
        eventually("nothing runs", || {
            engine.containers_of(&image).iter().all(|id| !engine.is_running(id))
        });
        let ids = listed(&gateway, "guest");
        let file = format!("/etc/made-{number}");
        println!("{number}: killed after {delay:?}: made {made}, saved {saved}, kept {ids:?}");
        let names = engine.history(&own).join("\n");
        let is_saved = engine.has_file(&own, &file);
        match ids.as_slice() {
            [id] => {
                // The engine may come to the end of a save that the gateway did not see the end of.
                assert!(!saved, "kept although it was saved\n{names}");
                let name = format!("{}-r{number}", image.name());
                lobby(&gateway, "guest", &format!("save {id} {name}")).expect_success();
                let name = format!("guest/{name}");
                assert_eq!(image.file_in(&name, &file), number.to_string());
                rescued.push(name);
            }
            [] => assert!(is_saved || !made, "lost\n{names}"),
            more => panic!("{more:?}"),
        }
    }
    assert!(listed(&gateway, "guest").is_empty());
    expect_no_container(&image);
    let claims = testbed.path("state/containers");
    eventually("no claim is left", || std::fs::read_dir(&claims).unwrap().next().is_none());
    let id = std::fs::read_to_string(testbed.path("state/gateway-id")).unwrap();
    let label = format!("waltgate.gateway={}", id.trim());
    eventually("no intermediate image is left", || !engine.has_unnamed(&label));
    for name in rescued {
        engine.remove_image(&name);
    }
}
