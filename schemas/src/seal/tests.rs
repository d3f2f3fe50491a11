use super::*;
use crate::{LineageId, Position};

fn seal(region: &str, seed: u8, fleet: u8) -> Seal {
    Seal::new(region, &[seed; 32], FleetSecret::from_bytes(&[fleet; 32]))
}

fn heartbeat(to: Position) -> Heartbeat {
    Heartbeat {
        lineage: LineageId::from_u128(1),
        generation: 1,
        epoch: 1,
        to,
        as_of_ms: 0,
        root: Default::default(),
    }
}

fn meta() -> Meta {
    Meta {
        lineage: LineageId::from_u128(1),
        generation: 1,
        epoch: 1,
        fence: 1,
        position: 7,
        chain_hash: String::new(),
        as_of_ms: 0,
        count: 0,
        root: Default::default(),
    }
}

fn answer() -> RenewalAnswer {
    RenewalAnswer {
        boot_id: crate::BootId::from_u128(1),
        counter: 1,
        lineage: LineageId::from_u128(1),
        generation: 1,
        head: 7,
        now_ms: 0,
    }
}

#[test]
fn a_public_key_is_that_of_rfc_8032() {
    // Section 7.1, TEST 1.
    let seed = key_bytes("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
    let seal = Seal::new("eu", &seed.unwrap(), FleetSecret::from_bytes(&[0; 32]));
    let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    assert_eq!(seal.verify_key().to_string(), public);
    assert_eq!(public.parse(), Ok(seal.verify_key()));
    for bad in ["", "ab", &public.to_uppercase(), &public[1..]] {
        assert_eq!(bad.parse::<VerifyKey>(), Err(BadKey), "{bad}");
    }
}

#[test]
fn what_was_signed_is_read_and_nothing_else() {
    let ours = seal("eu", 1, 1);
    let good = ours.heartbeat(&heartbeat(7));
    assert_eq!(ours.trust().heartbeat(&good), Ok(heartbeat(7)));

    let altered = Signed {
        bytes: good
            .bytes
            .iter()
            .map(|it| if *it == b'7' { b'9' } else { *it })
            .collect(),
        ..good.clone()
    };
    let unsigned = Signed {
        proof: String::new(),
        ..good.clone()
    };
    let forged = seal("eu", 2, 1).heartbeat(&heartbeat(7));
    let elsewhere = seal("us", 1, 1).heartbeat(&heartbeat(7));
    let by_fleet_secret = ours.trust.tagged(Kind::Heartbeat, good.bytes.clone());
    for (case, bad) in [
        ("altered", altered),
        ("unsigned", unsigned),
        ("signed by another key", forged),
        ("of another region", elsewhere),
        ("with a MAC for a signature", by_fleet_secret),
    ] {
        let refused = Err(Error::Unverified(Kind::Heartbeat));
        assert_eq!(ours.trust().heartbeat(&bad), refused, "{case}");
    }
    let as_a_frame = ours.trust().frame(&good);
    assert_eq!(as_a_frame, Err(Error::Unverified(Kind::Frame)));
}

#[test]
fn any_of_the_verify_keys_will_do() {
    let (old, new) = (seal("eu", 1, 1), seal("eu", 2, 1));
    let fleet = FleetSecret::from_bytes(&[1; 32]);
    let both = Trust::new("eu", vec![old.verify_key(), new.verify_key()], fleet);
    for seal in [&old, &new] {
        assert!(both.heartbeat(&seal.heartbeat(&heartbeat(1))).is_ok());
    }
    assert!(
        new.trust()
            .heartbeat(&old.heartbeat(&heartbeat(1)))
            .is_err()
    );
}

#[test]
fn every_field_of_meta_is_covered_also_one_that_nobody_knows() {
    let ours = seal("eu", 1, 1);
    let mut from_the_future = meta().to_fields();
    from_the_future.insert("shards".to_owned(), "4".to_owned());
    let proof = ours.signed(Kind::Meta, bytes_of(&from_the_future)).proof;
    from_the_future.insert(SIGNATURE_FIELD.to_owned(), proof);
    for good in [ours.meta(&meta()), from_the_future] {
        assert_eq!(ours.trust().meta(&good), Ok(meta()));
        for name in good.keys() {
            let mut changed = good.clone();
            changed.insert(name.clone(), "1".repeat(9));
            assert!(ours.trust().meta(&changed).is_err(), "{name} changed");
            changed.remove(name);
            assert!(ours.trust().meta(&changed).is_err(), "{name} removed");
        }
        let mut more = good;
        more.insert("x".to_owned(), String::new());
        assert!(ours.trust().meta(&more).is_err());
    }
}

#[test]
fn an_entry_is_good_in_its_own_place_only() {
    let ours = seal("eu", 1, 1);
    let text = r#"{"generation":1,"rev":7,"status":"revoked"}"#;
    let stored = ours.entry("field", text);
    let value: serde_json::Value = serde_json::from_str(&stored).unwrap();
    assert_eq!(value["mac"].as_str().map(str::len), Some(32), "{stored}");
    let read = |trust: &Trust, field: &str, stored: &str| trust.entry(field, stored.into());
    assert_eq!(read(ours.trust(), "field", &stored), Ok(text.into()));
    // The signing key may change; the MAC stays good.
    assert!(read(seal("eu", 2, 1).trust(), "field", &stored).is_ok());

    let bad = Err(Error::Unverified(Kind::Entry));
    assert_eq!(read(ours.trust(), "other", &stored), bad);
    assert_eq!(read(seal("us", 1, 1).trust(), "field", &stored), bad);
    assert_eq!(read(seal("eu", 1, 2).trust(), "field", &stored), bad);
    let active = stored.replace("revoked", "active");
    assert_eq!(read(ours.trust(), "field", &active), bad);
    for bad_text in [
        text,
        "",
        "{}",
        &stored[..stored.len() - 1],
        &format!("{stored} "),
    ] {
        assert_eq!(read(ours.trust(), "field", bad_text), bad, "{bad_text}");
    }
}

#[test]
fn answers_and_renewals_need_the_secret_and_do_not_pass_for_each_other() {
    let ours = seal("eu", 1, 1);
    let good = ours.answer(&answer());
    assert_eq!(ours.trust().answer(&good), Ok(answer()));
    for other in [seal("eu", 1, 2), seal("us", 1, 1)] {
        assert!(ours.trust().answer(&other.answer(&answer())).is_err());
    }
    assert_eq!(ours.renewal(&good), Err(Error::Unverified(Kind::Renewal)));
    let unproven = Signed {
        proof: String::new(),
        ..good
    };
    assert!(ours.trust().answer(&unproven).is_err());
}

#[test]
fn a_frame_with_an_entry_that_cannot_be_read_comes_without_its_changes() {
    let ours = seal("eu", 1, 1);
    let text = br#"{"lineage":"01JD3ZK8Q6N4V6M2W0T5R7X9YB","generation":1,"epoch":1,
        "from":6,"to":7,"changes":[{"hash":"nonsense"}],"as_of_ms":0}"#;
    let frame = ours.signed(Kind::Frame, text.to_vec());
    let frame = ours.trust().frame(&frame).unwrap();
    assert_eq!((frame.from, frame.to, frame.changes), (6, 7, None));
    let nonsense = ours.signed(Kind::Frame, b"{}".to_vec());
    let read = ours.trust().frame(&nonsense);
    assert!(matches!(read, Err(Error::Malformed { .. })), "{read:?}");
}

#[test]
fn secrets_are_not_shown() {
    let shown = format!("{:?}", seal("eu", 0xab, 0xcd));
    assert!(
        !shown.contains("abab") && !shown.contains("cdcd"),
        "{shown}"
    );
}
