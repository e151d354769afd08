//! What a rule does to packets that connection tracking calls invalid, and whether it decides at all.
//!
//! Expressions are looked at in their order, as `nft --debug=netlink` prints them. Sets and verdict maps are not looked into.

use super::{TABLE, Table, attributes, number, text, u32_at, value_of};

/// `NFTA_RULE_CHAIN`.
const RULE_CHAIN: u16 = 2;
/// `NFTA_RULE_EXPRESSIONS`.
const EXPRESSIONS: u16 = 4;
/// `NFTA_EXPR_NAME`.
const EXPRESSION_NAME: u16 = 1;
/// `NFTA_EXPR_DATA`.
const EXPRESSION_DATA: u16 = 2;
/// `NFTA_CT_KEY`; zero is the state.
const CT_KEY: u16 = 2;
/// `NFTA_BITWISE_MASK`.
const MASK: u16 = 4;
/// `NFTA_CMP_OP`.
const COMPARE_HOW: u16 = 2;
/// `NFTA_CMP_DATA`.
const COMPARE_WITH: u16 = 3;
/// `NFTA_DATA_VALUE`.
const VALUE: u16 = 1;
/// `NFTA_DATA_VERDICT`.
const VERDICT: u16 = 2;
/// `NFTA_IMMEDIATE_DATA`.
const IMMEDIATE: u16 = 2;
/// `NFTA_VERDICT_CODE`.
const CODE: u16 = 1;
/// `NFTA_MATCH_NAME`.
const MATCH_NAME: u16 = 1;
/// `NFTA_MATCH_INFO`.
const MATCH_INFO: u16 = 3;
/// `NFT_CMP_EQ`.
const EQUAL: u32 = 0;
/// The bit of an invalid state, of nftables as of iptables.
const INVALID: u32 = 1;
/// Where `struct xt_conntrack_mtinfo3` has what is asked.
const ASKED: usize = 146;
/// Where it has what of that is turned round.
const TURNED: usize = 148;
/// Where it has the states.
const STATES: usize = 150;
/// `XT_CONNTRACK_STATE`: the state is asked.
const ASKS_STATE: u16 = 1;

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The table that it is in.
    pub table: Table,
    /// The chain that it is in.
    pub chain: String,
    /// What it does with the packets that it is for; none: it goes on, or something that is not seen.
    pub verdict: Option<Verdict>,
    /// Whether it is for packets that connection tracking calls invalid.
    pub is_for_invalid: bool,
}

/// What a rule does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is dropped.
    Drop,
    /// It passes this hook's chain.
    Accept,
    /// Another chain decides.
    Elsewhere,
}

/// Reads a rule from its attributes.
pub(super) fn read(family: u8, rule: &[(u16, &[u8])]) -> Option<Rule> {
    let table = Table { family, name: text(value_of(rule, TABLE)?) };
    let chain = text(value_of(rule, RULE_CHAIN)?);
    let mut rule_so_far = Rule { table, chain, verdict: None, is_for_invalid: false };
    // States that are in the register, once they were loaded and masked.
    let mut states = None;
    for (_, element) in attributes(value_of(rule, EXPRESSIONS).unwrap_or_default())? {
        let element = attributes(element)?;
        let name = text(value_of(&element, EXPRESSION_NAME)?);
        let data = attributes(value_of(&element, EXPRESSION_DATA).unwrap_or_default())?;
        match &*name {
            "ct" => states = (value_of(&data, CT_KEY).and_then(number) == Some(0)).then_some(u32::MAX),
            "bitwise" => states = states.and(value_of(&data, MASK).and_then(in_register)),
            "cmp" => {
                let is_equal = value_of(&data, COMPARE_HOW).and_then(number) == Some(EQUAL);
                let with = value_of(&data, COMPARE_WITH).and_then(in_register);
                rule_so_far.is_for_invalid |= matches_invalid(states.take(), is_equal, with);
            }
            "match" => rule_so_far.is_for_invalid |= is_match_of_invalid(&data),
            "immediate" => rule_so_far.verdict = verdict(&data).or(rule_so_far.verdict),
            _ => {}
        }
    }
    Some(rule_so_far)
}

/// `ct state invalid` masks the state and compares with zero; `ct state == invalid` compares the state itself.
const fn matches_invalid(states: Option<u32>, is_equal: bool, with: Option<u32>) -> bool {
    match (states, with) {
        (Some(mask), Some(with)) if is_equal => mask & with & INVALID != 0,
        (Some(mask), Some(0)) => mask & INVALID != 0,
        _ => false,
    }
}

/// What is loaded into a register, in the order of the host's bytes as the state is.
fn in_register(data: &[u8]) -> Option<u32> {
    u32_at(value_of(&attributes(data)?, VALUE)?, 0)
}

/// A match of iptables over nftables.
fn is_match_of_invalid(data: &[(u16, &[u8])]) -> bool {
    let name = value_of(data, MATCH_NAME).map(text);
    let info = value_of(data, MATCH_INFO).unwrap_or_default();
    let word = |at| super::u16_at(info, at).unwrap_or_default();
    match name.as_deref() {
        Some("conntrack") => {
            word(ASKED) & ASKS_STATE != 0
                && word(TURNED) & ASKS_STATE == 0
                && u32::from(word(STATES)) & INVALID != 0
        }
        Some("state") => u32_at(info, 0).is_some_and(|states| states & INVALID != 0),
        _ => false,
    }
}

fn verdict(data: &[(u16, &[u8])]) -> Option<Verdict> {
    let verdict = attributes(value_of(&attributes(value_of(data, IMMEDIATE)?)?, VERDICT)?)?;
    match number(value_of(&verdict, CODE)?)?.cast_signed() {
        0 => Some(Verdict::Drop),
        1 => Some(Verdict::Accept),
        // NFT_JUMP and NFT_GOTO.
        -3 | -4 => Some(Verdict::Elsewhere),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
        let name = attribute(EXPRESSION_NAME, format!("{name}\0").as_bytes());
        attribute(1, &[name, attribute(EXPRESSION_DATA, &data.concat())].concat())
    }

    fn rule_of(expressions: &[Vec<u8>]) -> Rule {
        let bytes = [
            attribute(TABLE, b"filter\0"),
            attribute(RULE_CHAIN, b"FORWARD\0"),
            attribute(EXPRESSIONS, &expressions.concat()),
        ];
        read(2, &attributes(&bytes.concat()).unwrap()).unwrap()
    }

    fn load(key: u32) -> Vec<u8> {
        expression("ct", &[attribute(CT_KEY, &key.to_be_bytes())])
    }

    fn value(kind: u16, value: u32) -> Vec<u8> {
        attribute(kind, &attribute(VALUE, &value.to_ne_bytes()))
    }

    fn mask(states: u32) -> Vec<u8> {
        expression("bitwise", &[value(MASK, states)])
    }

    fn compare(how: u32, with: u32) -> Vec<u8> {
        expression("cmp", &[attribute(COMPARE_HOW, &how.to_be_bytes()), value(COMPARE_WITH, with)])
    }

    fn decide(code: i32) -> Vec<u8> {
        let verdict = attribute(VERDICT, &attribute(CODE, &code.to_be_bytes()));
        expression("immediate", &[attribute(IMMEDIATE, &verdict)])
    }

    #[test]
    fn rules_for_invalid_packets_are_told_from_others() {
        let is_for_invalid = |expressions: &[Vec<u8>]| rule_of(expressions).is_for_invalid;
        let [equal, unequal] = [0, 1];
        assert!(is_for_invalid(&[load(0), mask(INVALID), compare(unequal, 0)]));
        assert!(is_for_invalid(&[load(0), mask(INVALID | 8), compare(unequal, 0)]));
        assert!(is_for_invalid(&[load(0), compare(equal, INVALID)]));
        // Other states, other keys, and everything but invalid.
        assert!(!is_for_invalid(&[load(0), mask(2 | 4), compare(unequal, 0)]));
        assert!(!is_for_invalid(&[load(3), mask(INVALID), compare(unequal, 0)]));
        assert!(!is_for_invalid(&[load(0), mask(INVALID), compare(equal, 0)]));
        assert!(!is_for_invalid(&[compare(equal, INVALID)]));
        // What was compared once is in the register no more for us.
        assert!(!is_for_invalid(&[load(0), compare(equal, 2), mask(INVALID), compare(unequal, 0)]));
    }

    #[test]
    fn matches_of_iptables_are_read_too() {
        let conntrack = |asked: u16, turned: u16, states: u16| {
            let mut info = vec![0_u8; 160];
            for (at, word) in [(ASKED, asked), (TURNED, turned), (STATES, states)] {
                info[at..at + 2].copy_from_slice(&word.to_ne_bytes());
            }
            let data = [attribute(MATCH_NAME, b"conntrack\0"), attribute(MATCH_INFO, &info)];
            rule_of(&[expression("match", &data), decide(0)])
        };
        assert!(conntrack(1, 0, 1).is_for_invalid);
        assert_eq!(conntrack(1, 0, 1).verdict, Some(Verdict::Drop));
        assert!(!conntrack(1, 1, 1).is_for_invalid, "! --ctstate INVALID");
        assert!(!conntrack(1, 0, 6).is_for_invalid);
        assert!(!conntrack(2, 0, 1).is_for_invalid, "the state is not asked");
        let comment = [attribute(MATCH_NAME, b"comment\0"), attribute(MATCH_INFO, &[1; 256])];
        assert!(!rule_of(&[expression("match", &comment)]).is_for_invalid);
    }

    #[test]
    fn verdicts_are_read() {
        for (code, verdict) in [
            (0, Some(Verdict::Drop)),
            (1, Some(Verdict::Accept)),
            (-3, Some(Verdict::Elsewhere)),
            (-4, Some(Verdict::Elsewhere)),
            (-5, None),
        ] {
            let rule = rule_of(&[expression("counter", &[]), decide(code)]);
            assert_eq!((rule.verdict, &*rule.chain), (verdict, "FORWARD"));
        }
        assert_eq!(rule_of(&[]).verdict, None);
        assert!(read(2, &[(TABLE, b"filter\0")]).is_none(), "a rule of no chain");
    }
}
