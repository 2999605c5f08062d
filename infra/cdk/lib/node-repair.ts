// Turns infra/template.yaml into a construct. The template stays the one truth: nothing of it is said again here but the
// names of its parameters, and those are held to it by a test.

import * as path from "node:path";
import { CfnOutput, type CfnParameter } from "aws-cdk-lib";
import { CfnInclude } from "aws-cdk-lib/cloudformation-include";
import { Asset } from "aws-cdk-lib/aws-s3-assets";
import type { CfnFunction } from "aws-cdk-lib/aws-sam";
import { Construct } from "constructs";
import { explain } from "./findings";

export interface NodeRepairProps {
  /** The EKS cluster's name. */
  readonly clusterName: string;
  /** Where `cargo lambda build --release --arm64` left the functions: a folder for each. Default: target/lambda. */
  readonly functions?: string;
  /** What they were built for. Default: arm64. */
  readonly architecture?: "arm64" | "x86_64";
  /** Whether to read the control plane's audit log, which the cluster must write then. Default: true. */
  readonly controlPlaneLogs?: boolean;
  /** The cluster's OIDC issuer without https://, for IRSA. Default: EKS Pod Identity. */
  readonly oidcProvider?: string;
  /** The agents' namespace. */
  readonly agentNamespace?: string;
  /** The agents' service account. */
  readonly agentServiceAccount?: string;
  /** Whether to keep two executions for the sweep, and to allow it no third. Default: true. */
  readonly reserveConcurrency?: boolean;
  /** How long reports and the functions' logs are kept. */
  readonly retentionDays?: number;
  /** The name of the lifecycle hooks by which nodes are drained. Default: nodemend-drain. */
  readonly drainHook?: string;
  /** For so many minutes at most a node is drained. */
  readonly drainMinutes?: number;
  /** The EventBridge bus that is told what happens; empty means none. Default: the account's own bus. */
  readonly eventBus?: string;
  /** Who is told of alarms. */
  readonly alarmEmail?: string;
  /** So many calls within an hour ring an alarm. */
  readonly repairsAnHour?: number;
  /** So many agents that fall silent at once ring an alarm. */
  readonly silentAgents?: number;
}

const TEMPLATE = path.join(__dirname, "..", "..", "template.yaml");
const FUNCTIONS = {
  IntakeFunction: "nodemend-intake",
  RepairFunction: "nodemend-repair",
  AuditFunction: "nodemend-audit",
  DrainFunction: "nodemend-drain",
};

/** nodemend for one cluster. It watches from the first; it acts once a policy says so. A stack holds one. */
export class NodeRepair extends Construct {
  /** The template, for whatever else of it is wanted. */
  readonly template: CfnInclude;

  constructor(scope: Construct, id: string, props: NodeRepairProps) {
    super(scope, id);
    // SAM's Globals name resources and parameters, and CDK reads them not: all keep their names.
    this.template = new CfnInclude(this, "Template", { templateFile: TEMPLATE, preserveLogicalIds: true });
    this.set("ClusterName", props.clusterName);
    this.set("Architecture", props.architecture);
    this.set("ControlPlaneLogs", enabled(props.controlPlaneLogs));
    this.set("OidcProvider", props.oidcProvider);
    this.set("AgentNamespace", props.agentNamespace);
    this.set("AgentServiceAccount", props.agentServiceAccount);
    this.set("ReserveConcurrency", enabled(props.reserveConcurrency));
    this.set("RetentionDays", props.retentionDays);
    this.set("DrainHook", props.drainHook);
    this.set("DrainMinutes", props.drainMinutes);
    this.set("EventBus", props.eventBus);
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
