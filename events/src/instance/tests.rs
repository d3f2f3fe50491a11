//! Given operators, when a command, then events or a refusal.

use super::*;

const FIRST: AccountId = AccountId::from_u128(1);
const SECOND: AccountId = AccountId::from_u128(2);

fn with(operators: &[AccountId]) -> Instance {
    Instance {
        operators: operators.iter().copied().collect(),
        ..Instance::default()
    }
}

#[test]
fn operators_come_and_go_but_the_last_one_stays() {
    let add = |account_id| InstanceCommand::AddOperator { account_id };
    let remove = |account_id| InstanceCommand::RemoveOperator { account_id };
    let one = with(&[FIRST]);
    let two = with(&[FIRST, SECOND]);
    let added = Event::OperatorAdded { account_id: SECOND };
    let removed = Event::OperatorRemoved { account_id: FIRST };
    for (given, command, expected) in [
        (&one, add(SECOND), Ok(vec![added])),
        (&two, add(SECOND), Ok(vec![])),
        (&two, remove(FIRST), Ok(vec![removed])),
        (&one, remove(FIRST), Err(Refusal::LastOperator)),
        (&one, remove(SECOND), Err(Refusal::NotFound("operator"))),
    ] {
        assert_eq!(decide(Some(given), &command), expected, "{command:?}");
    }
}

#[test]
fn who_may_sign_up_is_set_and_cleared() {
    let patch = |sign_up| InstanceCommand::Patch {
        global_limits: None,
        error_profile: None,
        sign_up,
    };
    let before = with(&[FIRST]);
    assert_eq!(decide(Some(&before), &patch(None)), Ok(vec![]));
    assert_eq!(decide(Some(&before), &patch(Some(None))), Ok(vec![]));
    let events = decide(Some(&before), &patch(Some(Some(SignUp::Invite)))).unwrap();
    let [Event::InstanceUpdated { changes }] = &events[..] else {
        panic!("{events:?}");
    };
    let mut after = before.settings;
    changes.apply(&mut after);
    assert_eq!(after.sign_up, Some(SignUp::Invite));
}
