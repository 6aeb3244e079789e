use proptest::prelude::*;

use super::*;

fn hash(n: u8) -> B256 {
    B256::repeat_byte(n)
}

/// One sample of each variant, with its options present and absent.
fn samples() -> Vec<Decision> {
    let planned = |threshold_wei_per_gas, model: Option<B256>| Decision::Planned {
        batch: hash(2),
        chain_id: 1,
        sender: Address::repeat_byte(0xAB),
        nonce: u64::MAX,
        members: vec![hash(1), hash(3)],
        reason: "price".to_owned(),
        base_fee_wei_per_gas: u128::MAX,
        threshold_wei_per_gas,
        max_fee_wei_per_gas: 3,
        max_priority_fee_wei_per_gas: 1,
        gas_limit_gas: 21_000,
        model,
        inputs: model,
    };
    let accepted = |key: Option<&str>, reserved_wei| Acceptance {
        request: hash(1),
        tenant: "acme \"é\"\n\u{1}".to_owned(),
        key: key.map(str::to_owned),
        chain_id: 31_337,
        deadline_s: 1_790_000_000,
        reserved_wei,
    };
    let ending = |attempt, block_number, reason| Ending {
        request: hash(1),
        status: "finalized".to_owned(),
        attempt,
        block_number,
        cost_wei: 1,
        price_wei: block_number.map(|_| 2),
        reason,
    };
    let refused = |key: Option<&str>| Decision::Refused {
        key: key.map(str::to_owned),
        tenant: "a".to_owned(),
        code: "policy_denied".to_owned(),
        count: 3,
    };
    vec![
        Decision::Accepted { requests: vec![accepted(None, 0), accepted(Some("shop-1"), u128::MAX)] },
        refused(None),
        refused(Some("shop-1")),
        planned(None, None),
        planned(Some(7), Some(hash(9))),
        Decision::Sent { batch: hash(2), attempt: hash(4) },
        Decision::Bumped {
            batch: hash(2),
            replaced: hash(4),
            attempt: hash(5),
            reason: "stuck".to_owned(),
            max_fee_wei_per_gas: 5,
            max_priority_fee_wei_per_gas: 3,
        },
        Decision::Cancelling { batch: hash(2), attempt: hash(6), reason: "deadline".to_owned() },
        Decision::Included { batch: hash(2), attempt: hash(5), block_number: 10, block_hash: hash(7) },
        Decision::Reorged { batch: hash(2), attempt: hash(5), block_number: 10, block_hash: hash(7) },
        Decision::Settled {
            requests: vec![ending(None, None, None), ending(Some(hash(5)), Some(11), Some("x".to_owned()))],
        },
        Decision::Requeued { request: hash(1), batch: hash(2), reason: "foreign_nonce".to_owned() },
        Decision::Alert { code: "low_balance".to_owned(), subject: "lane".to_owned(), detail: String::new() },
        Decision::Configured { config: hash(8), version: "0.1.0".to_owned() },
        Decision::ModelPromoted { chain_id: 1, model: hash(9), previous: None },
    ]
}

fn log() -> Vec<Entry> {
    let mut head = Head::GENESIS;
    let append = |(i, decision): (usize, Decision)| {
        let entry = Entry::append(&head, 1_000 + i as u64, &decision);
        head = entry.head();
        entry
    };
    samples().into_iter().enumerate().map(append).collect()
}

#[test]
fn bodies_are_canonical_and_read_back() {
    for decision in samples() {
        let body = decision.encode();
        assert_eq!(Decision::decode(&body).as_ref(), Ok(&decision), "{body}");
        assert!(!body.contains("null"), "{body}");
    }
    let body = Decision::Sent { batch: hash(0xAB), attempt: hash(1) }.encode();
    let (a, b) = ("01".repeat(32), "ab".repeat(32));
    assert_eq!(body, format!(r#"{{"attempt":"0x{a}","batch":"0x{b}","kind":"sent"}}"#));
}

#[test]
fn the_encoding_does_not_drift() {
    // Published logs must stay verifiable: a change here needs a new version in DOMAIN.
    let body = samples()[0].encode();
    let id = "01".repeat(32);
    let expect = format!(
        "{{\"kind\":\"accepted\",\"requests\":[{{\"chain_id\":\"31337\",\"deadline_s\":\"1790000000\",\"request\":\"0x{id}\",\
         \"reserved_wei\":\"0\",\"tenant\":\"acme \\\"é\\\"\\n\\u0001\"}},{{\"chain_id\":\"31337\",\"deadline_s\":\"1790000000\",\
         \"key\":\"shop-1\",\"request\":\"0x{id}\",\"reserved_wei\":\"{}\",\"tenant\":\"acme \\\"é\\\"\\n\\u0001\"}}]}}",
        u128::MAX
    );
    assert_eq!(body, expect);
    assert!(samples()[3].encode().contains(&format!("\"sender\":\"0x{}\"", "ab".repeat(20))), "lower case");
    let entry = Entry::append(&Head::GENESIS, 0, &Decision::Sent { batch: B256::ZERO, attempt: B256::ZERO });
    // Computed independently from the format in the module's documentation.
    let expect = "0xd9a6475ccbf8ed21fcf4756ea38a7cf178914e971689b0ccdb1e6e2efce66b0f";
    assert_eq!(entry.hash.to_string(), expect);
}

#[test]
fn other_spellings_are_refused() {
    let body = samples()[5].encode();
    for other in [
        body.replace(':', ": "),
        body.replace("sent", "lost"),
        body.replace("{", "{\"extra\":\"1\","),
        format!("{body} "),
        body.replace("0x02", "0X02"),
        String::new(),
    ] {
        assert!(Decision::decode(&other).is_err(), "{other}");
    }
    let number = samples()[0].encode().replace("\"31337\"", "31337");
    assert_eq!(Decision::decode(&number), Err(DecodeError::NotCanonical));
}

#[test]
fn an_intact_log_verifies_in_parts() {
    let log = log();
    let head = log.last().expect("not empty").head();
    assert_eq!(verify_chain(&log), Ok(head));
    assert_eq!(verify_chain(log.clone()), Ok(head), "owned entries too");
    let (first, rest) = log.split_at(5);
    let middle = verify_chain(first).expect("intact");
    assert_eq!(verify_chain_from(middle, rest), Ok(head));
    assert_eq!(verify_chain(Vec::<Entry>::new()), Ok(Head::GENESIS));
}

#[test]
fn logs_of_two_owners_differ() {
    let decision = &samples()[0];
    let ours = Entry::append(&Head::genesis("a"), 1, decision);
    assert_ne!(ours.hash, Entry::append(&Head::genesis("b"), 1, decision).hash);
    assert!(verify_chain([&ours]).is_err());
    assert_eq!(verify_chain_from(Head::genesis("a"), [&ours]), Ok(ours.head()));
}

#[test]
fn damage_is_found_where_it_is() {
    let log = log();
    let fault = |log: &[Entry]| verify_chain(log).expect_err("broken");
    for i in 0..log.len() {
        let seq = i as u64 + 1;
        let mut changed = log.clone();
        changed[i].body.push(' ');
        assert!(matches!(fault(&changed), ChainBreak { seq: s, fault: ChainFault::Hash { .. } } if s == seq));

        let mut moved = log.clone();
        moved[i].at_ms += 1;
        assert!(matches!(fault(&moved), ChainBreak { seq: s, fault: ChainFault::Hash { .. } } if s == seq));

        if i + 1 < log.len() {
            let mut removed = log.clone();
            removed.remove(i);
            let expect = ChainBreak { seq, fault: ChainFault::Sequence { found: seq + 1 } };
            assert_eq!(fault(&removed), expect);

            // Rewritten with a right hash of its own: the next entry still names the old one.
            let mut rewritten = log.clone();
            let prev = Head { seq: i as u64, hash: log[i].prev };
            rewritten[i] = Entry::append(&prev, 5, &samples()[2]);
            assert!(
                matches!(fault(&rewritten), ChainBreak { seq: s, fault: ChainFault::Previous { .. } } if s == seq + 1)
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_survives(subject in any::<String>(), detail in any::<String>()) {
        let decision = Decision::Alert { code: "x".to_owned(), subject, detail };
        prop_assert_eq!(Decision::decode(&decision.encode()), Ok(decision));
    }

    #[test]
    fn decoding_never_panics(body in any::<String>()) {
        prop_assert!(Decision::decode(&body).is_err());
    }
}
