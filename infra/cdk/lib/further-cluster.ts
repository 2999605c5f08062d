// Constructs for infra/cluster.yaml and infra/member.yaml: the two sides of one more cluster for an existing deployment.
// The templates remain the only definition of the resources, as in node-repair.ts.

import * as path from "node:path";
import type { CfnParameter } from "aws-cdk-lib";
import { CfnInclude } from "aws-cdk-lib/cloudformation-include";
import { Construct } from "constructs";
import { explainCluster, explainMember } from "./findings";

export interface FurtherClusterProps {
  /** The name of the EKS cluster. Unique within a deployment. */
  readonly clusterName: string;
  /** The name of the deployment's stack, which must exist. */
  readonly deploymentStack: string;
  /** The cluster's account. Default: the deployment's account. */
  readonly account?: string;
  /** Whether the cluster writes its control-plane audit log to CloudWatch Logs. Default: true. */
  readonly controlPlaneLogs?: boolean;
  /** Whether repair and reconcile read Nodes from the Kubernetes API, for a cluster in the deployment's account. Default: false. */
  readonly clusterAccess?: boolean;
  /** The SNS topic of the cluster's alarms that page. Default: the deployment's. */
  readonly pageTopicArn?: string;
  /** The SNS topic of the cluster's alarms that can wait. Default: the deployment's. */
  readonly ticketTopicArn?: string;
  /** The number of repair calls within an hour that raises the alarm RepairsCalled. Default: 3. */
  readonly repairsAnHour?: number;
  /** The number of agents silent within 15 minutes that raises the alarm AgentsSilent. Default: 3. */
  readonly silentAgents?: number;
}

export interface MemberClusterProps {
  /** The name of the EKS cluster. */
  readonly clusterName: string;
  /** The account that nodemend is deployed in. */
  readonly deploymentAccount: string;
  /** The name of the deployment's stack there. */
  readonly deploymentStack: string;
  /** The output `LogDestinationArn` of cluster.yaml; in the deployment's account, its output `IntakeFunction`. */
  readonly logDestinationArn: string;
  /** Whether the cluster writes its control-plane audit log to CloudWatch Logs. Default: true. */
  readonly controlPlaneLogs?: boolean;
  /** Whether repair and reconcile read Nodes from the Kubernetes API, for a cluster in another account. Default: false. */
  readonly clusterAccess?: boolean;
  /** The cluster's OIDC issuer without https://, for IRSA. Default: EKS Pod Identity. */
  readonly oidcProvider?: string;
  /** The agent's namespace. Default: nodemend. */
  readonly agentNamespace?: string;
  /** The agent's service account. Default: nodemend-agent. */
  readonly agentServiceAccount?: string;
  /** Retention of reports, in days. Default: 30. */
  readonly retentionDays?: number;
  /** The SNS topic of the alarms about the delivery of logs and events. Default: the stack creates one. */
  readonly ticketTopicArn?: string;
  /** The email address that is subscribed to the topic that the stack creates. Default: none. */
  readonly alarmEmail?: string;
}

/** The resources in the deployment's account for one more cluster. */
export class FurtherCluster extends Construct {
  readonly template: CfnInclude;

  constructor(scope: Construct, id: string, props: FurtherClusterProps) {
    super(scope, id);
    this.template = include(this, "cluster.yaml", {
      ClusterName: props.clusterName,
      DeploymentStack: props.deploymentStack,
      Account: props.account,
      ControlPlaneLogs: enabled(props.controlPlaneLogs),
      ClusterAccess: enabled(props.clusterAccess),
      PageTopicArn: props.pageTopicArn,
      TicketTopicArn: props.ticketTopicArn,
      RepairsAnHour: props.repairsAnHour,
      SilentAgents: props.silentAgents,
    });
    explainCluster(this.template);
  }
}

/** The resources in the cluster's account. */
export class MemberCluster extends Construct {
  readonly template: CfnInclude;

  constructor(scope: Construct, id: string, props: MemberClusterProps) {
    super(scope, id);
    this.template = include(this, "member.yaml", {
      ClusterName: props.clusterName,
      DeploymentAccount: props.deploymentAccount,
      DeploymentStack: props.deploymentStack,
      LogDestinationArn: props.logDestinationArn,
      ControlPlaneLogs: enabled(props.controlPlaneLogs),
      ClusterAccess: enabled(props.clusterAccess),
      OidcProvider: props.oidcProvider,
      AgentNamespace: props.agentNamespace,
      AgentServiceAccount: props.agentServiceAccount,
      RetentionDays: props.retentionDays,
      TicketTopicArn: props.ticketTopicArn,
      AlarmEmail: props.alarmEmail,
    });
    explainMember(this.template);
  }
}

function include(scope: Construct, file: string, parameters: Record<string, string | number | undefined>): CfnInclude {
  const templateFile = path.join(__dirname, "..", "..", file);
  const template = new CfnInclude(scope, "Template", { templateFile, preserveLogicalIds: true });
  for (const [name, value] of Object.entries(parameters)) {
    const parameter: CfnParameter = template.getParameter(name);
    if (value !== undefined) {
      parameter.default = value;
    }
  }
  return template;
}

function enabled(value: boolean | undefined): string | undefined {
  return value === undefined ? undefined : value ? "enabled" : "disabled";
}
