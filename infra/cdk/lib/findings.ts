// What cdk-nag and CDK's own validation find in the template, and why it stays.

import { Validations } from "aws-cdk-lib";
import type { CfnInclude } from "aws-cdk-lib/cloudformation-include";

const ARN = (service: string, rest: string) => `arn:<AWS::Partition>:${service}:<AWS::Region>:<AWS::AccountId>:${rest}`;
const IAM5 = (resource: string) => `AwsSolutions::AwsSolutions-IAM5[Resource::${resource}]`;

const READS = "reads that IAM can't limit to a resource, or whose resource is known only once a group was read; nothing is written";
const IS_DEAD_LETTERS = "it is the dead-letter queue: of a function, and of EventBridge's rules";

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
  [
    "AgentPolicy",
    IAM5(ARN("logs", "log-group:/nodemend/<ClusterName>/nodes:log-stream:i-*")),
    "the streams of one cluster's nodes, each named by its instance",
  ],
  [
    "RepairCalls",
    "CloudFormation-Validate::E3510",
    "a text that is JSON, as the cluster's name is in the name of a condition's key; CloudFormation takes both forms",
  ],
];

/** Says of each finding why it stays, so that whoever checks sees only what is new. */
export function explain(template: CfnInclude): void {
  for (const [resource, id, reason] of FINDINGS) {
    Validations.of(template.getResource(resource)).acknowledge({ id, reason });
  }
}
