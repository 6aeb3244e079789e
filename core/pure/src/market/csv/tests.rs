use super::*;

fn read(text: &str) -> Result<FeeTable, CsvError> {
    parse(text, &CsvOptions::default())
}

#[track_caller]
fn amount(text: &str, scale: Scale, expect: Option<u128>) {
    assert_eq!(parse_amount(text, scale), expect, "{text}");
}

#[test]
fn amounts() {
    amount("0", Scale::Wei, Some(0));
    amount("13.5e9", Scale::Wei, Some(13_500_000_000));
    amount("1.35E+10", Scale::Wei, Some(13_500_000_000));
    amount("51.4", Scale::Gwei, Some(51_400_000_000));
    amount("0.05", Scale::Gwei, Some(50_000_000));
    amount(".5", Scale::Wei, Some(1));
    amount("0.49", Scale::Wei, Some(0));
    amount("5e-3", Scale::Wei, Some(0));
    amount("72592027088.33", Scale::Wei, Some(72_592_027_088));
    amount("340282366920938463463374607431768211455", Scale::Wei, Some(u128::MAX));
    for bad in
        ["340282366920938463463374607431768211456", "-1", "+1", "0x10", "nan", "inf", "1e400", "", ".", "1,5", "1e"]
    {
        amount(bad, Scale::Wei, None);
    }
}

#[test]
fn blocks_without_header_gas_take_the_next_fee_from_the_next_row() {
    let table = read(
        "chain,block_number,timestamp,base_fee_wei,gas_used_ratio,ratio_kind,extra\r\n\
         ethereum,100,1000,10,0.5,implied,x\r\nethereum,101,1012,11,0.4,reported,\r\n\r\nethereum,102,1024,12,,,\r\n\
         ethereum,104,1048,13,,,\r\nethereum,105,1060,,,,\r\nethereum,106,1072,14,,,\r\n",
    )
    .unwrap();
    assert_eq!((table.cadence, table.without_price), (Cadence::Blocks, 1));
    assert_eq!(table.chain.as_deref(), Some("ethereum"));
    assert_eq!(table.measured_step(), Some(Duration::from_secs(12)));
    let next: Vec<_> = table.points.iter().map(|point| point.next_base_fee).collect();
    // Implied: filled. Reported: computable. Before a gap: unknown.
    assert_eq!(next, [Some(11), None, None, None, None]);
}

#[test]
fn series_are_recognised() {
    let every = read("block_number,timestamp,base_fee_wei\n5,60,1\n20,263,2\n35,466,3\n65,872,4\n").unwrap();
    assert_eq!(every.cadence, Cadence::EveryBlocks(15));
    assert_eq!(every.measured_step(), Some(Duration::from_secs(203)));
    assert!(every.points.iter().all(|point| point.next_base_fee.is_none()));
    let candles = "timestamp,open_gwei,close_gwei\n0,1,50.4\n3601,1,49\n7199,1,48\n18000,1,47\n";
    let candles = read(candles).unwrap();
    assert_eq!(candles.cadence, Cadence::Every(Duration::from_secs(3_601)));
    assert_eq!(candles.price_column, "close_gwei");
    assert_eq!(candles.points.iter().map(|point| point.number).collect::<Vec<_>>(), [0, 1, 2, 5]);
    assert_eq!(candles.points[0].base_fee, 50_400_000_000);
}

#[test]
fn faults_name_their_place() {
    let cases = [
        ("", "no rows"),
        ("chain,base_fee_wei\n", "no rows"),
        ("block_number,gas_used\n1,2\n", "line 1: no column base_fee_wei or"),
        ("block_number,base_fee_wei\n1,\n2,\n", "column base_fee_wei is empty in all 2 rows"),
        ("block_number,base_fee_wei\n1,7\n2,seven\n", "line 3, column base_fee_wei: \"seven\" is not a price"),
        ("block_number,base_fee_wei\n1,7\n1,8\n", "line 3, column block_number: 1 does not come after 1"),
        ("timestamp,base_fee_wei\n9,7\n8,8\n", "line 3, column timestamp: 8 does not come after 9"),
        ("timestamp,base_fee_wei\n1700000000000,7\n", "milliseconds"),
        ("block_number,base_fee_wei\n1,7,\n", "line 2: 3 cells, the header has 2"),
        ("chain,block_number,base_fee_wei\na,1,7\nb,2,7\n", "line 3, column chain: \"b\" in a file of \"a\""),
        ("base_fee_wei,base_fee_wei\n1,7\n", "twice"),
        ("base_fee_wei\n1\n", "line 2: block_number and timestamp are both empty"),
        ("block_number,base_fee_wei,gas_used,gas_limit\n1,7,9,8\n", "line 2, column gas_used"),
        ("block_number,base_fee_wei,gas_used_ratio\n1,7,1.5\n", "line 2, column gas_used_ratio"),
        ("block_number,timestamp,base_fee_wei\n1,1,7\n,2,7\n", "line 3, column block_number"),
    ];
    for (text, expect) in cases {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains(expect), "{text:?}: {error}");
    }
    let wanted = CsvOptions { price_column: Some("avg".to_owned()) };
    assert!(parse("block_number,base_fee_wei\n1,7\n", &wanted).is_err());
    assert!(matches!(read(&format!("base_fee_wei\n{}", "9".repeat(20_000))), Err(CsvError::TooLarge { line: 2, .. })));
}

#[test]
fn what_is_written_is_read() {
    let point = |number, utilisation| FeePoint {
        number,
        timestamp: Some(BlockTimestamp(1_700_000_000 + number)),
        base_fee: u128::MAX - u128::from(number),
        utilisation,
        tips: Tips { min: Some(0), typical: Some(5), mean: None, max: Some(9) },
        next_base_fee: None,
    };
    let points = vec![
        point(1, Some(Utilisation::Gas { used: 1, limit: 3 })),
        point(2, Some(Utilisation::Ratio(0.683_755))),
        FeePoint { timestamp: None, tips: Tips::default(), ..point(3, None) },
    ];
    let mut text = format!("{HEADER}\n");
    points.iter().for_each(|point| write_row(&mut text, "polygon", point));
    let table = read(&text).unwrap();
    assert_eq!(table.points, points);
    assert_eq!(HEADER.split(',').count(), text.lines().nth(1).unwrap().split(',').count());
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "[-0-9a-z_.,\"\n\r ]{0,200}", head in 0..3_usize) {
        let head = ["", "block_number,base_fee_wei\n", "timestamp,close_gwei,gas_used,gas_limit\n"][head];
        let _ = read(&format!("{head}{text}"));
    }
}
