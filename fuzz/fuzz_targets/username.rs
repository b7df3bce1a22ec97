//! A username that parses is displayed in a form that parses to the same value.

#![no_main]

use libfuzzer_sys::fuzz_target;
use waltgate::names::NodeName;
use waltgate::target::Username;

fuzz_target!(|text: &str| {
    let lobby: NodeName = "walt".parse().expect("a valid name");
    match Username::parse(text, &lobby) {
        Ok(username) => {
            let displayed = username.to_string();
            assert_eq!(Username::parse(&displayed, &lobby), Ok(username));
        }
        Err(error) => assert!(!error.to_string().contains(char::is_control)),
    }
});
