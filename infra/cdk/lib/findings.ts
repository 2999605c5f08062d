// The findings of cdk-nag and of CDK's validation that are accepted, each with its reason.

import { Validations } from "aws-cdk-lib";
import type { CfnInclude } from "aws-cdk-lib/cloudformation-include";

const ARN = (service: string, rest: string) => `arn:<AWS::Partition>:${service}:<AWS::Region>:<AWS::AccountId>:${rest}`;
const IAM5 = (resource: string) => `AwsSolutions::AwsSolutions-IAM5[Resource::${resource}]`;

const READS = "read-only; IAM cannot limit these actions to a resource, or the resource is only known after a group was read";
const IS_DEAD_LETTERS = "it is itself the dead-letter queue of a function or of EventBridge rules";

const GROUP_STREAMS = "one log group: the wildcard at the end of its ARN matches its streams";
const STREAMS = "the log streams of one cluster's nodes, each named by its instance ID";
const JSON_TEXT = "a JSON string, because the cluster's name is in a condition key; CloudFormation accepts both forms";

/** Of template.yaml: the resource, the finding, and why it is accepted. A test compares them with what CDK reports. */
export const FINDINGS: [resource: string, id: string, reason: string][] = [
  ["IntakeDeadLetterQueue", "AwsSolutions::AwsSolutions-SQS3", IS_DEAD_LETTERS],
  ["ConfirmDeadLetterQueue", "AwsSolutions::AwsSolutions-SQS3", IS_DEAD_LETTERS],
  ["RepairRole", IAM5("*"), READS],
  ["RepairRole", IAM5(ARN("eks", "cluster/*")), READS],
  ["RepairRole", IAM5(ARN("eks", "nodegroup/*/*/*")), READS],
  ["RepairRole", IAM5(ARN("logs", "log-group:/aws/eks/<ClusterName>/cluster:*")), GROUP_STREAMS],
  ["ReconcileRole", IAM5("*"), READS],
  ["ReconcileRole", IAM5(ARN("logs", "log-group:/aws/eks/<ClusterName>/cluster:*")), GROUP_STREAMS],
  ["ConfirmRole", IAM5("*"), READS],
  ["ConfirmRole", IAM5(ARN("eks", "cluster/*")), READS],
  ["ConfirmRole", IAM5(ARN("eks", "nodegroup/*/*/*")), READS],
  ["VpcAccess", IAM5("*"), "Lambda names the network interfaces that it creates; the functions' code may not make these calls"],
  ["DrainDeadLetterQueue", "AwsSolutions::AwsSolutions-SQS3", IS_DEAD_LETTERS],
  ["DrainRole", IAM5("*"), READS],
  [
    "DrainCalls",
    "CloudFormation-Validate::E3510",
    "a JSON string, because the cluster's name is in a condition key; CloudFormation accepts both forms",
  ],
  ["OperatorPolicy", IAM5("*"), READS],
  ["OperatorPolicy", IAM5(ARN("eks", "cluster/*")), READS],
  ["OperatorPolicy", IAM5(ARN("eks", "nodegroup/*/*/*")), READS],
  ["OperatorPolicy", IAM5(ARN("logs", "log-group:/aws/eks/<ClusterName>/cluster:*")), GROUP_STREAMS],
  [
    "AgentPolicy",
    IAM5(ARN("logs", "log-group:/nodemend/<ClusterName>/nodes:log-stream:i-*")),
    STREAMS,
  ],
  ["RepairCalls", "CloudFormation-Validate::E3510", JSON_TEXT],
];

const OF_CLUSTER: typeof FINDINGS = [
  ["ReconcileReads", IAM5(ARN("logs", "log-group:/nodemend/<ClusterName>/nodes:*")), GROUP_STREAMS],
  ["ReconcileReads", IAM5(ARN("logs", "log-group:/aws/eks/<ClusterName>/cluster:*")), GROUP_STREAMS],
  ["RepairCalls", "CloudFormation-Validate::E3510", JSON_TEXT],
];

const OF_MEMBER: typeof FINDINGS = [
  ["ReconcileRole", IAM5("*"), READS],
  ["ReconcileRole", IAM5(ARN("logs", "log-group:/nodemend/<ClusterName>/nodes:*")), GROUP_STREAMS],
  ["ReconcileRole", IAM5(ARN("logs", "log-group:/aws/eks/<ClusterName>/cluster:*")), GROUP_STREAMS],
  ["RepairRole", "CloudFormation-Validate::E3510", JSON_TEXT],
  ["ConfirmRole", IAM5("*"), READS],
  ["ConfirmRole", IAM5(ARN("eks", "cluster/*")), READS],
  ["ConfirmRole", IAM5(ARN("eks", "nodegroup/*/*/*")), READS],
  ["AgentRole", IAM5(ARN("logs", "log-group:/nodemend/<ClusterName>/nodes:log-stream:i-*")), STREAMS],
];

/** Acknowledges each accepted finding with its reason, so that only new findings are reported. */
export function explain(template: CfnInclude): void {
  acknowledge(template, FINDINGS);
}

/** The same for cluster.yaml. */
export function explainCluster(template: CfnInclude): void {
  acknowledge(template, OF_CLUSTER);
}

/** The same for member.yaml. */
export function explainMember(template: CfnInclude): void {
  acknowledge(template, OF_MEMBER);
}

function acknowledge(template: CfnInclude, findings: typeof FINDINGS): void {
  for (const [resource, id, reason] of findings) {
    Validations.of(template.getResource(resource)).acknowledge({ id, reason });
  }
}
