use super::*;
use proptest::prelude::*;

pub(super) fn matches(pattern: &str, message: &str) -> bool {
    Pattern::parse(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}")).matches(message)
}

#[track_caller]
pub(super) fn check(rows: &[(&str, &str, bool)]) {
    for (pattern, message, expected) in rows {
        assert_eq!(matches(pattern, message), *expected, "{pattern} on {message}");
    }
}

/// The guide's example event, with other values.
const EXAMPLE: &str = r#"{"eventType":"StartRepair","sourceIPAddress":"10.20.30.40","arrayKey":["first","second one"],
    "objectList":[{"name":"x","id":7},{"name":"y","id":8}],"SomeObject":null,"ThisFlag":true,"OffFlag":false,
    "cluster.name":"blue","latency":250,"ratio":0.5,"numbers":[1e3,-2],"digits":"42"}"#;

#[test]
fn strings_are_compared_as_the_guide_documents() {
    check(&[
        (r#"{ $.eventType = "StartRepair" }"#, EXAMPLE, true),
        ("{ $.eventType = StartRepair }", EXAMPLE, true),
        ("{$.eventType=StartRepair}", EXAMPLE, true),
        ("{ $.eventType = startrepair }", EXAMPLE, false),
        ("{ $.eventtype = StartRepair }", EXAMPLE, false),
        ("{ $.eventType = Start }", EXAMPLE, false),
        (r#"{ $.eventType = "Start*" }"#, EXAMPLE, true),
        ("{ $.eventType = *Repair }", EXAMPLE, true),
        ("{ $.eventType = *rtRe* }", EXAMPLE, true),
        ("{ $.eventType = * }", EXAMPLE, true),
        // `*` inside a string is not a wildcard.
        ("{ $.eventType = Start*Repair }", EXAMPLE, false),
        ("{ $.eventType = Start*Repair }", r#"{"eventType":"Start*Repair"}"#, true),
        ("{ $.sourceIPAddress != 123.123.* }", EXAMPLE, true),
        ("{ $.sourceIPAddress != 10.20.* }", EXAMPLE, false),
        (r#"{ $.a = "say \"hi\" \\ bye" }"#, r#"{"a":"say \"hi\" \\ bye"}"#, true),
        (r#"{ $.a = "é" }"#, r#"{"a":"\u00e9"}"#, true),
    ]);
}

#[test]
fn selectors_reach_into_objects_and_arrays() {
    check(&[
        (r#"{ $.arrayKey[0] = "first" }"#, EXAMPLE, true),
        (r#"{ $.arrayKey[1] = "first" }"#, EXAMPLE, false),
        (r#"{ $.arrayKey[9] = "first" }"#, EXAMPLE, false),
        (r#"{ $.arrayKey[*] = "second one" }"#, EXAMPLE, true),
        (r#"{ $.arrayKey[*] = "third" }"#, EXAMPLE, false),
        ("{ $.objectList[1].id = 8 }", EXAMPLE, true),
        ("{ $.objectList[*].id = 8 }", EXAMPLE, true),
        ("{ $.objectList[*].id = 9 }", EXAMPLE, false),
        ("{ $.objectList.id = 8 }", EXAMPLE, false),
        ("{ $.* = StartRepair }", EXAMPLE, true),
        ("{ $.* = 8 }", EXAMPLE, false),
        ("{ $.objectList[0].* = 7 && $.objectList[0].name = x }", EXAMPLE, true),
        ("{ $.['cluster.name'] = blue }", EXAMPLE, true),
        ("{ $['cluster.name'] = blue }", EXAMPLE, true),
        ("{ $.cluster.name = blue }", EXAMPLE, false),
        ("{ $.a[0][1] = 5 }", r#"{"a":[[4,5]]}"#, true),
        ("{ $.a-b.c_d = 5 }", r#"{"a-b":{"c_d":5}}"#, true),
        ("{ $.a = 1 && $.a.b = 1 }", r#"{"a":{"b":1}}"#, false),
        ("{ $.a = 1 || $.a.b = 1 }", r#"{"a":1}"#, true),
        ("{ $.a = 1 || $.a.b = 1 }", r#"{"a":{"b":1}}"#, true),
        (r#"{ $.a = 1 }"#, r#"{"\u0061":1}"#, true),
    ]);
}

#[test]
fn a_selector_that_reaches_no_value_node_matches_neither_way() {
    for operator in ["=", "!="] {
        for field in ["arrayKey", "objectList", "SomeObject", "ThisFlag", "absent", "latency.more"] {
            assert!(!matches(&format!("{{ $.{field} {operator} 1 }}"), EXAMPLE), "{field} {operator}");
            assert!(!matches(&format!("{{ $.{field} {operator} \"*\" }}"), EXAMPLE), "{field} {operator} *");
        }
    }
}

#[test]
fn numbers_are_compared_as_numbers() {
    check(&[
        ("{ $.latency > 75 }", EXAMPLE, true),
        ("{ $.latency > 250 }", EXAMPLE, false),
        ("{ $.latency >= 250 }", EXAMPLE, true),
        ("{ $.latency < 250.5 }", EXAMPLE, true),
        ("{ $.latency <= +250 }", EXAMPLE, true),
        ("{ $.latency < -1 }", EXAMPLE, false),
        ("{ $.latency = 2.5e2 }", EXAMPLE, true),
        ("{ $.latency != 251 }", EXAMPLE, true),
        ("{ $.latency != 250 }", EXAMPLE, false),
        ("{ $.numbers[0] = 1e+3 }", EXAMPLE, true),
        ("{ $.numbers[0] = 1000 }", EXAMPLE, true),
        ("{ $.numbers[0] != 1e-3 }", EXAMPLE, true),
        ("{ $.numbers[1] < 0 }", EXAMPLE, true),
        ("{ $.ratio = 0.50 }", EXAMPLE, true),
        ("{ $.latency = 2* }", EXAMPLE, true),
        ("{ $.latency = 3* }", EXAMPLE, false),
        ("{ $.latency = \"*\" }", EXAMPLE, true),
        // 2^53 and the next integer are the same f64.
        ("{ $.n = 9007199254740992 }", r#"{"n":9007199254740993}"#, false),
        ("{ $.n = 9007199254740993 }", r#"{"n":9007199254740993}"#, true),
    ]);
}

#[test]
fn a_number_keeps_its_digits_where_a_selector_asks_for_more() {
    let account = r#"{"a":123456789012345678901,"b":1.50}"#;
    check(&[
        ("{ ($.a.x = 1) || ($.a = 123456789012345678901) }", account, true),
        ("{ ($.a.x = 1) || ($.a = 123456789012345678902) }", account, false),
        ("{ ($.a[0] = 1) || ($.* = *8901) }", account, true),
        ("{ ($.b.* = 1) || ($.b = *.50) }", account, true),
    ]);
}

#[test]
fn an_unquoted_number_is_also_a_string_and_a_quoted_one_is_only_a_string() {
    check(&[
        ("{ $.digits = 42 }", EXAMPLE, true),
        ("{ $.digits = \"42\" }", EXAMPLE, true),
        ("{ $.digits != 42 }", EXAMPLE, false),
        ("{ $.digits = 42.0 }", EXAMPLE, false),
        ("{ $.digits > 41 }", EXAMPLE, false),
        ("{ $.digits >= 42 }", EXAMPLE, false),
        ("{ $.latency = \"250\" }", EXAMPLE, false),
        ("{ $.latency = word }", EXAMPLE, false),
        ("{ $.latency != word }", EXAMPLE, true),
    ]);
}

#[test]
fn null_true_false_and_absence_have_keywords_of_their_own() {
    check(&[
        ("{ $.SomeObject IS NULL }", EXAMPLE, true),
        ("{ $.absent IS NULL }", EXAMPLE, false),
        ("{ $.eventType IS NULL }", EXAMPLE, false),
        ("{ $.ThisFlag IS TRUE }", EXAMPLE, true),
        ("{ $.ThisFlag IS FALSE }", EXAMPLE, false),
        ("{ $.OffFlag IS FALSE }", EXAMPLE, true),
        ("{ $.eventType IS TRUE }", EXAMPLE, false),
        ("{ $.absent NOT EXISTS }", EXAMPLE, true),
        ("{ $.absent.deeper NOT EXISTS }", EXAMPLE, true),
        ("{ $.SomeObject NOT EXISTS }", EXAMPLE, false),
        ("{ $.objectList NOT EXISTS }", EXAMPLE, false),
        ("{ $.objectList[1] NOT EXISTS }", EXAMPLE, false),
        ("{ $.objectList[2] NOT EXISTS }", EXAMPLE, true),
        ("{ $.objectList[0].name NOT EXISTS }", EXAMPLE, false),
        ("{ $.absent NOT EXISTS }", "no JSON", false),
    ]);
}

#[test]
fn and_binds_before_or_and_parentheses_before_both() {
    let (yes, no) = ("$.latency = 250", "$.latency = 1");
    let rows = [
        (format!("{{ {yes} && {no} }}"), false),
        (format!("{{ {yes} || {no} && {no} }}"), true),
        (format!("{{ ({yes} || {no}) && {no} }}"), false),
        (format!("{{ {no} && {no} || {yes} }}"), true),
        (format!("{{ {no} && ({no} || {yes}) }}"), false),
        (format!("{{(({yes}))&&(({yes})||{no})}}"), true),
    ];
    for (pattern, expected) in rows {
        assert_eq!(matches(&pattern, EXAMPLE), expected, "{pattern}");
    }
}

#[test]
fn only_a_whole_json_object_matches_a_json_pattern() {
    let pattern = Pattern::parse("{ $.a = 1 || $.b NOT EXISTS }").expect("a pattern");
    for message in
        ["", "text", "[1]", "1", "null", "\"a\"", r#"{"a":1"#, r#"{"a":1} x"#, r#"{"a":1}{}"#, r#"{"a":}"#]
    {
        assert!(!pattern.matches(message), "{message}");
    }
    assert!(pattern.matches(" {\"a\" : 1 }\n"));
}

#[test]
fn terms_are_found_anywhere_and_in_their_case() {
    check(&[
        ("", "anything", true),
        ("  ", "anything", true),
        (r#"" ""#, "anything", true),
        (r#""""#, "", true),
        ("AUTHORIZED", "[401] UNAUTHORIZED", true),
        ("authorized", "[401] UNAUTHORIZED", false),
        ("ERROR node", "ERROR on node 3", true),
        ("ERROR node", "ERROR on pod 3", false),
        ("?ERROR ?WARN", "WARN disk", true),
        ("?ERROR ?WARN", "INFO disk", false),
        ("ERROR -disk", "ERROR net", true),
        ("ERROR -disk", "ERROR disk", false),
        ("-disk", "net", true),
        (r#""kernel panic""#, "a kernel panic!", true),
        (r#""kernel panic""#, "a panic in the kernel", false),
        (r#"ERROR -"kernel panic""#, "ERROR kernel panic", false),
        (r#"?"kernel panic" ?oops"#, "oops", true),
        // Terms with a question mark are ignored if there are other terms.
        ("?ERROR ?WARN disk", "INFO disk", true),
        ("?ERROR -disk", "INFO net", true),
    ]);
}

#[test]
fn an_invalid_pattern_is_refused_with_the_position_of_its_error() {
    let regex = "regular expressions in filter patterns are not evaluated locally";
    let rows = [
        ("{", 1, "expected a selector that starts with $, or (, found the end of the pattern"),
        ("{}", 1, "expected a selector that starts with $, or (, found '}'"),
        ("{ $.a }", 6, "expected =, !=, <, >, <=, >=, IS or NOT EXISTS, found '}'"),
        ("{ $.a = }", 8, "expected a number, an unquoted string or a string in double quotes, found '}'"),
        ("{ $.a == 1 }", 7, "expected a number, an unquoted string or a string in double quotes, found '='"),
        ("{ $.a = 1", 9, "expected &&, || or }, found the end of the pattern"),
        ("{ $.a = 1 } x", 12, "expected nothing after the closing brace, found 'x'"),
        ("{ $.a = 1 & $.b = 2 }", 10, "expected &&, || or }, found '&'"),
        ("{ ($.a = 1 }", 11, "expected &&, || or ), found '}'"),
        ("{ !($.a = 1) }", 2, "expected a selector that starts with $, or (, found '!'"),
        ("{ $ = 1 }", 3, "expected a dot after $, found ' '"),
        ("{ $. = 1 }", 4, "expected the name of a property after the dot, found ' '"),
        ("{ $[0] = 1 }", 3, "an array element must follow the name of a property"),
        ("{ $.a.[0] = 1 }", 6, "an array element must follow the name of a property"),
        ("{ $.a[x] = 1 }", 6, "expected the number of an element, * or a name in single quotes, found 'x'"),
        ("{ $.a[0 = 1 }", 7, "expected ], found ' '"),
        ("{ $.['a = 1 }", 5, "the name is never closed"),
        (r#"{ $.["a"] = 1 }"#, 5, "a name in brackets is written in single quotes"),
        ("{ $.a[*].b[*] = 1 }", 2, "a selector may have only one wildcard"),
        ("{ $.* = 1 && $.* = 1 && $.* = 1 && $.* = 1 }", 35, "a pattern may have only 3 wildcard selectors"),
        ("{ $.a < x }", 8, "expected a number, as only numbers have an order, found 'x'"),
        ("{ $.a = \"x }", 8, "the string is never closed"),
        ("{ $.a = \"\\x\" }", 10, "expected a double quote or a backslash after a backslash, found 'x'"),
        ("{ $.a = a-b }", 8, "\"a-b\" is not a number, and a string must be in double quotes"),
        ("{ $.a = system:node }", 14, "expected &&, || or }, found ':'"),
        ("{ $.a IS 1 }", 9, "expected NULL, TRUE or FALSE, found '1'"),
        ("{ $.a IS NOT NULL }", 6, "IS NOT is not supported by CloudWatch Logs"),
        ("{ $.a EXISTS }", 6, "EXISTS is not supported by CloudWatch Logs: use = \"*\""),
        ("{ $.a NOT NULL }", 10, "expected EXISTS, found 'N'"),
        ("{ $.é = %x% }", 4, "expected the name of a property after the dot, found 'é'"),
        ("{ $.a = \"é\" && $.b = %x% }", 21, regex),
        ("%ERROR%", 0, regex),
        (" [ip, user]", 1, "space-delimited patterns are not evaluated locally"),
        (
            "ERROR:disk",
            5,
            "expected a space, as a term with such a character must be in double quotes, found ':'",
        ),
        (
            "ERROR - disk",
            7,
            "expected a term: letters, digits and underscores, or a string in double quotes, found ' '",
        ),
    ];
    for (pattern, at, message) in rows {
        let error = Pattern::parse(pattern).expect_err(pattern);
        assert_eq!((error.at, error.message.as_str()), (at, message), "{pattern}");
    }
    let error = Pattern::parse("?").expect_err("a lone question mark");
    assert!(error.to_string().ends_with("found the end of the pattern (at character 1)"), "{error}");
}

#[test]
fn a_pattern_has_at_most_1024_characters() {
    let longest = "é".repeat(MAX_PATTERN);
    assert!(Pattern::parse(&longest).is_ok());
    let error = Pattern::parse(&format!("{longest}é")).expect_err("too long");
    assert_eq!(
        error.to_string(),
        "the pattern has 1025 characters, and at most 1024 are allowed (at character 1024)"
    );
}

#[test]
fn no_nesting_overflows_the_stack() {
    let error = Pattern::parse(&format!("{{{}", "(".repeat(1000))).expect_err("too deep");
    assert_eq!((error.at, &*error.message), (65, "parentheses are nested more than 64 deep"));
    let deep = format!("{{{}$.a = 1{}}}", "(".repeat(64), ")".repeat(64));
    assert!(matches(&deep, r#"{"a":1}"#));

    let steps = format!("{{ $.a{} = 1 }}", "[0]".repeat(300));
    for depth in [100, 300, 100_000] {
        let message = format!("{{\"b\":{0}{1},\"a\":{0}{1}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(!matches(&steps, &message));
        assert!(matches("{ $.c NOT EXISTS }", &message), "what no selector reaches may have any depth");
    }
}

proptest! {
    #[test]
    fn no_pattern_and_no_message_make_it_panic(pattern in any::<String>(), message in any::<String>()) {
        if let Ok(pattern) = Pattern::parse(&pattern) {
            let _ = pattern.matches(&message);
        }
    }

    #[test]
    fn nothing_that_looks_like_a_pattern_makes_it_panic(
        pattern in r#"\{( ?(\$|\.|a|b|\[0\]|\[\*\]|\['c'\]|\*|=|!=|<|1|"x"|\(|\)|&&|\|\||IS|NULL|NOT|EXISTS|%)){0,12}\}?"#,
        message in r#"(\{|\}|\[|\]|"a"|"b"|:|,|1|null|true|"x"){0,16}"#,
    ) {
        if let Ok(pattern) = Pattern::parse(&pattern) {
            let _ = pattern.matches(&message);
        }
    }

    #[test]
    fn any_string_is_found_by_itself_in_quotes(text in any::<String>()) {
        let quoted = text.replace('\\', r"\\").replace('"', r#"\""#);
        prop_assume!(!text.starts_with('*') && !text.ends_with('*') && quoted.chars().count() < 900);
        let message = serde_json::json!({ "a": { "b": [0, text] } }).to_string();
        let found = format!("{{ $.a.b[1] = \"{quoted}\" }}");
        let missed = format!("{{ $.a.b[1] != \"{quoted}\" }}");
        prop_assert!(matches(&found, &message));
        prop_assert!(!matches(&missed, &message));
    }

    #[test]
    fn whole_numbers_are_ordered_as_they_are(left in any::<i64>(), right in any::<i64>()) {
        let message = format!("{{\"n\":{left}}}");
        for (operator, expected) in
            [("<", left < right), ("<=", left <= right), (">", left > right), (">=", left >= right), ("=", left == right), ("!=", left != right)]
        {
            let pattern = format!("{{ $.n {operator} {right} }}");
            prop_assert_eq!(matches(&pattern, &message), expected, "{} on {}", pattern, message);
        }
    }
}
