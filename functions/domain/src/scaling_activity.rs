//! Reads why Auto Scaling terminated an instance, from the `Cause` of its scaling activity.
//!
//! Auto Scaling documents these texts in its user guide ("Troubleshoot unhealthy instances", "Verify a scaling activity")
//! and in AWS re:Post ("Why did Amazon EC2 Auto Scaling terminate an instance?", "My Auto Scaling group scaled down
//! without my intervention"). A text that has none of these is printed as it is: no cause is guessed.

use jiff::Timestamp;

use crate::ident::GroupName;

/// How much of a cause is printed, in characters. Auto Scaling's are up to 1,023 long.
const MAX_PRINTED: usize = 300;

/// A scaling activity that terminated an instance, as Auto Scaling's event has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalingActivity {
    /// Its `AutoScalingGroupName`.
    pub group: GroupName,
    /// Its `Cause`: one or more sentences, each with its time. Empty if the event has none.
    pub cause: String,
    /// Its `StartTime`.
    pub started: Option<Timestamp>,
}

/// Why a scaling activity terminated an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TerminationCause {
    /// Somebody called TerminateInstanceInAutoScalingGroup. CloudTrail has the caller.
    Request {
        /// When, to the second, if the text or the activity has it.
        at: Option<Timestamp>,
    },
    /// The instance had ended or stopped before, and Auto Scaling only replaces it: the activity does not have who ended
    /// it.
    EndedBefore,
    /// Auto Scaling itself decided, for this reason: `scale-in by the policy p (alarm a)`.
    Decided(String),
    /// Another text.
    Unknown,
}

/// The reason of a replacement after EC2's system or instance status check failed.
pub const FAILED_STATUS_CHECK: &str = "failed EC2 status check";

/// What the text names after "in response to", in lower case, and what it is. The first that matches counts.
const RESPONSES: [(&str, &str); 15] = [
    ("instance refresh", "instance refresh"),
    ("application status check", "failed EC2 application status check"),
    ("instance status check", FAILED_STATUS_CHECK),
    ("system status check", FAILED_STATUS_CHECK),
    ("scheduled reboot", "EC2 scheduled reboot"),
    ("elb ", "failed ELB health check"),
    ("ebs volume health check", "failed EBS volume health check"),
    ("vpc lattice", "failed VPC Lattice health check"),
    ("user health-check", "custom health check, by a call of SetInstanceHealth"),
    ("system health-check", FAILED_STATUS_CHECK),
    ("rebalance recommendation", "Capacity Rebalancing"),
    ("capacity rebalancing", "Capacity Rebalancing"),
    ("spot instance interruption", "Spot interruption"),
    ("spot interruption", "Spot interruption"),
    ("instance lifetime", "maximum instance lifetime"),
];

impl ScalingActivity {
    /// The cause in its text, as far as it is documented.
    pub fn cause(&self) -> TerminationCause {
        const RESPONSE: &str = "in response to ";
        let Some((before, response)) = self.cause.rsplit_once(RESPONSE) else {
            return TerminationCause::Unknown;
        };
        let text = response.to_ascii_lowercase();
        let text =
            ["a ", "an ", "the "].iter().find_map(|article| text.strip_prefix(article)).unwrap_or(&text);
        if text.starts_with("user request") {
            return TerminationCause::Request { at: time_of(before).or(self.started) };
        }
        if text.contains("terminated or stopped") {
            return TerminationCause::EndedBefore;
        }
        if text.starts_with("difference between desired and actual capacity") {
            return TerminationCause::Decided(self.scale_in());
        }
        let known = RESPONSES.iter().find(|(name, _)| text.contains(name));
        known.map_or(TerminationCause::Unknown, |(_, what)| TerminationCause::Decided((*what).to_owned()))
    }

    /// What changed the capacity: the sentences before the last one name it.
    fn scale_in(&self) -> String {
        let between = |start: &str, end: &str| {
            let (_, rest) = self.cause.split_once(start)?;
            rest.split_once(end).map(|(name, _)| name.trim())
        };
        if let Some(policy) = between("triggered policy ", " changing") {
            return match between("monitor alarm ", " in state") {
                Some(alarm) => format!("scale-in by the policy {policy} (alarm {alarm})"),
                None => format!("scale-in by the policy {policy}"),
            };
        }
        if self.cause.contains("scheduled action") {
            return "scale-in by a scheduled action".to_owned();
        }
        if self.cause.contains("launched to balance instances in zones") {
            return "Availability Zone rebalance".to_owned();
        }
        if self.cause.contains("user request") {
            return "scale-in after a request to change the group's capacity".to_owned();
        }
        "scale-in".to_owned()
    }

    /// The activity as one clause: `Auto Scaling terminated it (instance refresh): At …`.
    pub fn sentence(&self) -> String {
        let mut text: String = self.cause.chars().take(MAX_PRINTED).collect();
        if text.is_empty() {
            "the event has no cause".clone_into(&mut text);
        } else if text.len() < self.cause.len() {
            text.push('…');
        }
        match self.cause() {
            TerminationCause::Decided(what) => format!("Auto Scaling terminated it ({what}): {text}"),
            _ => format!("Auto Scaling terminated it: {text}"),
        }
    }
}

/// The time that the last sentence begins with: `At 2026-08-20T08:40:00Z instance i-…`.
fn time_of(before: &str) -> Option<Timestamp> {
    let (_, sentence) = before.rsplit_once("At ")?;
    sentence.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activity(text: &str, started: Option<Timestamp>) -> ScalingActivity {
        let group = GroupName::new("workers").expect("a name");
        ScalingActivity { group, cause: text.to_owned(), started }
    }

    fn cause(text: &str) -> TerminationCause {
        activity(text, None).cause()
    }

    /// The texts of Auto Scaling's user guide, of AWS re:Post, and of published notifications.
    #[test]
    fn the_documented_causes_are_matched() {
        let difference = "At 2016-05-08T13:55:20Z an instance was taken out of service in response to a difference between \
            desired and actual capacity, shrinking the capacity from 4 to 3.  At 2016-05-08T13:55:20Z instance i-1 was \
            selected for termination.";
        for (before, expected) in [
            (
                "At 2016-05-08T13:55:14Z a monitor alarm My-Scale-Down-Alarm in state ALARM triggered policy Decrease \
                 Group Size changing the desired capacity from 4 to 3. ",
                "scale-in by the policy Decrease Group Size (alarm My-Scale-Down-Alarm)",
            ),
            (
                "At 2016-02-12T16:01:25Z a scheduled action update of AutoScalingGroup constraints to min: 1, max: 5, \
                 desired: 2 changing the desired capacity from 3 to 2. ",
                "scale-in by a scheduled action",
            ),
            (
                "At 2016-05-13T15:03:47Z a user request update of AutoScalingGroup constraints to min: 12, max: 20, \
                 desired: 13 changing the desired capacity from 14 to 13. ",
                "scale-in after a request to change the group's capacity",
            ),
            (
                "At 2016-05-13T15:03:47Z a user request explicitly set group desired capacity changing the desired \
                 capacity from 14 to 13. ",
                "scale-in after a request to change the group's capacity",
            ),
            (
                "At 2024-08-27T09:52:34Z instances were launched to balance instances in zones us-east-1a us-east-1b with \
                 other zones resulting in more than desired number of instances in the group. ",
                "Availability Zone rebalance",
            ),
            ("", "scale-in"),
        ] {
            let text = format!("{before}{difference}");
            assert_eq!(cause(&text), TerminationCause::Decided(expected.to_owned()), "{text}");
        }
        for (response, expected) in [
            ("an instance refresh.", "instance refresh"),
            ("an EC2 instance status checks failure.", "failed EC2 status check"),
            ("an ELB system health check failure.", "failed ELB health check"),
            ("EBS volume health check failure.", "failed EBS volume health check"),
            ("a user health-check.", "custom health check, by a call of SetInstanceHealth"),
            ("a system health-check.", "failed EC2 status check"),
            ("an EC2 scheduled reboot.", "EC2 scheduled reboot"),
        ] {
            let text = format!(
                "At 2022-05-14T20:11:53Z an instance was taken out of service in response to {response}"
            );
            assert_eq!(cause(&text), TerminationCause::Decided(expected.to_owned()), "{text}");
        }
        for article in ["a", "an"] {
            let text = format!(
                "At 2015-06-16T14:59:01Z an instance was taken out of service in response to {article} EC2 health check \
                 indicating it has been terminated or stopped."
            );
            assert_eq!(cause(&text), TerminationCause::EndedBefore);
        }
    }

    #[test]
    fn a_request_has_its_own_time_and_else_that_of_the_activity() {
        let request = "instance i-1 was taken out of service in response to a user request, shrinking the capacity from 6 to 5.";
        let at = |text: &str| Some(text.parse::<Timestamp>().expect("a time"));
        let started = at("2026-08-20T08:40:09Z");
        for (text, expected) in [
            (format!("At 2026-08-20T08:40:00Z {request}"), at("2026-08-20T08:40:00Z")),
            (request.to_owned(), started),
        ] {
            let activity = activity(&text, started);
            assert_eq!(activity.cause(), TerminationCause::Request { at: expected });
        }
        assert_eq!(cause(request), TerminationCause::Request { at: None });
    }

    #[test]
    fn an_unknown_cause_is_printed_and_not_guessed() {
        for text in ["", "At dawn", "taken out of service in response to a whim.", "in response to "] {
            assert_eq!(cause(text), TerminationCause::Unknown, "{text}");
        }
        let long = activity(&"é".repeat(1_000), None).sentence();
        assert!(long.starts_with("Auto Scaling terminated it: é") && long.ends_with("é…"), "{long}");
        assert!(long.chars().count() < 340);
    }
}
