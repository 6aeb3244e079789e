//! A short run of every target, the same each time.

use slackwater_fuzz::{Rng, TARGETS, Target, Until, corpus, keep, mutate, run};

const INPUTS: u64 = 20_000;

#[test]
fn nothing_that_is_read_panics() {
    for target in TARGETS {
        let corpus = corpus(target).unwrap();
        for (at, input) in corpus.iter().enumerate() {
            assert!((target.read)(input), "{}: known input {at} is not understood", target.name);
        }
        match run(target, &corpus, 7, Until::Inputs(INPUTS)) {
            // Otherwise the run tried only the parser's first line.
            Ok(seen) => assert!(seen.understood * 200 > seen.inputs, "{}: {seen:?}", target.name),
            Err(crash) => panic!("{crash}\nkept as {}", keep(target, &crash).unwrap().display()),
        }
    }
}

#[test]
fn a_seed_makes_the_same_inputs() {
    let corpus = [b"{\"a\": 12}".to_vec(), b"[1, 2, 3]".to_vec()];
    let inputs = |seed| {
        let mut rng = Rng(seed);
        (0..500).map(|_| mutate(&mut rng, &corpus)).collect::<Vec<_>>()
    };
    assert_eq!(inputs(1), inputs(1));
    assert_ne!(inputs(1), inputs(2));
}

#[test]
fn a_crash_is_found() {
    let target = Target { name: "planted", read: |input| !input.windows(2).any(panic_on) };
    let crash = run(&target, &[b"harmless [ text".to_vec()], 3, Until::Inputs(100_000)).unwrap_err();
    assert!(crash.message.contains("planted") && crash.input.windows(2).any(|pair| pair == b"[["));
}

fn panic_on(pair: &[u8]) -> bool {
    assert!(pair != b"[[", "two brackets");
    false
}
