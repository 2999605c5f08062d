// What cdk-nag and CDK's own validation find in the template, and why it stays.

import { Validations } from "aws-cdk-lib";
import type { CfnInclude } from "aws-cdk-lib/cloudformation-include";

const ARN = (service: string, rest: string) => `arn:<AWS::Partition>:${service}:<AWS::Region>:<AWS::AccountId>:${rest}`;
const IAM5 = (resource: string) => `AwsSolutions::AwsSolutions-IAM5[Resource::${resource}]`;

const READS = "reads that IAM can't limit to a resource, or whose resource is known only once a group was read; nothing is written";
const IS_DEAD_LETTERS = "it is the dead-letter queue: of a function, and of EventBridge's rules";

const STREAMS = "the streams of one cluster's nodes, each named by its instance";
const JSON_TEXT = "a text that is JSON, as the cluster's name is in the name of a condition's key; CloudFormation takes both forms";

const FINDINGS: [resource: string, id: string, reason: string][] = [
  ["IntakeDeadLetters", "AwsSolutions::AwsSolutions-SQS3", IS_DEAD_LETTERS],
  ["AuditDeadLetters", "AwsSolutions::AwsSolutions-SQS3", IS_DEAD_LETTERS],
  ["RepairRole", IAM5("*"), READS],
  ["RepairRole", IAM5(ARN("eks", "cluster/*")), READS],
  ["RepairRole", IAM5(ARN("eks", "nodegroup/*/*/*")), READS],
  ["AuditRole", IAM5("*"), READS],
  ["AuditRole", IAM5(ARN("eks", "cluster/*")), READS],
  ["AuditRole", IAM5(ARN("eks", "nodegroup/*/*/*")), READS],
  ["DrainDeadLetters", "AwsSolutions::AwsSolutions-SQS3", IS_DEAD_LETTERS],
  ["DrainRole", IAM5("*"), READS],
  [
    "DrainCalls",
    "CloudFormation-Validate::E3510",
    "a text that is JSON, as the cluster's name is in the name of a condition's key; CloudFormation takes both forms",
  ],
  ["OperatorPolicy", IAM5("*"), READS],
  ["OperatorPolicy", IAM5(ARN("eks", "cluster/*")), READS],
  ["OperatorPolicy", IAM5(ARN("eks", "nodegroup/*/*/*")), READS],
  ["OperatorPolicy", IAM5(ARN("logs", "log-group:/aws/eks/<ClusterName>/cluster:*")), "one log group: the end of its ARN stands for its streams"],
  [
    "AgentPolicy",
    IAM5(ARN("logs", "log-group:/nodemend/<ClusterName>/nodes:log-stream:i-*")),
    STREAMS,
  ],
  ["RepairCalls", "CloudFormation-Validate::E3510", JSON_TEXT],
];

const OF_CLUSTER: typeof FINDINGS = [
  ["RepairCalls", "CloudFormation-Validate::E3510", JSON_TEXT],
];

const OF_MEMBER: typeof FINDINGS = [
  ["RepairRole", "CloudFormation-Validate::E3510", JSON_TEXT],
  ["AuditRole", IAM5("*"), READS],
  ["AuditRole", IAM5(ARN("eks", "cluster/*")), READS],
  ["AuditRole", IAM5(ARN("eks", "nodegroup/*/*/*")), READS],
  ["AgentRole", IAM5(ARN("logs", "log-group:/nodemend/<ClusterName>/nodes:log-stream:i-*")), STREAMS],
];

/** Says of each finding why it stays, so that whoever checks sees only what is new. */
export function explain(template: CfnInclude): void {
  acknowledge(template, FINDINGS);
}

/** The same of the installation's side of a further cluster. */
export function explainCluster(template: CfnInclude): void {
  acknowledge(template, OF_CLUSTER);
}

/** The same of the cluster's own side. */
export function explainMember(template: CfnInclude): void {
  acknowledge(template, OF_MEMBER);
}

function acknowledge(template: CfnInclude, findings: typeof FINDINGS): void {
  for (const [resource, id, reason] of findings) {
    Validations.of(template.getResource(resource)).acknowledge({ id, reason });
  }
}
