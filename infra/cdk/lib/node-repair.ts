// A construct for infra/template.yaml. The template remains the only definition of the resources. Only the names of its
// parameters are repeated here, and a test compares them.

import * as path from "node:path";
import { CfnOutput, type CfnParameter } from "aws-cdk-lib";
import { CfnInclude } from "aws-cdk-lib/cloudformation-include";
import { Asset } from "aws-cdk-lib/aws-s3-assets";
import type { CfnFunction } from "aws-cdk-lib/aws-sam";
import { Construct } from "constructs";
import { explain } from "./findings";

export interface NodeRepairProps {
  /** The name of the EKS cluster. */
  readonly clusterName: string;
  /** The output directory of `cargo lambda build --release --arm64`. Default: target/lambda. */
  readonly functions?: string;
  /** The functions' architecture. Default: arm64. */
  readonly architecture?: "arm64" | "x86_64";
  /** Whether to read the control-plane audit log; the cluster must write it. Default: true. */
  readonly controlPlaneLogs?: boolean;
  /** Whether repair and reconcile read Nodes from the cluster's Kubernetes API. Default: false. */
  readonly clusterAccess?: boolean;
  /** The cluster's OIDC issuer without https://, for IRSA. Default: EKS Pod Identity. */
  readonly oidcProvider?: string;
  /** The agent's namespace. Default: nodemend. */
  readonly agentNamespace?: string;
  /** The agent's service account. Default: nodemend-agent. */
  readonly agentServiceAccount?: string;
  /** Whether to reserve two concurrent executions for the repair function, and to limit it to two. Default: true. */
  readonly reserveConcurrency?: boolean;
  /** Retention of reports and function logs, in days. Default: 30. */
  readonly retentionDays?: number;
  /** Subnets for the functions that call the Kubernetes API, for a cluster with a private endpoint. Default: no VPC. */
  readonly vpcSubnetIds?: string[];
  /** The security groups of these functions. Needed with vpcSubnetIds. */
  readonly vpcSecurityGroupIds?: string[];
  /** The name of the termination lifecycle hook that nodes are drained for. Default: nodemend-drain. */
  readonly drainHook?: string;
  /** The maximum time to drain a node, in minutes. Default: 10. */
  readonly drainMinutes?: number;
  /** The EventBridge bus that repair events are published to; empty, none. Default: the account's default bus. */
  readonly eventBus?: string;
  /** The SNS topic of the alarms that somebody must look at now. Default: the stack creates one. */
  readonly pageTopicArn?: string;
  /** The SNS topic of the alarms that can wait until the next working day. Default: the stack creates one. */
  readonly ticketTopicArn?: string;
  /** The email address that is subscribed to the topics that the stack creates. Default: none. */
  readonly alarmEmail?: string;
  /** The number of repair calls within an hour that raises the alarm RepairsCalled. Default: 3. */
  readonly repairsAnHour?: number;
  /** The number of agents silent within 15 minutes that raises the alarm AgentsSilent. Default: 3. */
  readonly silentAgents?: number;
}

const TEMPLATE = path.join(__dirname, "..", "..", "template.yaml");
const FUNCTIONS = {
  IntakeFunction: "nodemend-intake",
  RepairFunction: "nodemend-repair",
  ReconcileFunction: "nodemend-reconcile",
  ConfirmFunction: "nodemend-confirm",
  DrainFunction: "nodemend-drain",
};

/** nodemend for one cluster. It makes no calls until a policy sets `mode: repair`. A stack holds one. */
export class NodeRepair extends Construct {
  /** The included template: gives access to every resource, parameter and output. */
  readonly template: CfnInclude;

  constructor(scope: Construct, id: string, props: NodeRepairProps) {
    super(scope, id);
    // SAM's Globals refer to resources and parameters, and CDK does not rewrite them: all keep their logical IDs.
    this.template = new CfnInclude(this, "Template", { templateFile: TEMPLATE, preserveLogicalIds: true });
    this.set("ClusterName", props.clusterName);
    this.set("Architecture", props.architecture);
    this.set("ControlPlaneLogs", enabled(props.controlPlaneLogs));
    this.set("ClusterAccess", enabled(props.clusterAccess));
    this.set("OidcProvider", props.oidcProvider);
    this.set("AgentNamespace", props.agentNamespace);
    this.set("AgentServiceAccount", props.agentServiceAccount);
    this.set("ReserveConcurrency", enabled(props.reserveConcurrency));
    this.set("RetentionDays", props.retentionDays);
    this.set("VpcSubnetIds", props.vpcSubnetIds?.join(","));
    this.set("VpcSecurityGroupIds", props.vpcSecurityGroupIds?.join(","));
    this.set("DrainHook", props.drainHook);
    this.set("DrainMinutes", props.drainMinutes);
    this.set("EventBus", props.eventBus);
    this.set("PageTopicArn", props.pageTopicArn);
    this.set("TicketTopicArn", props.ticketTopicArn);
    this.set("AlarmEmail", props.alarmEmail);
    this.set("RepairsAnHour", props.repairsAnHour);
    this.set("SilentAgents", props.silentAgents);
    const functions = props.functions ?? path.join(__dirname, "..", "..", "..", "target", "lambda");
    for (const [resource, binary] of Object.entries(FUNCTIONS)) {
      const code = new Asset(this, binary, { path: path.join(functions, binary) });
      const fn = this.template.getResource(resource) as CfnFunction;
      fn.codeUri = { bucket: code.s3BucketName, key: code.s3ObjectKey };
    }
    explain(this.template);
  }

  /** An output of the template: `StateTable`, `AgentRole`… */
  output(name: string): CfnOutput {
    return this.template.getOutput(name);
  }

  private set(name: string, value: string | number | undefined): void {
    const parameter: CfnParameter = this.template.getParameter(name);
    if (value !== undefined) {
      parameter.default = value;
    }
  }
}

function enabled(value: boolean | undefined): string | undefined {
  return value === undefined ? undefined : value ? "enabled" : "disabled";
}
