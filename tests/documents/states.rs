//! The states of a case in `docs/deciding.md`: their table, their picture, and the diagram of their transitions.

use std::{collections::BTreeSet, fmt::Write, iter};

use nodemend_domain::case::{CaseState, transition};

use crate::{compare, text};

/// All states of a case. A new state does not compile until it is added here.
fn states() -> impl Iterator<Item = CaseState> {
    let next = |state: &CaseState| match state {
        CaseState::Healthy => Some(CaseState::Silent),
        CaseState::Silent => Some(CaseState::Recovering),
        CaseState::Recovering => Some(CaseState::Suspect),
        CaseState::Suspect => Some(CaseState::Due),
        CaseState::Due => Some(CaseState::Blocked),
        CaseState::Blocked => Some(CaseState::Claimed),
        CaseState::Claimed => Some(CaseState::Acting),
        CaseState::Acting => Some(CaseState::Confirming),
        CaseState::Confirming => Some(CaseState::Rebooting),
        CaseState::Rebooting => Some(CaseState::Closed),
        CaseState::Closed => None,
    };
    iter::successors(Some(CaseState::Healthy), next)
}

#[test]
fn every_state_of_a_case_is_documented() {
    let page = text("docs/deciding.md");
    let table =
        page.split("<!-- states").nth(1).and_then(|rest| rest.split("<!-- end").next()).expect("a table");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let documented: Vec<_> = rows.map(|(name, _)| name).collect();
    assert_eq!(documented, states().map(CaseState::as_str).collect::<Vec<_>>());
}

/// The position of each state in the picture.
const POSITIONS: [(CaseState, i32, i32); 11] = [
    (CaseState::Healthy, 20, 120),
    (CaseState::Silent, 20, 20),
    (CaseState::Suspect, 210, 120),
    (CaseState::Recovering, 210, 240),
    (CaseState::Due, 400, 120),
    (CaseState::Blocked, 400, 240),
    (CaseState::Claimed, 590, 120),
    (CaseState::Acting, 780, 120),
    (CaseState::Confirming, 970, 120),
    (CaseState::Rebooting, 780, 240),
    (CaseState::Closed, 970, 240),
];

/// The arrows of the picture: from, to, the line's path, its label, and the label's position.
const ARROWS: [(CaseState, CaseState, &str, &str, i32, i32); 19] = [
    (CaseState::Healthy, CaseState::Suspect, "M130 134 H210", "condition bad", 170, 128),
    (CaseState::Healthy, CaseState::Silent, "M60 120 V56", "silent", 28, 92),
    (CaseState::Silent, CaseState::Healthy, "M95 56 V120", "reports", 120, 92),
    (CaseState::Suspect, CaseState::Due, "M320 138 H400", "grace over", 360, 132),
    (CaseState::Suspect, CaseState::Recovering, "M245 156 V240", "healthy", 228, 202),
    (CaseState::Recovering, CaseState::Suspect, "M285 240 V156", "bad again", 316, 186),
    (CaseState::Recovering, CaseState::Healthy, "M210 258 H75 V156", "recovery held", 110, 252),
    (CaseState::Due, CaseState::Claimed, "M510 138 H590", "no guard", 550, 132),
    (CaseState::Due, CaseState::Blocked, "M435 156 V240", "guard", 408, 202),
    (CaseState::Due, CaseState::Recovering, "M415 156 L320 245", "healthy", 362, 224),
    (CaseState::Blocked, CaseState::Claimed, "M510 250 L600 156", "no guard", 590, 216),
    (CaseState::Blocked, CaseState::Recovering, "M400 262 H320", "healthy", 360, 276),
    (CaseState::Claimed, CaseState::Acting, "M700 138 H780", "recorded", 740, 132),
    (
        CaseState::Claimed,
        CaseState::Recovering,
        "M640 156 V310 H250 V276",
        "healthy before the call",
        470,
        304,
    ),
    (CaseState::Acting, CaseState::Confirming, "M890 138 H970", "called", 930, 132),
    (CaseState::Acting, CaseState::Rebooting, "M835 156 V240", "rebooted", 866, 202),
    (CaseState::Acting, CaseState::Claimed, "M780 150 H700", "refused", 740, 164),
    (CaseState::Confirming, CaseState::Closed, "M1025 156 V240", "closed", 1052, 202),
    (CaseState::Rebooting, CaseState::Claimed, "M800 240 L690 156", "not healthy", 772, 192),
];

/// The arrow from a reboot after which the node is healthy, around all other states.
const CURED: &str = "M835 276 V340 H45 V156";

fn picture() -> String {
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1100 360\" width=\"1100\" height=\"360\" role=\"img\">\n\
         <title>the states of a case</title>\n\
         <style>text { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: #24292f; text-anchor: middle } \
         .label { font-size: 10px; fill: #6e7781 } path { stroke: #6e7781; fill: none } .tip { fill: #6e7781; stroke: none } \
         rect { fill: #f6f8fa; stroke: #d0d7de } .back { fill: #ffffff; stroke: none } .unhealthy { fill: #f2cc60 } .blocked { fill: #d8b9ff } \
         .acting { fill: #9ecbff } .end { fill: #d0d7de } .healthy { fill: #b4e6c0 } \
         @media (prefers-color-scheme: dark) { .back { fill: #0d1117 } .label { fill: #8d96a0 } path { stroke: #8d96a0 } .tip { fill: #8d96a0 } }</style>\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\">\
         <path class=\"tip\" d=\"M0 0 L8 4 L0 8 Z\"/></marker></defs>\n\
         <rect class=\"back\" width=\"1100\" height=\"360\"/>\n",
    );
    for (from, to, points, label, x, y) in ARROWS {
        let _ = writeln!(
            svg,
            "<path d=\"{points}\" marker-end=\"url(#tip)\"><title>{} to {}</title></path>\n<text class=\"label\" x=\"{x}\" y=\"{y}\">{label}</text>",
            from.as_str(),
            to.as_str()
        );
    }
    let _ = writeln!(
        svg,
        "<path d=\"{CURED}\" marker-end=\"url(#tip)\"><title>rebooting to healthy</title></path>\n<text class=\"label\" x=\"470\" y=\"334\">healthy after the reboot</text>"
    );
    for (state, x, y) in POSITIONS {
        let class = match state {
            CaseState::Healthy => "healthy",
            CaseState::Silent | CaseState::Recovering | CaseState::Suspect | CaseState::Due => "unhealthy",
            CaseState::Blocked => "blocked",
            CaseState::Claimed | CaseState::Acting | CaseState::Confirming | CaseState::Rebooting => "acting",
            CaseState::Closed => "end",
        };
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"110\" height=\"36\" rx=\"6\"/>\n<text x=\"{}\" y=\"{}\">{}</text>",
            x + 55,
            y + 22,
            state.as_str()
        );
    }
    svg.push_str("</svg>\n");
    svg
}

#[test]
fn every_state_is_in_the_picture_once_and_can_be_reached() {
    let drawn: Vec<_> = POSITIONS.iter().map(|(state, ..)| *state).collect();
    let distinct: BTreeSet<_> = drawn.iter().copied().collect();
    assert_eq!(distinct, states().collect());
    assert_eq!(distinct.len(), drawn.len());
    for state in drawn {
        assert!(ARROWS.iter().any(|(_, to, ..)| *to == state), "no arrow leads to {}", state.as_str());
    }
    compare("docs/pictures/states.svg", &picture());
}

#[test]
fn the_transitions_are_those_of_the_state_machine() {
    const BEGIN: &str = "by tests/documents -->\n\n```mermaid\n";
    const END: &str = "```\n\n<!-- end of transitions -->";
    let page = text("docs/deciding.md");
    let (before, rest) = page.split_once(BEGIN).expect("the start of the diagram");
    let (_, after) = rest.split_once(END).expect("the end of the diagram");
    compare("docs/deciding.md", &format!("{before}{BEGIN}{}{END}{after}", transition::mermaid()));
}
