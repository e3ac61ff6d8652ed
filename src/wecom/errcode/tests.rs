//! Properties of the codes as documented, and of every remedy.

use super::*;

#[test]
fn codes_fall_into_the_documented_classes() {
    for (class_expected, codes) in [
        (Class::Transient, &[-1, 6_000, 45_033, 45_035][..]),
        (Class::Token, &[40_014, 42_001, 41_001, 42_009, 40_082]),
        (Class::Rate, &[45_009]),
        (Class::Item, &[40_096, 84_061, 40_058, 40_078, 610_014, 40_073, 84_083, 84_084, 670_002, 670_031]),
        (
            Class::Configuration,
            &[
                40_001, 60_020, 48_002, 301_002, 670_001, 610_015, 845_003, 701_008, 48_011, 81_017, 90_510,
                40_080, 40_083, 40_084, 40_085, 48_003, 842_002, 842_006, 846_000,
            ],
        ),
        (Class::Invisible, &[60_011, 81_013, 670_027]),
        (Class::Unknown, &[1, 99_999]),
    ] {
        for code in codes {
            assert_eq!(class(*code), class_expected, "{code}");
        }
    }
}

#[test]
fn every_group_of_codes_has_the_class_that_its_meaning_calls_for() {
    type Group = fn(i64) -> bool;
    let groups: [(Group, &[i64], &[Class]); 6] = [
        (is_call_forbidden, &[48_001, 48_002, 48_005, 84_074, 301_002], &[Class::Configuration]),
        (is_concurrency, &[45_033, 45_035, 45_036], &[Class::Transient]),
        (is_not_visible, &[40_096, 60_011, 60_030, 60_031, 81_013, 84_061], &[Class::Invisible, Class::Item]),
        (is_dealer_gone, &[670_001, 670_004], &[Class::Configuration]),
        (is_chat_gone, &[40_050, 49_008, 86_001, 86_003, 90_501, 90_509], &[Class::Item]),
        (is_bad_cursor, &[50_100, 60_268], &[Class::Item]),
    ];
    for (is_of_group, codes, classes) in groups {
        let found: Vec<_> = (-1..900_000).filter(|code| is_of_group(*code)).collect();
        assert_eq!(found, codes);
        assert!(found.iter().all(|code| classes.contains(&class(*code))), "{codes:?}");
    }
}

#[test]
fn every_configuration_code_has_a_remedy_of_its_own() {
    let general = remedy(i64::MAX);
    for code in [
        40_001, 40_013, 43_009, 48_002, 50_003, 60_020, 84_074, 92_002, 301_002, 610_015, 610_016, 610_017,
        610_018, 610_023, 610_024, 670_001, 670_004, 701_008, 81_017, 845_001, 845_002, 845_003, 90_510,
    ] {
        assert_eq!(class(code), Class::Configuration);
        assert_ne!(remedy(code).en, general.en, "{code}");
        assert_ne!(remedy(code).zh, general.zh, "{code}");
    }
}

#[test]
fn an_agency_has_remedies_of_its_own_in_both_languages() {
    let general = remedy(i64::MAX);
    for (codes, en, zh) in [
        (&[40_001, 40_084, 40_091][..], "重新获取 secret", "重新获取 secret"),
        (&[40_001, 40_013, 40_056, 40_078], "a dealer by installing the shared app", "经销商重新安装"),
        (&[40_080], "suite_secret", "suite_secret"),
        (&[40_083], "suite_id", "suite_id"),
        (&[40_085], "suite_ticket", "suite_ticket"),
        (&[43_009, 610_016], "服务商管理后台", "服务商认证"),
        (&[48_001, 48_002, 84_074], "客户基础信息", "客户基础信息"),
        (&[48_003, 48_004], "a dealer by installing the shared app", "经销商重新安装"),
        (&[40_013, 48_003], "a brand by the template's QR code", "品牌企业扫描"),
        (&[48_011, 50_003], "have the corp", "请该企业"),
        (&[60_020, 301_042], "服务商信息 → 基本信息 → IP白名单", "服务商信息 → 基本信息 → IP白名单"),
        (&[92_002], "the dealer install the shared app", "经销商安装"),
        (&[301_002], "服务商管理后台", "服务商管理后台"),
        (&[701_000, 701_008, 701_999], "互通账号", "互通账号"),
    ] {
        for &code in codes {
            let (agency, self_built) =
                (remedy_for(code, Development::Agency), remedy_for(code, Development::SelfBuilt));
            assert_eq!(self_built, remedy(code));
            assert!(agency.en.contains(en) && agency.zh.contains(zh), "{code}: {agency:?}");
            assert!(agency.en != self_built.en && agency.zh != self_built.zh, "{code}");
            assert!(agency.en != general.en && agency.zh != general.zh, "{code}");
        }
    }
    // The provider has no access to these places of the brand's console.
    for code in (-1..1_000).chain(40_000..93_000).chain(300_000..302_000).chain(600_000..850_000) {
        let Remedy { en, zh } = remedy_for(code, Development::Agency);
        for place in ["可调用接口的应用", "企业可信IP", "我的企业"] {
            assert!(!en.contains(place) && !zh.contains(place), "{code}: {en} {zh}");
        }
    }
    assert_eq!(remedy_for(42_009, Development::Agency), remedy(42_009));
}

#[test]
fn every_remedy_begins_with_an_action() {
    const VERBS: [&str; 17] = [
        "add ",
        "ask ",
        "buy ",
        "check ",
        "choose ",
        "complete ",
        "copy ",
        "enable ",
        "follow ",
        "grant ",
        "have ",
        "invite ",
        "look ",
        "request ",
        "set ",
        "share ",
        "use ",
    ];
    for code in (-1..1_000).chain(40_000..93_000).chain(300_000..302_000).chain(600_000..850_000) {
        for development in [Development::SelfBuilt, Development::Agency] {
            let Remedy { en, zh } = remedy_for(code, development);
            let waits = en.starts_with("wait: ") || en.starts_with("do nothing: ");
            let waits_zh = zh.starts_with("无需处理：");
            assert!(waits || VERBS.iter().any(|verb| en.starts_with(verb)), "{code}: {en}");
            assert!(waits_zh || zh.starts_with('请'), "{code}: {zh}");
            assert_eq!(waits, waits_zh, "{code}");
        }
    }
}
