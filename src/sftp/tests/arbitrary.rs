//! Any bytes as a client's input: an orderly end, and nothing outside touched.

use proptest::prelude::*;

use super::*;
use crate::sftp::Request;

/// Packets of known types with fields that may fit.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let path = prop_oneof![
        Just(b"/file".to_vec()),
        Just(b"../../outside/secret".to_vec()),
        Just(b"/link/secret".to_vec()),
        Just(b"/persist/file".to_vec()),
        Just(b"/persist/link/secret".to_vec()),
        Just(b"/persist/../../outside/secret".to_vec()),
        Just(b"/".to_vec()),
        Just(b"home".to_vec()),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    let field = prop_oneof![
        4 => path.prop_map(|path| {
            let mut field = (path.len() as u32).to_be_bytes().to_vec();
            field.extend(path);
            field
        }),
        2 => any::<u32>().prop_map(|number| (number % 64).to_be_bytes().to_vec()),
        1 => any::<u64>().prop_map(|number| number.to_be_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..9),
    ];
    let kind = prop_oneof![9 => 3..=20_u8, 1 => any::<u8>()];
    let id = prop_oneof![0..40_u32, any::<u32>()];
    (kind, id, prop::collection::vec(field, 0..6)).prop_map(|(kind, id, fields)| {
        let mut packet = Writer::answer(kind, id);
        fields.iter().for_each(|field| packet.bytes().extend(field));
        packet.finish()
    })
}

/// Answers of known types, some to what may have been asked.
fn answer() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![9 => 101..=105_u8, 1 => any::<u8>()];
    (kind, 0..40_u32, prop::collection::vec(any::<u8>(), 0..60)).prop_map(|(kind, id, rest)| {
        let mut packet = Writer::answer(kind, id);
        packet.bytes().extend(rest);
        packet.finish()
    })
}

fn serve(
    input: Vec<u8>,
    session: impl FnOnce(&Tree) -> BackendSession,
) -> Result<(), TestCaseError> {
    let tree = Tree::new();
    std::os::unix::fs::symlink(tree.outside(), tree.path("link")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let code = runtime.block_on(async {
        let mut client = Client::of(session(&tree));
        let BackendSession { stdin, output, .. } = &mut client.session;
        let feeding = async {
            for piece in input.chunks(1000) {
                if stdin.write(Bytes::copy_from_slice(piece)).await.is_err() {
                    break;
                }
            }
            stdin.eof().await.ok();
        };
        let draining = async {
            let mut exit = None;
            while let Some(event) = output.next().await {
                if let OutputEvent::Exit(ExitStatus::Code(code)) = event {
                    exit = Some(code);
                }
            }
            exit
        };
        tokio::join!(feeding, draining).1
    });
    prop_assert!(code.is_some());
    let outside = fs::read_dir(tree.outside()).unwrap().count();
    prop_assert_eq!(outside, 1);
    prop_assert_eq!(fs::read(tree.outside().join("secret")).unwrap(), b"secret");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_packets_come_to_an_orderly_end(packets in prop::collection::vec(packet(), 0..40)) {
        let greeting = vec![0, 0, 0, 5, 1, 0, 0, 0, 3];
        let input: Vec<u8> = std::iter::once(greeting).chain(packets).flatten().collect();
        serve(input.clone(), |tree| crate::sftp::serve(tree.root()))?;
        serve(input.clone(), Tree::alone)?;
        serve(input.clone(), |tree| tree.within(tree))?;
        serve(input, |tree| {
            crate::sftp::unmounted(crate::sftp::serve(tree.root()), b"persist", "none".to_owned())
        })?;
    }

    #[test]
    fn any_bytes_come_to_an_orderly_end(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        serve(bytes.clone(), |tree| crate::sftp::serve(tree.root()))?;
        serve(bytes, Tree::alone)?;
    }

    #[test]
    fn any_answers_of_the_far_side_come_to_an_orderly_end(
        packets in prop::collection::vec(packet(), 1..30),
        answers in prop::collection::vec(answer(), 0..30),
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let greeting = vec![0, 0, 0, 5, 1, 0, 0, 0, 3];
        let input = std::iter::once(greeting).chain(packets).flatten().collect();
        let version = vec![0, 0, 0, 5, 2, 0, 0, 0, 3];
        let far = std::iter::once(version).chain(answers).flatten().chain(rest).collect();
        serve(input, |tree| tree.beside(far))?;
    }

    #[test]
    fn any_packet_is_a_request_or_malformed(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let (_, _) = Request::parse(&bytes);
    }
}
